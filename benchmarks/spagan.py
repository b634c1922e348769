"""SPAGAN beside graph attention from the same seeds, on Cora and on the Debian graph.

Run: python -m benchmarks.spagan [--rows cora cora-max debian] [--seeds 20] [--at-once 2]

Assumptions: the first stage of a run is a graph attention network, trained until it learns no more, and later stages
begin with its weights; so a run gives a pair: what the first stage came to, and what the last did. Their difference is
of one seed, and its confidence interval is Student's. Runs of one thread each; several at once do not change what they
learn, but their seconds. Rows that are there are not measured again. Cora's file is $SHARDYARD_CORA.
"""

import argparse
import concurrent.futures
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.engine.run import Run
from framework.models.spagan import SPAGAN
from framework.workloads.nodes import NodeClassification
from framework.workloads.paths import PathSearch
from launch.recipes.nodes import spagan_cora, spagan_debian

ROWS = harness.ROWS / "spagan.jsonl"
DOCUMENT = harness.DOCUMENTS / "spagan.md"
METRIC = "test_accuracy"


def main() -> None:
    """Run what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    done = {(row["name"], row["seed"]) for row in harness.read(options.out)}
    missing = [(name, seed) for seed in range(options.seeds) for name in options.rows if (name, seed) not in done]
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(max_workers=options.at_once) as pool,
    ):
        for row in pool.map(lambda which: _trained(Path(folder), *which), missing):
            harness.append(options.out, row)
            pairs = ", ".join(f"{stage['metrics'][METRIC]:.4f}" for stage in [*row["stages"], row])
            print(f"{row['name']}, seed {row['seed']}: {pairs} after {row['epochs']} epochs", flush=True)
    render(options.out, options.render)


def _trained(folder: Path, name: str, seed: int) -> harness.Row:
    """One run of one worker."""
    run = RUNS[name]()
    run = dataclasses.replace(run, seed=seed, out=str(folder / f"{name}-{seed}"), store=str(folder / "stores"))
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    (report,) = Cluster().together("framework.engine.train:train", run, prepared, 1)
    environment = harness.environment(seed=seed, run_digest=report["run_digest"], data_digest=report["data_digest"])
    return {
        **environment,
        "name": name,
        **{field: report[field] for field in ("stages", "metrics", "epochs", "seconds")},
    }


def _changed(run: Run, *, model: SPAGAN | None = None, paths: PathSearch | None = None) -> Run:
    assert isinstance(run.workload, NodeClassification)
    changes: dict[str, Any] = {"model": model, "paths": paths}
    given = {field: value for field, value in changes.items() if value is not None}
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, **given))


RUNS: dict[str, Callable[[], Run]] = {
    "cora": spagan_cora,
    "cora-max": lambda: _changed(spagan_cora(), model=SPAGAN(pooling="max", output_elu=True)),
    "cora-edges": lambda: _changed(spagan_cora(), model=SPAGAN(longest=2)),
    "cora-refreshed": lambda: _changed(spagan_cora(), paths=PathSearch(refreshes=3)),
    "debian": lambda: _changed(spagan_debian(), paths=PathSearch(refreshes=2)),
}
"""What is run, by the name of its row."""

_MEANING = {
    "cora": "Cora, as in the paper: mean of a path's nodes, one search",
    "cora-max": "Cora, as in the released code: their maximum, and an ELU over the scores",
    "cora-edges": "Cora, paths of two nodes alone: a second graph attention network",
    "cora-refreshed": "Cora, paths searched three times",
    "debian": "Debian, two searches",
}


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`."""
    body, searches = [], []
    for (name,), rows in harness.grouped(harness.read(rows_path), "name").items():
        first = [100 * row["stages"][0]["metrics"][METRIC] for row in rows]
        last = [100 * row["metrics"][METRIC] for row in rows]
        gains = [after - before for before, after in zip(first, last, strict=True)]
        epoch = statistics.median(row["seconds"]["epoch_median"] for row in rows)
        spreads = [_spread(first), _spread(last), harness.interval(gains)]
        body.append([_MEANING[name], str(len(rows)), *spreads, f"{harness.median(rows, _epochs):.0f}", f"{epoch:.3f}"])
        for number in range(len(rows[0]["stages"])):
            found = [row["stages"][number]["is"] for row in rows if len(row["stages"]) > number]
            share = statistics.median(facts["recomputed"] / facts["centres"] for facts in found)
            seconds = statistics.median(facts["seconds"] for facts in found)
            searches.append(
                [_MEANING[name], str(number + 1), str(found[0]["centres"]), f"{share:.1%}", f"{seconds:.2f}"]
            )
    text = (
        _INTRODUCTION + harness.markdown(_HEADERS, body) + "\n## Searches\n\n" + harness.markdown(_SEARCHED, searches)
    )
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(text)


def _epochs(row: harness.Row) -> float:
    return float(row["epochs"])


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


_HEADERS = ["run", "seeds", "graph attention, %", "SPAGAN, %", "gain (95 %)", "epochs", "s an epoch"]
_SEARCHED = ["run", "search", "centres", "searched again", "s"]
_INTRODUCTION = """# SPAGAN beside graph attention

Rendered by `python -m benchmarks.spagan` from `benchmarks/rows/spagan.jsonl`: test accuracy at the best validation loss
(Debian: accuracy), mean and standard deviation over seeds. *graph attention*: the run's first stage. *SPAGAN*: its last
one. *gain*: the mean difference of pairs of one seed, with its 95 % confidence interval (Student). Cora: Planetoid
split, features over their sum, 8 heads of 8, dropout 0.6, Adam at 0.005 with weight decay 0.0005, a stage of 500 epochs
at least and then until 50 bring no better loss. *searched again*: centres whose paths a changed cost can reach. One
thread, other work on the machine; seconds of a search are those of files and digests, too.

"""


if __name__ == "__main__":
    main()

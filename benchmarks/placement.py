"""How far losses drift apart when only the placement of a run changes: GraphSAGE on the Debian graph.

Run: python -m benchmarks.placement [--epochs 10] [--dtypes float64 float32]

Assumptions: every placement samples the same blocks, so what differs is the order of sums alone. In float64 that stays
below 1e-9; in float32 it is small at first and grows with the epochs, which is what the table shows. Losses do not
depend on how busy the machine is. Rows that are there are not measured again.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

from benchmarks import harness
from framework.engine.run import Run
from framework.workloads.nodes import NodeClassification
from launch.recipes.nodes import sage_debian
from launch.start import start
from partitioners.metis import Metis
from partitioners.random import Random
from partitioners.spinner import Spinner

PLACEMENTS: dict[str, dict[str, Any]] = {
    "1 worker, 1 part": {"workers": 1, "parts": 1, "partitioner": Metis()},
    "1 worker, metis, 4 parts": {"workers": 1, "parts": 4, "partitioner": Metis()},
    "2 workers, metis, 4 parts": {"workers": 2, "parts": 4, "partitioner": Metis()},
    "2 workers, random, 8 parts": {"workers": 2, "parts": 8, "partitioner": Random()},
    "4 workers, spinner, 4 parts": {"workers": 4, "parts": 4, "partitioner": Spinner()},
}
"""What is compared with the first of them."""

ROWS = harness.ROWS / "placement.jsonl"
DOCUMENT = harness.DOCUMENTS / "placement.md"


def main() -> None:
    """Run what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dtypes", nargs="+", choices=["float64", "float32"], default=["float64", "float32"])
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    done = {(row["dtype"], row["name"], row["epochs"]) for row in harness.read(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            for name in PLACEMENTS:
                if (dtype, name, options.epochs) in done:
                    continue
                report = start(_run(Path(folder), dtype, name, options.epochs), lambda event: None)
                environment = harness.environment(
                    seed=0, run_digest=report["run_digest"], data_digest=report["data_digest"]
                )
                of_run = {"dtype": dtype, "name": name, "epochs": options.epochs}
                harness.append(options.out, {**environment, **of_run, "loss": report["loss"]})
                print(f"{dtype}, {name}: {report['loss']}", flush=True)
    render(options.out, options.render)


def _run(folder: Path, dtype: Literal["float32", "float64"], name: str, epochs: int) -> Run:
    run = sage_debian()
    assert isinstance(run.workload, NodeClassification)
    placement = dict(PLACEMENTS[name])
    workers = placement.pop("workers")
    return dataclasses.replace(
        run,
        workload=dataclasses.replace(run.workload, **placement),
        workers=workers,
        dtype=dtype,
        epochs=epochs,
        out=str(folder / f"{dtype}-{name}".replace(" ", "")),
        store=str(folder / "stores"),
    )


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`: the largest relative difference of the loss of an epoch."""
    body = []
    for (dtype, epochs), rows in harness.grouped(harness.read(rows_path), "dtype", "epochs").items():
        losses = {row["name"]: row["loss"] for row in rows}
        first = losses.get(next(iter(PLACEMENTS)))
        if first is None:
            continue
        for name, other in losses.items():
            drift = [abs(a - b) / abs(b) for a, b in zip(other, first, strict=True)]
            if other is not first:
                body.append([name, dtype, f"{drift[0]:.1e}", f"{max(drift):.1e}", str(epochs)])
    headers = ("placement", "numbers", "first epoch", "worst epoch", "epochs")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(headers, body))


_INTRODUCTION = """# What placement does to the loss

Rendered by `python -m benchmarks.placement` from `benchmarks/rows/placement.jsonl`: the recipe `sage-debian`, dropout
on, over epochs of sampled training; the largest relative difference between the loss of an epoch and that of the same
run on one worker and one part. All placements sample the same blocks; what differs is the order in which numbers are
summed.

"""


if __name__ == "__main__":
    main()

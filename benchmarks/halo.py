"""Every halo strategy with 4 workers: accuracy, bytes, and epoch times on loopback and between hosts.

Run: python -m benchmarks.halo [--graphs debian planted] [--seeds 5] [--networks loopback 1gbit 100mbit]

Assumptions: accuracy and bytes do not depend on the network, so they are taken once a seed on loopback; epoch times are
taken apart, in short runs in which all strategies take turns, round by round. Between hosts, each worker has one of its
own (benchmarks/workers.py). Rows that are there are not measured again: what was stopped goes on.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.data.debian import Debian
from framework.data.generators import PRESETS
from framework.engine.optimize import Adam
from framework.engine.run import Event, Run, Worker
from framework.engine.train import train
from framework.models.nodes import GCN
from framework.registry import GRADIENTS, HALOS, PARTITIONERS
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification

ROWS = harness.ROWS / "halo.jsonl"
DOCUMENT = harness.DOCUMENTS / "halo.md"
WORKERS, LAYERS, HIDDEN = 4, 3, 128
WARM_UP, TIMED = 2, 6  # epochs of a run whose time is taken
TOLERATED = 0.5  # points of accuracy that a strategy may lie below exact without a mark
NEAR = 0.99  # the share of exact's accuracy that a strategy has to come to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A line of the table."""

    halo: str = "exact"
    """Name of the halo strategy."""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its settings; a name of another strategy under `inner` is made one."""
    partitioner: str = "metis"
    """Who places the graph."""
    gradient: str = "all-reduce"
    """Name of the gradient strategy."""
    gradient_fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its settings."""


CANDIDATES = {
    "exact": Candidate(),
    "boundary-sampled 0.1": Candidate(halo="boundary-sampled", fields={"p": 0.1}),
    "pipelined": Candidate(halo="pipelined"),
    "bounded, 4 epochs": Candidate(halo="bounded", fields={"bound": "epochs", "gap": 4}),
    "quantized 8": Candidate(halo="quantized", fields={"bits": 8}),
    "quantized 4": Candidate(halo="quantized", fields={"bits": 4}),
    "quantized 1, feedback": Candidate(halo="quantized", fields={"bits": 1, "error_feedback": True}),
    "quantized auto": Candidate(halo="quantized", fields={"bits": "auto"}),
    "quantized 8, pipelined": Candidate(halo="quantized", fields={"bits": 8, "inner": "pipelined"}),
    "quantized 4, pipelined": Candidate(halo="quantized", fields={"bits": 4, "inner": "pipelined"}),
    "variable-rate": Candidate(halo="variable-rate", fields={"epochs": 30}),
    "rematerialized": Candidate(halo="rematerialized"),
    "hierarchical": Candidate(halo="hierarchical"),
    "never": Candidate(halo="never"),
    "corrected": Candidate(halo="corrected", gradient="corrected"),
    "planned": Candidate(halo="planned"),
    "exact, hdrf": Candidate(partitioner="hdrf"),
    "delayed 5, hdrf": Candidate(halo="delayed", fields={"r": 5}, partitioner="hdrf"),
    "never, hdrf": Candidate(halo="never", partitioner="hdrf"),
}
"""What the table compares, by the name of its row."""

GRAPHS: dict[str, tuple[Any, int]] = {"debian": (Debian(columns=128), 150), "planted": (PRESETS["planted"], 30)}
"""The data and the epochs of a run whose accuracy is taken."""


def main() -> None:
    """Measure what is missing, then render table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="+", choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each whose accuracy is taken")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each whose time is taken, on every network")
    parser.add_argument("--networks", nargs="*", default=["loopback", "1gbit", "100mbit"])
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables; their plot is beside them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for graph in options.graphs:
            for name in options.only:
                where = {"kind": "accuracy", "graph": graph, "name": name, "network": "loopback"}
                _measure(
                    [{**where, "seed": seed} for seed in range(options.seeds)], Cluster(), Path(folder), options.out
                )
            for network in options.networks:
                where = {"kind": "time", "graph": graph, "network": network}
                with _cluster(network) as cluster:
                    for repeat in range(options.rounds):
                        first = repeat * len(options.only) // options.rounds  # nobody is always the first to run
                        names = [*options.only[first:], *options.only[:first]]
                        rows = [{**where, "name": name, "seed": repeat} for name in names]
                        _measure(rows, cluster, Path(folder), options.out)
    render(options.out, options.render)


def _measure(rows: Sequence[harness.Row], cluster: Cluster, folder: Path, out: Path) -> None:
    """The runs of all rows that are not there, by the same processes."""
    known = harness.read(out)
    missing = [row for row in rows if not any(row.items() <= measured.items() for measured in known)]
    if not missing:
        return
    runs = [_run(row, folder) for row in missing]
    prepared = [(run, run.workload.prepare(Path(run.store), map, lambda event: None)) for run in runs]
    reports = cluster.in_turn("benchmarks.halo:watched", prepared, WORKERS)
    for row, (report, *_) in zip(missing, reports, strict=True):
        digests = {"run_digest": report["run_digest"], "data_digest": report["data_digest"]}
        environment = harness.environment(seed=row["seed"], **digests)
        harness.append(out, {**environment, **row, **{field: report[field] for field in _KEPT}})
        print(f"{row}: {report['metrics']} {report['seconds']['epoch_median']:.3f} s", flush=True)


_KEPT = ("epochs", "metrics", "curve", "bytes", "bytes_by_lane", "epoch_seconds", "busy_by_epoch")


def _run(row: harness.Row, folder: Path) -> Run:
    candidate, (data, epochs), timed = CANDIDATES[row["name"]], GRAPHS[row["graph"]], row["kind"] == "time"
    workload = NodeClassification(
        data=data,
        model=GCN(hidden=HIDDEN, dropout=0.5),
        sampler=Full(layers=LAYERS),
        batch_size=0,
        halo=_halo(candidate.halo, candidate.fields),
        partitioner=PARTITIONERS.get(candidate.partitioner)(),
        parts=WORKERS,
        reach="owned",
    )
    last = TIMED if timed else epochs
    return Run(
        workload=workload,
        workers=WORKERS,
        seed=row["seed"],
        epochs=last,
        evaluate_every=0 if timed else 5,
        save_every=last,
        optimizer=Adam(lr=0.01),
        gradient=GRADIENTS.get(candidate.gradient)(**candidate.gradient_fields),
        out=str(folder / "-".join(map(str, row.values())).replace(" ", "")),
        store=str(folder / "stores"),
    )


def _halo(name: str, fields: dict[str, Any]) -> Any:
    made = {field: _halo(value, {}) if field == "inner" else value for field, value in fields.items()}
    return HALOS.get(name)(**made)


@contextlib.contextmanager
def _cluster(network: str) -> Iterator[Cluster]:
    """The workers' hosts for the time of the `with`: this one, or one for each, linked at the rate `network`."""
    if network == "loopback":
        yield Cluster()
        return
    with Cluster.of(WORKERS, network) as hosts:
        yield hosts


def watched(run: Run, worker: Worker) -> dict[str, Any]:
    """The report of a run, with what every epoch said; a main."""
    epochs: list[Event] = []

    def watch(event: Event) -> None:
        if event["event"] == "epoch":
            epochs.append(event)

    report = train(run, dataclasses.replace(worker, watch=watch))
    return {
        **report,
        "curve": [[event["epoch"], event["metrics"]["test_accuracy"]] for event in epochs if event["metrics"]],
        "epoch_seconds": [event["seconds"] for event in epochs],
        "busy_by_epoch": [event["busy"] for event in epochs],
    }


# --- Tables ----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`, and their plot."""
    rows = harness.read(rows_path)
    text = [_INTRODUCTION]
    for (graph,), of_graph in harness.grouped(rows, "graph").items():
        accuracy = harness.grouped([row for row in of_graph if row["kind"] == "accuracy"], "name")
        measured = harness.grouped(of_graph, "name")
        times = harness.grouped([row for row in of_graph if row["kind"] == "time"], "name", "network")
        networks = sorted({row["network"] for row in of_graph if row["kind"] == "time"}, key=_NETWORKS.index)
        body = [_cells(name, measured, accuracy, times, networks) for name in CANDIDATES if (name,) in measured]
        headers = ["strategy", "accuracy", "seeds", "points over exact", "forward MB", "backward MB", "fewer bytes"]
        for network in networks:
            columns = ("s an epoch", "waiting", "of exact's waiting saved", f"s to {NEAR:.0%}")
            headers += [f"{column}, {network}" for column in columns]
        text.append(f"## {graph}\n\n{harness.markdown(headers, body)}")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("\n".join(text))
    _plot([row for row in rows if row["kind"] == "accuracy"], document.with_suffix(".svg"))


def _plot(rows: list[harness.Row], path: Path) -> None:
    """Points of accuracy over exact, and megabytes an epoch: a line a strategy, a row of panels a graph."""
    from matplotlib.figure import Figure

    graphs = harness.grouped(rows, "graph")
    figure = Figure(figsize=(9, 4.5 * max(1, len(graphs))), layout="constrained")
    panels = figure.subplots(max(1, len(graphs)), 2, sharey="row", squeeze=False)
    for (accuracy, sent), ((graph,), of_graph) in zip(panels, graphs.items(), strict=False):
        runs = harness.grouped(of_graph, "name")
        names = [name for name in CANDIDATES if (name,) in runs]
        for place, name in enumerate(names):
            points = _points_over(runs[(name,)], runs.get(("exact",), []))
            accuracy.plot(points, [place] * len(points), "o", color="C0", alpha=0.5)
            megabytes = sum(_median_megabytes(runs[(name,)]))
            sent.barh(place, megabytes, color="C1")
        accuracy.axvspan(-TOLERATED, TOLERATED, color="C2", alpha=0.2)
        accuracy.set_xscale("symlog", linthresh=2)
        accuracy.set_yticks(range(len(names)), names)
        accuracy.invert_yaxis()
        accuracy.set(title=f"{graph}: points over exact, a dot a seed")
        sent.set(title=f"{graph}: MB an epoch")
    figure.savefig(path, metadata={"Date": None})


_NETWORKS = ["loopback", "1gbit", "100mbit"]
Groups = dict[tuple[Any, ...], list[harness.Row]]


def _cells(name: str, measured: Groups, accuracy: Groups, times: Groups, networks: list[str]) -> list[str]:
    rows, exact = accuracy.get((name,), []), accuracy.get(("exact",), [])
    found = [row["metrics"]["test_accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    # Bytes are of the runs whose accuracy stands beside them: a timed run is shorter, and some send less at first.
    forward, backward = _median_megabytes(rows or measured[(name,)])
    whole = sum(_median_megabytes(exact or measured[("exact",)]))
    fewer = f"{whole / (forward + backward):.1f}x" if forward + backward else "all"
    mean = f"{statistics.mean(found):.4f}{spread}" if found else ""
    cells = [name, mean, str(len(found)), _over(rows, exact), f"{forward:.2f}", f"{backward:.2f}", fewer]
    epochs = None
    comparable = len(rows) == len(exact) and name != "variable-rate"  # whose epochs take longer and longer
    if rows and exact and comparable:
        epochs = _epochs_to(rows, NEAR * statistics.mean(row["metrics"]["test_accuracy"] for row in exact))
    for network in networks:
        timed = times.get((name, network))
        if not timed:
            cells += ["", "", "", ""]
            continue
        epoch, reference = _epoch(timed), times[("exact", network)]
        saved = (_epoch(reference) - epoch) / _waiting(reference)
        reached = f"{epochs * epoch:.0f}" if epochs is not None else "never" if rows and comparable else ""
        cells += [f"{epoch:.2f}", f"{_waiting(timed):.2f}", f"{saved:.0%}", reached]
    return cells


def _over(rows: list[harness.Row], exact: list[harness.Row]) -> str:
    """Points of accuracy over exact's: their mean and its confidence interval."""
    points = _points_over(rows, exact)
    if not points or rows is exact:
        return ""
    below = f" **below by more than {TOLERATED}**" if statistics.mean(points) < -TOLERATED else ""
    return harness.interval(points) + below


def _points_over(rows: list[harness.Row], exact: list[harness.Row]) -> list[float]:
    """Points of accuracy over exact's with the same seed, seed by seed."""
    reference = {row["seed"]: row["metrics"]["test_accuracy"] for row in exact}
    paired = [row for row in rows if row["seed"] in reference]
    return [100 * (row["metrics"]["test_accuracy"] - reference[row["seed"]]) for row in paired]


def _median_megabytes(rows: list[harness.Row]) -> tuple[float, float]:
    """Megabytes that all workers sent an epoch, forward and backward: medians over runs."""
    forward, backward = ([_megabytes(row, way) for row in rows] for way in ("forward", "backward"))
    return statistics.median(forward), statistics.median(backward)


def _megabytes(row: harness.Row, way: str) -> float:
    """Megabytes that all workers sent an epoch in one direction of the halo."""
    sent = sum(payload for lane, payload in row["bytes_by_lane"].items() if lane.startswith("halo/") and way in lane)
    return float(sent / row["epochs"] / 1e6)


def _epoch(rows: list[harness.Row]) -> float:
    """Seconds of an epoch: a run's mean, for some strategies send much in one of several; the median over runs."""
    means: list[float] = [statistics.mean(row["epoch_seconds"][WARM_UP:]) for row in rows]
    return statistics.median(means)


def _waiting(rows: list[harness.Row]) -> float:
    """Seconds an epoch that the first worker waited for rows of others: as `_epoch`."""
    waits: list[float] = []
    for row in rows:
        totals = [busy.get("waiting", 0.0) for busy in row["busy_by_epoch"]]
        waits.append((totals[-1] - totals[WARM_UP - 1]) / (len(totals) - WARM_UP))
    return statistics.median(waits)


def _epochs_to(rows: list[harness.Row], goal: float) -> float | None:
    """Epochs until the accuracy first is `goal`: the mean over runs; None where one never comes to it."""
    firsts = [next((epoch for epoch, value in row["curve"] if value >= goal), None) for row in rows]
    return None if None in firsts else statistics.mean(first for first in firsts if first is not None)


_INTRODUCTION = f"""# Halo strategies with {WORKERS} workers

Rendered by `python -m benchmarks.halo` from `benchmarks/rows/halo.jsonl`: full-graph training of a GCN of {LAYERS}
layers, {HIDDEN} wide, dropout 0.5, Adam, float32, on {WORKERS} workers of one thread (a machine with 2 cores); METIS in
{WORKERS} parts, or the vertex-cut named.

*accuracy*: of the test nodes after the same number of epochs, mean and standard deviation over seeds. *points over
exact*: the mean difference to exact with the same seed, with its 95 % confidence interval (Student). What computes the
same as exact (rematerialized, hierarchical, planned, exact on hdrf) differs by the order of its sums alone: one seed
shows it. *forward, backward MB*: what all workers send of hidden layers an epoch. *fewer bytes*: than exact on METIS.
*waiting*: seconds an epoch that the first worker waits for others' rows of the halo; rows that nobody waits for can
still keep gradients waiting behind them. *of exact's waiting saved*: by how much an epoch is shorter than exact's, over
exact's waiting; late rows save no more than the computing that they fly behind takes. *s to {NEAR:.0%}*: seconds of
training until the accuracy is {NEAR:.0%} of exact's, from epochs and the time of one, where there are as many seeds;
*never*: for one seed at least. *1gbit, 100mbit*: a host for every worker, linked at that rate.

Times are means over the four epochs of a run after its first two, medians over runs (of planted: one run). A strategy
that sends all in one epoch of five has that one among the four or not, so its time is rough; variable-rate sends least
in its first epochs. Most times are of 7beea96, before exact training sent rows while it computes (docs/benchmarks/
overlap.md), and those of delayed, and on planted at 100mbit of rematerialized, hierarchical, planned and hdrf, of later
code: compare times within a few percent no further.

The green band is half a point.

![Points of accuracy over exact, and megabytes an epoch](halo.svg)
"""


if __name__ == "__main__":
    main()

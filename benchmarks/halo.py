"""Every halo strategy with 4 workers: accuracy, bytes, and epoch times on loopback and between hosts.

Run: python -m benchmarks.halo [--graphs debian planted] [--seeds 5] [--networks loopback 1gbit 100mbit]

Assumptions: accuracy and bytes do not depend on the network, so they are taken once a seed on loopback; epoch times are
taken apart, in short runs in which all strategies take turns, round by round. Hosts are network namespaces made by
`netns_cluster.sh` (the folder that SHARDYARD_NETNS names, or `shared/netns` beside the repository), one worker each, on
one thread. Rows that are there are not measured again: what was stopped goes on.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from framework.data.debian import Debian
from framework.data.generators import PRESETS
from framework.engine.optimize import Adam
from framework.engine.run import Prepared, Run
from framework.engine.train import train
from framework.models.nodes import GCN
from framework.registry import GRADIENTS, HALOS, PARTITIONERS
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification
from launch.worker import Job

ROWS = harness.ROWS / "halo.jsonl"
DOCUMENT = harness.DOCUMENTS / "halo.md"
PLOT = harness.DOCUMENTS / "halo.svg"
ROOT = Path(__file__).parents[1]
SCRIPT = Path(os.environ.get("SHARDYARD_NETNS", ROOT.parent / "shared" / "netns")) / "netns_cluster.sh"
NETWORK = "10.78.4"
WORKERS, LAYERS, HIDDEN = 4, 3, 128
WARM_UP, TIMED = 2, 6  # epochs of a run whose time is taken
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

GRAPHS: dict[str, tuple[Any, int]] = {"debian": (Debian(columns=128), 60), "planted": (PRESETS["planted"], 40)}
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
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(json.loads(options.worker))
        return
    with tempfile.TemporaryDirectory() as folder:
        for graph in options.graphs:
            for seed in range(options.seeds):
                for name in options.only:
                    _measure("accuracy", graph, name, seed, "loopback", Path(folder), options.out)
            for network in options.networks:
                with _hosts(network):
                    for repeat in range(options.rounds):
                        for name in options.only:
                            _measure("time", graph, name, repeat, network, Path(folder), options.out)
    render(options.out, options.render)


def _measure(kind: str, graph: str, name: str, seed: int, network: str, folder: Path, out: Path) -> None:
    """One run, unless its row is there."""
    row = {"kind": kind, "graph": graph, "name": name, "network": network, "seed": seed}
    if any(all(known[field] == value for field, value in row.items()) for known in harness.read(out)):
        return
    data, epochs = GRAPHS[graph]
    timed = kind == "time"
    run = _run(CANDIDATES[name], data, folder / f"{kind}-{graph}-{name}-{network}-{seed}".replace(" ", ""), seed)
    run = dataclasses.replace(run, epochs=TIMED if timed else epochs, evaluate_every=0 if timed else 5, save_every=1000)
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    report = _together(run, prepared, network)
    environment = harness.environment(seed=seed, run_digest=report["run_digest"], data_digest=report["data_digest"])
    harness.append(out, {**environment, **row, **_of_report(report)})
    print(f"{row}: {report['metrics']} {report['seconds']['epoch_median']:.3f} s", flush=True)


def _of_report(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "epochs": report["epochs"],
        "metrics": report["metrics"],
        "curve": report["curve"],
        "bytes": report["bytes"],
        "bytes_by_lane": report["bytes_by_lane"],
        "epoch_seconds": report["epoch_seconds"],
        "busy": report["busy"],
    }


def _run(candidate: Candidate, data: Any, out: Path, seed: int) -> Run:
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
    return Run(
        workload=workload,
        workers=WORKERS,
        seed=seed,
        optimizer=Adam(lr=0.01),
        gradient=GRADIENTS.get(candidate.gradient)(**candidate.gradient_fields),
        out=str(out),
        store=str(out.parent / "stores"),
    )


def _halo(name: str, fields: dict[str, Any]) -> Any:
    made = {field: _halo(value, {}) if field == "inner" else value for field, value in fields.items()}
    return HALOS.get(name)(**made)


# --- Workers, on this host or in network namespaces -------------------------------------------------------------------


@contextlib.contextmanager
def _hosts(network: str) -> Iterator[None]:
    """Makes the hosts of a network for the time of the `with`; loopback needs none."""
    if network == "loopback":
        yield
        return
    _script("up", str(WORKERS), network)
    try:
        yield
    finally:
        _script("down")


def _script(*words: str) -> None:
    subprocess.run(["bash", str(SCRIPT), *words], env=_environment(), check=True, stdout=subprocess.DEVNULL)


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "RT_PREFIX": "shardyardbench",
        "RT_NET": NETWORK,
        "GLOO_SOCKET_IFNAME": "",
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }


def _together(run: Run, prepared: Prepared, network: str) -> dict[str, Any]:
    """The report of a run on `WORKERS` processes, each on a host of its own unless the network is loopback."""
    address = "127.0.0.1" if network == "loopback" else f"{NETWORK}.1"
    port = _free_port() if network == "loopback" else 29511
    job = dataclasses.asdict(Job.of(train, run, prepared, 1))
    processes = []
    for rank in range(WORKERS):
        request = json.dumps({"job": job, "rank": rank, "rendezvous": f"tcp://{address}:{port}"})
        command = [sys.executable, "-m", "benchmarks.halo", "--worker", request]
        if network != "loopback":
            command = ["bash", str(SCRIPT), "exec", str(rank), *command]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment(), cwd=ROOT))
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a worker failed: {[process.returncode for process in processes]}")
    report: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return report


def _work(request: dict[str, Any]) -> None:
    """One worker; the first prints the report, with what every epoch said."""
    job, epochs = Job(**request["job"]), []

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            epochs.append(event)

    rank = request["rank"]
    report = job.perform(rank=rank, size=WORKERS, rendezvous=request["rendezvous"], local_rank=0, tell=tell)
    if rank == 0:
        report["curve"] = [[event["epoch"], event["metrics"]["test_accuracy"]] for event in epochs if event["metrics"]]
        report["epoch_seconds"] = [event["seconds"] for event in epochs]
        report["busy"] = [event["busy"] for event in epochs]
        print(json.dumps(report))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# --- Tables ----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`, and their plot."""
    rows = harness.read(rows_path)
    text = [_INTRODUCTION]
    for (graph,), of_graph in harness.grouped(rows, "graph").items():
        accuracy = harness.grouped([row for row in of_graph if row["kind"] == "accuracy"], "name")
        times = harness.grouped([row for row in of_graph if row["kind"] == "time"], "name", "network")
        networks = sorted({row["network"] for row in of_graph if row["kind"] == "time"}, key=_NETWORKS.index)
        body = [_cells(name, accuracy, times, networks) for name in CANDIDATES if (name,) in accuracy]
        headers = ["strategy", "accuracy", "seeds", "forward MB", "backward MB", "fewer bytes"]
        for network in networks:
            headers += [f"s an epoch, {network}", f"waiting, {network}", f"s to {NEAR:.0%}, {network}"]
        text.append(f"## {graph}\n\n{harness.markdown(headers, body)}")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("\n".join(text))


_NETWORKS = ["loopback", "1gbit", "100mbit"]
Groups = dict[tuple[Any, ...], list[harness.Row]]


def _cells(name: str, accuracy: Groups, times: Groups, networks: list[str]) -> list[str]:
    rows, exact = accuracy[(name,)], accuracy[("exact",)]
    found = [row["metrics"]["test_accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    forward, backward = (harness.median(rows, lambda row, way=way: _megabytes(row, way)) for way in _WAYS)
    whole = sum(harness.median(exact, lambda row, way=way: _megabytes(row, way)) for way in _WAYS)
    fewer = f"{whole / (forward + backward):.1f}x" if forward + backward else "all"
    cells = [name, f"{statistics.mean(found):.4f}{spread}", str(len(found)), f"{forward:.2f}", f"{backward:.2f}", fewer]
    goal = NEAR * statistics.mean(row["metrics"]["test_accuracy"] for row in exact)
    epochs = _epochs_to(rows, goal)
    for network in networks:
        timed = times.get((name, network))
        if not timed:
            cells += ["", "", ""]
            continue
        epoch = statistics.median(second for row in timed for second in row["epoch_seconds"][WARM_UP:])
        cells += [f"{epoch:.2f}", f"{_waiting(timed):.2f}", "never" if epochs is None else f"{epochs * epoch:.0f}"]
    return cells


_WAYS = ("forward", "backward")


def _megabytes(row: harness.Row, way: str) -> float:
    """Megabytes that all workers sent an epoch in one direction of the halo."""
    sent = sum(payload for lane, payload in row["bytes_by_lane"].items() if lane.startswith("halo/") and way in lane)
    return float(sent / row["epochs"] / 1e6)


def _waiting(rows: list[harness.Row]) -> float:
    """Seconds an epoch that the first worker waited for rows of others: the median over epochs and runs."""
    waits = []
    for row in rows:
        totals = [busy.get("waiting", 0.0) for busy in row["busy"]]
        waits += [after - before for before, after in zip(totals[WARM_UP - 1 :], totals[WARM_UP:], strict=False)]
    return statistics.median(waits)


def _epochs_to(rows: list[harness.Row], goal: float) -> float | None:
    """Epochs until the accuracy first is `goal`: the mean over runs; None where one never comes to it."""
    firsts = [next((epoch for epoch, value in row["curve"] if value >= goal), None) for row in rows]
    return None if None in firsts else statistics.mean(first for first in firsts if first is not None)


_INTRODUCTION = f"""# Halo strategies with {WORKERS} workers

Rendered by `python -m benchmarks.halo` from `benchmarks/rows/halo.jsonl`: full-graph training of a GCN of {LAYERS}
layers, {HIDDEN} wide, dropout 0.5, Adam, float32, on {WORKERS} workers of one thread (a machine with 2 cores); METIS in
{WORKERS} parts, or the vertex-cut named.

*accuracy*: of the test nodes after the same number of epochs, mean and standard deviation over seeds. *forward,
backward MB*: what all workers send of hidden layers an epoch. *fewer bytes*: than exact on METIS. *waiting*: seconds an
epoch that the first worker waits for others' rows. *s to {NEAR:.0%}*: seconds of training until the accuracy is
{NEAR:.0%} of exact's, from epochs and the time of one. *1gbit, 100mbit*: a host for every worker, linked at that rate.
"""


if __name__ == "__main__":
    main()

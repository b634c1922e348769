"""Sampled training beside DistDGL: GraphSAGE on two hosts, epochs of both in turn, at several speeds of the link.

Run: python -m benchmarks.dist_dgl [--graphs planted rmat] [--rates none 1gbit] [--rounds 5]

Assumptions: hosts are network namespaces with a shared memory of their own, linked by an emulated switch; one trainer
with one thread on each. Both have METIS's partition, each as its own program makes it, the same global batches' size,
fanouts, layers and optimiser. DistDGL trains with and without a sampler process beside each trainer. All systems are
there at once; one trains while the others wait for their turn. Bytes are those that the hosts' interfaces sent.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.dist_dgl_process import SETTINGS
from benchmarks.workers import FIRST_PORT, NETWORK, Cluster, answer_of
from framework.comm.cache.analytic import Analytic
from framework.data.dataset import TRAIN, Dataset
from framework.data.generators import PRESETS
from framework.engine.optimize import Adam
from framework.engine.run import Prepared, Run
from framework.engine.train import train
from framework.models.nodes import SAGE
from framework.sample.neighbor import Neighbor
from framework.workloads.nodes import NodeClassification
from launch.worker import Job
from partitioners.metis import Metis

ROWS = harness.ROWS / "dist_dgl.jsonl"
DOCUMENT = harness.DOCUMENTS / "dist_dgl.md"
GRAPHS: dict[str, Dataset] = {"planted": PRESETS["planted"], "rmat": PRESETS["rmat"]}
HOSTS, FANOUTS, HIDDEN, DROPOUT, RATE, BATCH = 2, (10, 25), 256, 0.5, 0.003, 1000
CACHED = 0.1  # of all nodes' rows, on each worker
SAMPLERS = {"DistDGL": 0, "DistDGL, a sampler process each": 1}
OURS = "Shardyard"
WAYS: dict[str, dict[str, Any]] = {
    OURS: {},
    f"{OURS}, edges on both hosts": {"topology_reach": "all"},
    f"{OURS}, the same and a cache": {"topology_reach": "all", "cache": Analytic()},
}
SYSTEMS = (*SAMPLERS, *WAYS)


def main() -> None:
    """Measure what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="*", choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument("--rates", nargs="*", default=["none", "1gbit"], help="of the link, as tc has it")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each system that are timed, after one")
    parser.add_argument("--stores", type=Path, help="where partitioned graphs are kept; else they are made each time")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    done = {(row["graph"], row["rate"]) for row in harness.read(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        stores = (options.stores or Path(folder)).absolute()
        for graph in options.graphs:
            rates = [rate for rate in options.rates if (graph, rate) not in done]
            if rates:
                for row in _measured(graph, rates, options.rounds, stores):
                    harness.append(options.out, row)
    render(options.out, options.render)


def _measured(graph: str, rates: Sequence[str], rounds: int, stores: Path) -> Iterator[harness.Row]:
    """A row for every rate."""
    run = _run(graph, stores)
    prepared = run.workload.prepare(stores, map, lambda event: None)
    config = _dgl_parts(graph, stores / f"distdgl-{graph}")
    environment = harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest)
    with Cluster.of(HOSTS, "none") as cluster, _started(cluster, graph, run, prepared, config) as systems:
        number = 0
        for rate in rates:
            for host in range(HOSTS):
                cluster.set_rate(host, rate)
            seconds: dict[str, list[float]] = {name: [] for name in systems}
            sent: dict[str, list[int]] = {name: [] for name in systems}
            for turn in range(rounds + 1):
                for name, processes in systems.items():
                    told = _epoch(processes, number)
                    if turn:
                        seconds[name].append(max(answer["seconds"] for answer in told))
                        sent[name].append(sum(answer["bytes"] for answer in told))
                number += 1
            print(f"{graph}, {rate}: {seconds} {sent}", flush=True)
            yield {**environment, "graph": graph, "rate": rate, "seconds": seconds, "bytes": sent}


def _epoch(processes: Sequence[Any], number: int) -> list[dict[str, Any]]:
    """One epoch of a system: what each of its processes says of it."""
    for process in processes:
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
    return [answer_of(process) for process in processes]


def _run(graph: str, stores: Path) -> Run:
    workload = NodeClassification(
        data=GRAPHS[graph],
        model=SAGE(hidden=HIDDEN, dropout=DROPOUT),
        sampler=Neighbor(fanouts=FANOUTS),
        batch_size=HOSTS * BATCH,
        partitioner=Metis(),
        parts=HOSTS,
    )
    return Run(workload=workload, workers=HOSTS, optimizer=Adam(lr=RATE), store=str(stores))


@contextlib.contextmanager
def _started(
    cluster: Cluster, graph: str, run: Run, prepared: Prepared, config: Path
) -> Iterator[dict[str, list[Any]]]:
    """The processes of every system that train, ready for the first epoch."""
    assert isinstance(run.workload, NodeClassification)
    raw = GRAPHS[graph].open()
    assert raw.features is not None
    columns, nodes = next(iter(raw.features.batches())).shape[1], raw.edges.num_nodes
    settings = {"columns": columns, "classes": raw.num_classes, "hidden": HIDDEN, "dropout": DROPOUT, "lr": RATE}
    settings |= {"graph": graph, "fanouts": FANOUTS, "batch_size": BATCH, "size": HOSTS}
    cache = Analytic(megabytes=CACHED * nodes * (4 * columns + 8) / 1e6)
    with contextlib.ExitStack() as stack:
        systems: dict[str, list[Any]] = {}
        servers = []
        for place, (name, samplers) in enumerate(SAMPLERS.items()):
            ports = FIRST_PORT + 100 * (place + 1)
            variables = _variables(config, ports, samplers, f"{graph}{place}")
            for host in range(HOSTS):
                role = {**variables, "DGL_ROLE": "server", "DGL_SERVER_ID": str(host), SETTINGS: "{}"}
                servers.append(cluster.start(host, ["benchmarks.dist_dgl_process", "distdgl"], role))
            systems[name] = []
            for host in range(HOSTS):
                own = {**settings, "rank": host, "rendezvous": f"tcp://{NETWORK}.1:{ports + 50}"}
                own["graph"] = f"{graph}{place}"
                role = {**variables, "DGL_ROLE": "client", SETTINGS: json.dumps(own)}
                systems[name].append(cluster.start(host, ["benchmarks.dist_dgl_process", "distdgl"], role))
        for place, (name, fields) in enumerate(WAYS.items()):
            fields = {**fields, "cache": cache} if "cache" in fields else fields
            one = dataclasses.replace(run, workload=dataclasses.replace(run.workload, **fields))
            job = dataclasses.replace(Job.of(train, one, prepared, 1), main="benchmarks.dist_dgl_process:shardyard")
            meet = {
                "job": dataclasses.asdict(job),
                "size": HOSTS,
                "rendezvous": f"tcp://{NETWORK}.1:{FIRST_PORT + place}",
            }
            systems[name] = [
                cluster.start(host, ["benchmarks.dist_dgl_process", "shardyard", json.dumps({**meet, "rank": host})])
                for host in range(HOSTS)
            ]
        for process in [*servers, *(process for processes in systems.values() for process in processes)]:
            stack.callback(process.kill)
        for name, processes in systems.items():
            for process in processes:
                answer_of(process)
            print(f"{name} is ready", flush=True)
        yield systems


def _variables(config: Path, port: int, samplers: int, name: str) -> dict[str, str]:
    """What a system of DistDGL is told: its own ports, and its own name for the graph in the hosts' shared memory."""
    own = config.with_name(f"{name}.json")
    own.write_text(json.dumps({**json.loads(config.read_text()), "graph_name": name}))
    addresses = config.with_name(f"{name}.txt")
    addresses.write_text("".join(f"{NETWORK}.{host + 1} {port}\n" for host in range(HOSTS)))
    return {
        "DGLBACKEND": "pytorch",
        "DGL_DIST_MODE": "distributed",
        "DGL_IP_CONFIG": str(addresses),
        "DGL_CONF_PATH": str(own),
        "DGL_NUM_SERVER": "1",
        "DGL_NUM_CLIENT": str(HOSTS * (1 + samplers)),
        "DGL_NUM_SAMPLER": str(samplers),
        "DGL_GRAPH_FORMAT": "csc",
        "GLOO_SOCKET_IFNAME": "eth0",
    }


def _dgl_parts(graph: str, folder: Path) -> Path:
    """The graph as DistDGL partitions it."""
    config = folder / f"{graph}.json"
    if config.exists():
        return config
    import dgl

    raw = GRAPHS[graph].open()
    assert raw.features is not None
    assert raw.labels is not None
    assert raw.split is not None
    source, target = (torch.from_numpy(np.concatenate(ends)) for ends in zip(*raw.edges, strict=True))
    whole = dgl.graph((source, target), num_nodes=raw.edges.num_nodes)
    whole.ndata["features"] = torch.from_numpy(np.concatenate(list(raw.features.batches())))
    whole.ndata["labels"] = torch.from_numpy(np.asarray(raw.labels)).long()
    whole.ndata["training"] = torch.from_numpy(np.asarray(raw.split) == TRAIN)
    dgl.distributed.partition_graph(
        whole,
        graph,
        HOSTS,
        str(folder),
        part_method="metis",
        balance_ntypes=whole.ndata["training"],
        balance_edges=True,
    )
    return config


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`."""
    body = [_cells(row, name) for row in harness.read(rows_path) for name in SYSTEMS]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(_HEADERS, body))


def _cells(row: harness.Row, name: str) -> list[str]:
    own, all_seconds = row["seconds"][name], row["seconds"]
    better = [min(each) for each in zip(*(all_seconds[other] for other in SAMPLERS), strict=True)]
    faster = [other / mine for other, mine in zip(better, own, strict=True)]
    megabytes = statistics.median(row["bytes"][name]) / 1e6
    spreads = [harness.spread(own), harness.spread(faster)]
    return [name, row["graph"], row["rate"], *spreads, f"{megabytes:.0f}", f"{row['load']:.1f}"]


_HEADERS = ["system", "graph", "link", "seconds", "times as fast as DistDGL", "MB sent", "load"]
_INTRODUCTION = f"""# Sampled training beside DistDGL

Rendered by `python -m benchmarks.dist_dgl` from `benchmarks/rows/dist_dgl.jsonl`.

GraphSAGE, {len(FANOUTS)} layers, {HIDDEN} wide, fanouts {", ".join(map(str, FANOUTS))} from the seeds on, {BATCH:,}
seeds a worker and step, Adam, dropout; two hosts (network namespaces, each with a shared memory of its own), one worker
with one thread on each, METIS's partition. *DistDGL* is DGL 1.1.3, the newest that works with current torch. *seconds*:
of an epoch, of the slower worker. *times as fast*: than the better of DistDGL's two ways, in the same round. *MB sent*:
by both hosts' interfaces in an epoch, gradients and headers among them. *edges on both hosts*: `--topology-reach all`.
The cache: `analytic`, {CACHED:.0%} of all rows. *load*: other work on the machine. Median and quartiles.

"""


if __name__ == "__main__":
    main()

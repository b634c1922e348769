"""Rows of other workers' nodes in sampled training: how many a cache saves, and what time it and drawing ahead save.

Run: python -m benchmarks.remote_rows [--graphs planted rmat debian] [--rounds 7] [--rate 100mbit]

Assumptions: what is counted are draws of training, without a network: rows that a worker asks others for over epochs
whose draws are known beforehand, so that a cache of any size can be counted from one drawing (a test of the caches
counts what is sent). What is timed is the recipe of GraphSAGE on the Debian graph, on two hosts made of network
namespaces, all ways in turn in the same processes. Rows that are there are not measured again.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.sampling import BATCH, FANOUTS, GRAPHS
from benchmarks.workers import Cluster
from framework.comm.cache.analytic import Analytic
from framework.comm.cache.degree import Degree
from framework.comm.cache.policy import Cache, highest
from framework.comm.cache.presampled import Presampled
from framework.engine.run import Run, Worker
from framework.engine.train import first_model
from framework.models.nodes import SAGE
from framework.partition import EdgeCut
from framework.sample.neighbor import Neighbor
from framework.workloads.nodes import NodeClassification, NodeTask
from launch.recipes.nodes import sage_debian
from partitioners.metis import Metis
from partitioners.random import Random

ROWS = harness.ROWS / "remote_rows.jsonl"
DOCUMENT = harness.DOCUMENTS / "remote_rows.md"
PARTITIONERS: dict[str, EdgeCut] = {"metis": Metis(), "random": Random()}
CACHES: dict[str, Cache] = {"degree": Degree(), "analytic": Analytic(), "presampled": Presampled()}
WORKERS, EPOCHS = 4, 5
SHARES = (0.025, 0.05, 0.1, 0.2)
HOSTS, MEGABYTES = 2, 4.0
WAYS: dict[str, dict[str, Any]] = {
    "asked for when needed": {"ahead": 0},
    "one batch ahead": {"ahead": 1},
    "cache": {"ahead": 0, "cache": Analytic(megabytes=MEGABYTES)},
    "both": {"ahead": 1, "cache": Analytic(megabytes=MEGABYTES)},
    "one batch ahead, edges on both hosts": {"ahead": 1, "topology_reach": "all"},
    "all three": {"ahead": 1, "topology_reach": "all", "cache": Analytic(megabytes=MEGABYTES)},
}


def main() -> None:
    """Measure what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="*", choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each way that are timed, after one; 0: none")
    parser.add_argument("--rate", default="100mbit", help="of the link between the hosts, as tc has it")
    parser.add_argument("--stores", type=Path, help="where partitioned graphs are kept; else they are made each time")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    done = {(row["kind"], row["graph"], row["partitioner"]) for row in harness.read(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        stores = options.stores or Path(folder)
        for graph in options.graphs:
            for partitioner in PARTITIONERS:
                if ("counted", graph, partitioner) not in done:
                    harness.append(options.out, _counted(graph, partitioner, stores))
        if options.rounds:
            harness.append(options.out, _timed(stores, options.rounds, options.rate))
    render(options.out, options.render)


def _counted(graph: str, partitioner: str, stores: Path) -> harness.Row:
    """One row of a graph and a partition: rows that workers ask for, and those that each cache has."""
    workload = NodeClassification(
        data=GRAPHS[graph],
        model=SAGE(),
        sampler=Neighbor(fanouts=FANOUTS),
        batch_size=BATCH,
        partitioner=PARTITIONERS[partitioner],
        parts=WORKERS,
        reach="owned",
    )
    run = Run(workload=workload, workers=WORKERS, store=str(stores))
    prepared = workload.prepare(stores, map, lambda event: None)
    found = Cluster().together("benchmarks.remote_rows:counted", run, prepared, WORKERS)
    print(f"{graph}, {partitioner}: {found[0]}", flush=True)
    environment = harness.environment(seed=0, run_digest=run.digest(), data_digest=prepared.data_digest)
    return {**environment, "kind": "counted", "graph": graph, "partitioner": partitioner, "workers": found}


def counted(run: Run, worker: Worker) -> dict[str, Any]:
    """Of this worker: rows asked for in an epoch; those that are in each cache, by its share of the graph's nodes."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    outlook, store = task.outlook(0), task.shards.store
    most = [int(share * store.num_nodes) for share in SHARES]
    chosen, seconds = {}, {}
    for name, cache in CACHES.items():
        worker.group.barrier()
        began = time.perf_counter()
        chosen[name] = cache.choose(outlook, max(most))
        seconds[name] = time.perf_counter() - began
    uses = torch.zeros(store.num_nodes, dtype=torch.int64)
    for epoch in range(EPOCHS):
        for seeds, key in outlook.batches(epoch):
            ids = outlook.sampler.sample(outlook.topology, seeds, key)[0].sources.ids
            uses[ids[outlook.far(ids)]] += 1
    used = torch.nonzero(uses).squeeze(1)
    chosen["best"] = highest(used, uses[used], max(most))
    hits = {name: [_rows(uses, ids[:count]) for count in most] for name, ids in chosen.items()}
    return {"nodes": store.num_nodes, "asked": int(uses.sum()) / EPOCHS, "hits": hits, "seconds": seconds}


def _rows(uses: Tensor, ids: Tensor) -> float:
    return int(uses[ids].sum()) / EPOCHS


def _timed(stores: Path, rounds: int, rate: str) -> harness.Row:
    """One row: epochs of GraphSAGE on two hosts, rows had in every way."""
    run = sage_debian()
    assert isinstance(run.workload, NodeClassification)
    workload = dataclasses.replace(run.workload, parts=HOSTS, reach="owned")
    run = dataclasses.replace(run, workload=workload, workers=HOSTS, epochs=rounds, store=str(stores))
    prepared = workload.prepare(stores, map, lambda event: None)
    with Cluster.of(HOSTS, rate) as cluster:
        found = cluster.together("benchmarks.remote_rows:timed", run, prepared, HOSTS)[0]
    environment = harness.environment(seed=0, run_digest=run.digest(), data_digest=prepared.data_digest)
    return {**environment, "kind": "timed", "graph": "debian", "partitioner": "metis", "rate": rate, **found}


def timed(run: Run, worker: Worker) -> dict[str, Any]:
    """Seconds of epochs of training in every way, in turn; what both workers send of features in one."""
    epochs = {name: epochs_of(run, worker, fields) for name, fields in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    sent: dict[str, int] = {}
    group = worker.group
    for number in range(run.epochs + 1):
        for name, epoch in epochs.items():
            group.barrier()
            before, began = group.snapshot(), time.perf_counter()
            epoch(number)
            taken = max(group.gather_json(time.perf_counter() - began))
            if number:  # a cache is filled in the first
                seconds[name].append(taken)
                sent[name] = sum(group.gather_json(group.since(before).get("features", 0)))
    return {"seconds": seconds, "bytes": sent}


def epochs_of(run: Run, worker: Worker, fields: dict[str, Any]) -> Callable[[int], None]:
    """What trains an epoch, given its number, of a run whose workload has other `fields`."""
    assert isinstance(run.workload, NodeClassification)
    run = dataclasses.replace(run, workload=dataclasses.replace(run.workload, **fields))
    task = run.workload.open(run, worker)
    model = first_model(run, worker, task)
    synchronizer = run.gradient.open(model, run.optimizer.build(model.parameters()), worker.group).__enter__()

    def train(number: int) -> None:
        for batch in task.batches(number, 0):
            synchronizer.module.zero_grad(set_to_none=True)
            task.loss(synchronizer.module, batch).backward()  # type: ignore[no-untyped-call]
            synchronizer.step()

    return train


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`."""
    rows, text = harness.read(rows_path), _INTRODUCTION
    body = [_counted_cells(row, name) for row in rows if row["kind"] == "counted" for name in row["workers"][0]["hits"]]
    if body:
        text += "\n## Rows that a cache saves\n\n" + harness.markdown(_COUNTED, body)
    for row in rows:
        if row["kind"] == "timed":
            text += f"\n## Seconds of an epoch, two hosts linked at {row['rate']}\n\n"
            text += harness.markdown(_TIMED, [_timed_cells(row, name) for name in WAYS])
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(text)


def _counted_cells(row: harness.Row, cache: str) -> list[str]:
    workers = row["workers"]
    asked = sum(worker["asked"] for worker in workers)
    saved = [sum(worker["hits"][cache][place] for worker in workers) / asked for place in range(len(SHARES))]
    chosen = [worker["seconds"].get(cache) for worker in workers]
    seconds = "" if None in chosen else f"{max(chosen):.1f}"
    return [row["graph"], row["partitioner"], f"{asked:,.0f}", cache, *(f"{share:.0%}" for share in saved), seconds]


def _timed_cells(row: harness.Row, name: str) -> list[str]:
    seconds, usual = row["seconds"][name], row["seconds"]["asked for when needed"]
    ratios = [own / other for own, other in zip(seconds, usual, strict=True)]
    return [
        name,
        f"{row['bytes'][name] / 1e6:.1f}",
        harness.spread(seconds),
        harness.spread(ratios),
        f"{row['load']:.1f}",
    ]


_COUNTED = ["graph", "partitioner", "rows asked for", "cache", *(f"{share:.1%}" for share in SHARES), "s to choose"]
_TIMED = ["rows", "MB", "seconds", "of the first", "load"]
_INTRODUCTION = f"""# Rows of other workers' nodes

Rendered by `python -m benchmarks.remote_rows` from `benchmarks/rows/remote_rows.jsonl`.

{WORKERS} workers that read nothing but their own shards; neighbour sampling, fanouts {", ".join(map(str, FANOUTS))},
global batches of {BATCH:,}. *rows asked for*: of other workers, in an epoch, by all of them. Then the share of these
that each cache has, where a worker keeps rows of so many of the graph's nodes, over {EPOCHS} epochs; `presampled` has
drawn the first of these beforehand, and *best* all of them, which no cache can know before the run. *s to choose*: at a
run's start, on a machine with other work.

Epochs are of GraphSAGE on the Debian graph as the recipe has it, {HOSTS} workers of one thread, each on a host of its
own (network namespaces, a shaped link); the cache is `analytic` with {MEGABYTES:.0f} MB a worker. *MB*: features that
both send in an epoch. *of the first*: ratio to the epoch of the first way in the same round. Median and quartiles.
"""


if __name__ == "__main__":
    main()

"""A small node-classification run, and mains that look into it from inside its workers."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import torch

from framework.comm import features
from framework.comm.cache.analytic import Analytic
from framework.comm.cache.degree import Degree
from framework.comm.cache.presampled import Presampled
from framework.comm.rows import all_rows
from framework.data.generators import Planted
from framework.engine.run import Run, Worker
from framework.engine.train import train
from framework.models.nodes import SAGE
from framework.registry import CACHES
from framework.sample.neighbor import Neighbor
from framework.workloads.nodes import NodeClassification, NodeTask
from partitioners.random import Random

GRAPH = Planted(nodes=1500, edges=15_000, blocks=12, classes=6, features=16)


def small_run(out: Path, **fields: Any) -> Run:
    """Float64 GraphSAGE with dropout on a planted graph; fields of the workload and of the run may be given."""
    workload = {"model": SAGE(hidden=16), "sampler": Neighbor(fanouts=(4, 3)), "batch_size": 256, "parts": 4}
    workload |= {name: fields.pop(name) for name in list(fields) if name in NodeClassification.__dataclass_fields__}
    return Run(
        workload=NodeClassification(**{"data": GRAPH, "partitioner": Random(), **workload}),
        **{"dtype": "float64", "out": str(out), "store": str(out.parent / "stores"), **fields},
    )


def same_metrics(found: dict[str, float], expected: dict[str, float], rel: float = 1e-9) -> bool:
    """Whether counts are the same to the bit, and losses, which are sums in another order, nearly."""
    losses = {name: value for name, value in expected.items() if name.endswith("_loss")}
    return found == {**expected, **{name: found.get(name) for name in losses}} and all(
        math.isclose(found[name], value, rel_tol=rel) for name, value in losses.items()
    )


def sampled_blocks(run: Run, worker: Worker) -> dict[str, Any]:
    """A digest of the edges of every block of two epochs, in original ids with the bits of what they count, whichever
    worker drew them."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    digest, edges_in_all = hashlib.sha256(), 0
    for epoch in range(2):
        for batch in task.batches(epoch, 0):
            for block in batch.blocks:
                targets = torch.repeat_interleave(block.targets.original, block.indptr.diff())
                sources = block.sources.original[block.indices.long()]
                counting = [] if block.importance is None else [block.importance.view(torch.int64)]
                mine = torch.stack([targets, sources, *counting], dim=1)
                edges = all_rows(worker.group, mine, "state").unique(dim=0)  # two workers may draw for one node
                edges_in_all += len(edges)
                digest.update(edges.numpy().tobytes())
    return {"digest": digest.hexdigest(), "edges": edges_in_all}


def under_way(run: Run, worker: Worker) -> dict[str, Any]:
    """How many batches' rows were still coming while each batch of an epoch was computed with."""
    task = run.workload.open(run, worker)
    batches = task.batches(0, 0)
    return {"counts": [sum(one._received.dtype == torch.float32 for one in worker.group.under_way) for _ in batches]}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"ahead": 0},
    "one ahead": {"ahead": 1},
    "all ahead": {"ahead": 100},
    "edges everywhere": {"topology_reach": "all"},
    "edges everywhere, none ahead": {"topology_reach": "all", "ahead": 0},
    "no room": {"cache": Degree(megabytes=0)},
    "degree": {"cache": Degree(megabytes=0.005)},
    "presampled": {"cache": Presampled(megabytes=0.005)},
    "analytic": {"cache": Analytic(megabytes=0.005)},
    "room for all": {"cache": Presampled(megabytes=1, epochs=2), "topology_reach": "all"},
}
"""Fields of a workload that say how rows are had, by name."""


def variants(run: Run, worker: Worker) -> dict[str, Any]:
    """What `train` says of runs that differ in how rows are had, in one launch; caches are filled 20 rows at a time."""
    features.PIECE = 20 * 4 * GRAPH.features
    reports = {}
    for name, fields in VARIANTS.items():
        worker.group.sent.clear()
        workload = dataclasses.replace(run.workload, **fields)  # type: ignore[type-var]  # a NodeClassification
        reports[name] = train(dataclasses.replace(run, workload=workload, out=f"{run.out}-{name}"), worker)
    return reports


def foreseen(run: Run, worker: Worker) -> dict[str, Any]:
    """What every cache chooses on every worker for the second epoch, in original ids; what that epoch uses; what is
    sent in it where the cache that sees it keeps the rows."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    outlook, store = task.outlook(1), task.shards.store
    original = torch.cat([store.shard(part).original for part in range(store.parts)])
    caches = {name: fields["cache"] for name, fields in VARIANTS.items() if name in CACHES.names()}
    chosen = {name: cache.choose(outlook, 100) for name, cache in caches.items()}
    used = [outlook.sampler.sample(outlook.topology, *batch)[0].sources.ids.unique() for batch in outlook.batches(0)]
    uses = torch.bincount(torch.cat([ids[outlook.far(ids)] for ids in used]), minlength=len(original))
    task.rows.features.keep(chosen["presampled"])
    worker.group.sent.clear()
    assert sum(len(batch.labels) for batch in task.batches(1, 0)) > 0
    found = {
        "chosen": {name: original[ids].tolist() for name, ids in chosen.items()},
        "uses": uses[torch.argsort(original)].tolist(),
        "owned": task.topology.owned.original.tolist(),
        "sent": worker.group.sent["features"],
    }
    return {"workers": worker.group.gather_json(found)}


def chosen_on(run: Run, worker: Worker) -> dict[str, Any]:
    """What every cache chooses on every worker, whose network computes on the host or on another device."""
    chosen: dict[str, dict[str, list[int]]] = {}
    for device in ("cpu", "meta"):
        task = run.workload.open(run, dataclasses.replace(worker, device=torch.device(device)))
        assert isinstance(task, NodeTask)
        caches = {name: fields["cache"] for name, fields in VARIANTS.items() if name in CACHES.names()}
        chosen[device] = {name: cache.choose(task.outlook(0), 100).tolist() for name, cache in caches.items()}
    return {"workers": worker.group.gather_json(chosen)}


def blocks_and_report(run: Run, worker: Worker) -> dict[str, Any]:
    """Both in one launch: what `sampled_blocks` says, then what `train` says."""
    return {"blocks": sampled_blocks(run, worker), **train(run, worker)}


def recipe() -> Run:
    """The same for the command line: `shardyard train node_runs:recipe`."""
    return small_run(Path("runs/small").absolute())

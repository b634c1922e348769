"""A small node-classification run, and mains that look into it from inside its workers."""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch

from framework.comm.rows import all_rows
from framework.data.generators import Planted
from framework.engine.run import Run, Worker
from framework.engine.train import train
from framework.models.nodes import SAGE
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
    """A digest of the edges of every block of two epochs, in original ids, whichever worker drew them."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    digest, edges_in_all = hashlib.sha256(), 0
    for epoch in range(2):
        for batch in task.batches(epoch, 0):
            for block in batch.blocks:
                targets = torch.repeat_interleave(block.targets.original, block.indptr.diff())
                sources = block.sources.original[block.indices.long()]
                mine = torch.stack([targets, sources], dim=1)
                edges = all_rows(worker.group, mine, "state").unique(dim=0)  # two workers may draw for one node
                edges_in_all += len(edges)
                digest.update(edges.numpy().tobytes())
    return {"digest": digest.hexdigest(), "edges": edges_in_all}


def blocks_and_report(run: Run, worker: Worker) -> dict[str, Any]:
    """Both in one launch: what `sampled_blocks` says, then what `train` says."""
    return {"blocks": sampled_blocks(run, worker), **train(run, worker)}


def recipe() -> Run:
    """The same for the command line: `shardyard train node_runs:recipe`."""
    return small_run(Path("runs/small").absolute())

"""Layouts: every one equals the owner's layout on one worker, in scores and gradients, and sends what it says it does.

All layouts and networks go through one start of the workers: starting them is what takes the time.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from stored_graph import stored
from torch import Tensor
from whole_graph import looped_graph
from worker_processes import together

from framework.comm.features import Features
from framework.comm.group import Group
from framework.comm.layout.grid_2d import Grid2D
from framework.comm.layout.owner import Owner
from framework.comm.layout.recompute import Recompute
from framework.comm.layout.rows_1d import Rows1D
from framework.comm.layout.rows_15d import Rows15D
from framework.comm.layout.strategy import Layout
from framework.comm.layout.tensor_parallel import TensorParallel
from framework.comm.reach import Shards
from framework.comm.rows import all_rows
from framework.comm.topology import Topology
from framework.graph.store import ShardStore
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key

NODES, FEATURES, CLASSES, LAYERS = 60, 7, 5, 3
MODELS = {
    "gcn": GCN(hidden=6, dropout=0.4),
    "sage": SAGE(hidden=6, dropout=0.4),
    "gat": GAT(hidden=2, heads=3, dropout=0.3, attention_dropout=0.3),
}
SOME = Recompute(width=6, flops=1e6, bandwidth=4e5)
STEPS = 2


def layouts(workers: int) -> dict[str, Layout]:
    """Every layout, and every shape of it, that so many workers can take."""
    divisors = [divisor for divisor in range(1, workers + 1) if workers % divisor == 0]
    return {
        "tensor-parallel": TensorParallel(),
        "rows-1d": Rows1D(),
        "rows-1d-sparse": Rows1D(sparse=True),
        "recompute": Recompute(dependencies="compute"),
        "recompute-none": Recompute(dependencies="fetch"),
        "recompute-some": SOME,
        "grid-2d": Grid2D(),
        **{f"grid-2d-{columns}": Grid2D(columns=columns) for columns in divisors},
        **{f"rows-15d-{replicas}": Rows15D(replication=replicas) for replicas in divisors},
    }


def opened(group: Group, path: Path, layout: Layout) -> Topology:
    """The graph as a worker of this layout reaches it."""
    return Topology(Shards.open(ShardStore.open(path), group, "owned"), layout=layout)


def learned(topology: Topology, kind: str) -> dict[str, Tensor]:
    """The scores of all nodes by original id, and the summed gradients, of two steps with dropout."""
    torch.manual_seed(3)
    model = MODELS[kind].build(FEATURES, CLASSES, LAYERS).double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    group, found = topology.shards.group, {}
    for step in range(STEPS):
        key = Key.root(5).fold(step)
        blocks = topology.whole([key.fold(layer) for layer in range(LAYERS)])
        scores = model(blocks, Features(topology.shards).rows(blocks[0].sources.ids).double())
        assert torch.equal(blocks[-1].targets.ids, topology.owned.ids)
        wanted = torch.arange(CLASSES) - blocks[-1].targets.original.unsqueeze(1) % CLASSES
        optimizer.zero_grad()
        ((scores - wanted) ** 2).sum().backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            group.all_reduce(weight.grad, "gradient")
            found[f"{step}/{name}"] = weight.grad.clone()
        optimizer.step()
        order = torch.argsort(all_rows(group, blocks[-1].targets.original, "state"))
        found[f"{step}/scores"] = all_rows(group, scores.detach(), "state")[order]
    return found


def differences(group: Group, path: Path, expected: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The largest difference of any scores or gradients of a layout and a network, over all values' scale."""
    found = {}
    for name, layout in layouts(group.size).items():
        topology = opened(group, path, layout)
        for kind, values in expected.items():
            mine = learned(topology, kind)
            assert list(mine) == list(values)
            tensors = {each: torch.tensor(value, dtype=torch.float64) for each, value in values.items()}
            found[f"{name}/{kind}"] = max(
                float((mine[each] - value).abs().max() / value.abs().max().clamp(min=1))
                for each, value in tensors.items()
            )
    return found


def one_worker(path: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """What one worker learns with the owner's layout."""
    topology = opened(Group.alone(), path, Owner())
    return {kind: {name: value.tolist() for name, value in learned(topology, kind).items()} for kind in kinds}


@pytest.fixture
def features() -> Tensor:
    return torch.randn(NODES, FEATURES, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("workers", "parts"), [(1, 2), (2, 5), (3, 2), (4, 4)])
def test_every_layout_equals_one_worker(tmp_path: Path, features: Tensor, workers: int, parts: int) -> None:
    path = stored(looped_graph(NODES, 300, isolated=4), parts, tmp_path, features=features).path
    expected = one_worker(path, list(MODELS))
    found = differences(Group.alone(), path, expected) if workers == 1 else None
    for answer in [found] if found else together(workers, differences, path, expected):
        assert max(answer.values()) < 1e-10, {k: v for k, v in answer.items() if v > 1e-10}
        assert len(answer) == len(layouts(workers)) * len(MODELS)

"""A store's graph as a worker of a group of processes has it, under a halo strategy; and a layer's passes over it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.halo.exact import Exact
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.graph.store import ShardStore
from framework.random import Key

KEYS = [Key.root(5).fold(layer) for layer in range(3)]


def topology(group: Group, store: Path, strategy: HaloStrategy | None = None) -> Topology:
    """The graph of `store`, as worker `group.rank` owns it."""
    return Topology(Shards.open(ShardStore.open(store), group, "owned"), strategy or Exact())


def node_rows(nodes: Tensor, *shape: int, seed: int = 0) -> Tensor:
    """Rows that are a function of the nodes' original ids (int64 [n]): float64 [n, *shape], with gradient."""
    place = torch.arange(1, 1 + int(torch.tensor(shape).prod()), dtype=torch.float64).view(shape)
    return torch.sin((nodes.double() + 1 + seed).view(-1, *[1] * len(shape)) * place).requires_grad_()


def passes(graph: Topology, layer: int = 1) -> dict[str, Tensor]:
    """What every way to aggregate in a hidden layer gives for the owned nodes, and the gradients of what goes in."""
    block, nodes = graph.whole(KEYS)[layer], graph.owned.original
    found: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor, *inputs: Tensor) -> None:
        found[name] = out.detach()
        weights = node_rows(nodes, *out.shape[1:], seed=7).detach()
        gradients: tuple[Any, ...] = torch.autograd.grad((out * weights).sum(), inputs)
        found.update({f"{name} {number}": gradient for number, gradient in enumerate(gradients)})

    x = node_rows(nodes, 3)
    keep("sum", block.sum(x), x)
    keep("mean", block.sum(x, mean=True), x)
    keep("loop-free", block.without_self_loops.sum(x), x)
    keep("convolution", block.convolve(x), x)
    values, sources, targets = node_rows(nodes, 2, 3), node_rows(nodes, 2, seed=1), node_rows(nodes, 2, seed=2)
    for dropout in (0.0, 0.4):
        out = block.attend(values, sources, targets, negative_slope=0.2, dropout=dropout)
        keep(f"attention {dropout}", out, values, sources, targets)
    edges, rows = block.whole(x)
    keep("whole", edges.sum(rows), x)
    return found


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """The same names, the same numbers."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: n + text
        )

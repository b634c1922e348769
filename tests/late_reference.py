"""GraphSAGE on a whole graph in one process, where rows between parts are late or left out: what other runs equal.

Written on dense matrices and on the list of everything that was ever sent, with no cache, queue or wire in it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.engine.run import Run
from framework.engine.train import INITIAL
from framework.kernels.dropout import dropout
from framework.models.nodes import SAGE
from framework.random import Key
from framework.sample.full import Full
from framework.workloads.nodes import STEPPING, NodeClassification
from partitioners.random import hashed_parts

Used = Callable[[list[Tensor]], Tensor]
"""Of all that was sent until now, this step's last, what a step uses."""

Weights = Callable[[Tensor, Key], Tensor]
"""What the edges between parts count for in the hidden layers of a step, by its key: float64 [N, N]. Takes a mask of
them, bool [N, N], targets first."""


@dataclasses.dataclass(kw_only=True)
class Lane:
    """What was sent for a layer, step by step."""

    rows: list[Tensor] = dataclasses.field(default_factory=list)
    gradients: list[Tensor] = dataclasses.field(default_factory=list)


class LateMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inside: Tensor, outside: Tensor, lane: Lane, used: Used) -> Tensor:
        ctx.inside, ctx.outside, ctx.lane, ctx.used = inside, outside, lane, used
        lane.rows.append(x.detach().clone())
        return inside @ x + outside @ used(lane.rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.lane.gradients.append(ctx.outside.t() @ gradients[0])
        return ctx.inside.t() @ gradients[0] + ctx.used(ctx.lane.gradients), None, None, None, None


def newest(sent: list[Tensor]) -> Tensor:
    """Nothing is late."""
    return sent[-1]


def all_edges(between: Tensor, key: Key) -> Tensor:
    """Nothing is left out."""
    return between.double()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Learner:
    """A full-batch run of `SAGE` before its first step."""

    workload: NodeClassification
    """What it learns."""
    raw: Any
    """The graph, of N nodes."""
    x: Tensor
    """Its features: float64 [N, columns]."""
    root: Key
    """The run's key."""
    model: Any
    """The network, float64."""
    optimizer: torch.optim.Optimizer
    """The network's."""

    @classmethod
    def of(cls, run: Run) -> "Learner":
        workload = run.workload
        assert isinstance(workload, NodeClassification)
        assert isinstance(workload.model, SAGE)
        assert isinstance(workload.sampler, Full)
        raw, root = workload.data.open(), Key.root(run.seed)
        assert raw.features is not None
        x = torch.cat([torch.from_numpy(batch) for batch in raw.features.batches()]).double()
        with torch.random.fork_rng():
            torch.manual_seed(root.fold(INITIAL).value >> 1)
            model: Any = workload.model.build(x.shape[1], raw.num_classes, workload.sampler.layers).double()
        optimizer = run.optimizer.build(model.parameters())
        return cls(workload=workload, raw=raw, x=x, root=root, model=model, optimizer=optimizer)

    def key(self, epoch: int) -> Key:
        """What an epoch's only step is keyed by."""
        return self.root.fold(STEPPING, epoch, 0)

    def between(self, rows: Tensor, layer: int, key: Key) -> Tensor:
        """What stands behind a layer but the last: [N, columns] -> [N, columns]."""
        drawing = key.fold(2, layer).fold(2)
        return dropout(torch.relu(rows), self.workload.model.dropout, drawing, torch.arange(len(rows)))  # type: ignore[attr-defined]

    def step(self, scores: Tensor) -> float:
        """Learns from the scores of all nodes; returns the loss."""
        training, labels = torch.from_numpy(self.raw.split == 1), torch.from_numpy(self.raw.labels)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(scores[training], labels[training])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())


def late_losses(run: Run, parts: int, used: Used = newest, weights: Weights = all_edges) -> list[float]:
    """The loss of every epoch of a full-batch run of `SAGE` on the random partitioner's parts, a worker each."""
    learner = Learner.of(run)
    inside, outside = means(learner.raw, parts)
    layers = len(learner.model.layers)
    losses, lanes = [], [Lane() for _ in range(layers)]
    for epoch in range(run.epochs):
        key, rows = learner.key(epoch), learner.x
        sampled = outside * weights(outside != 0, key)
        for number, layer in enumerate(learner.model.layers):
            # The first layer's halo is features, which are all there from the start.
            late, edges = (used, sampled) if number else (newest, outside)
            neighbors = LateMean.apply(rows, inside, edges, lanes[number], late)  # type: ignore[no-untyped-call]
            rows = layer.neighbors(neighbors) + layer.own(rows)
            if number < layers - 1:
                rows = learner.between(rows, number, key)
        losses.append(learner.step(rows))
    return losses


def means(raw: Any, parts: int) -> tuple[Tensor, Tensor]:
    """The matrix of neighbourhoods' means in two: edges inside parts, and edges between them. float64 [N, N] each."""
    source, target = (np.concatenate(ends) for ends in zip(*raw.edges, strict=True))
    number, part = raw.edges.num_nodes, hashed_parts(raw.edges.num_nodes, parts, Key.root(0))
    both = torch.zeros(2, number, number, dtype=torch.float64)
    between = torch.from_numpy((part[source] != part[target]).astype(np.int64))
    both.index_put_((between, *map(torch.from_numpy, (target, source))), torch.ones(1).double(), accumulate=True)
    inside, outside = both / both.sum((0, 2)).clamp(min=1)[None, :, None]
    return inside, outside

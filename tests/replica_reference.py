"""GraphSAGE on a vertex-cut in one process, where every worker has rows of its own and others' sums are late.

Written on dense matrices and on the list of everything that was ever sent, with no plan, queue or wire in it.
"""

import dataclasses
from typing import Any

import torch
from late_reference import Learner
from torch import Tensor

from framework.comm.halo.delayed import _BINS
from framework.engine.run import Run
from framework.partition import place
from framework.random import Key, bits
from framework.workloads.nodes import NodeClassification


@dataclasses.dataclass(kw_only=True)
class Cut:
    """A vertex-cut among W workers of a graph of N nodes."""

    means: Tensor
    """What each worker's edges add to a neighbourhood's mean: float64 [W, N, N], targets first."""
    here: Tensor
    """Which worker has a row of which node: bool [W, N]."""
    home: Tensor
    """Whether it is the node's owner: bool [W, N]."""

    def owned(self, rows: Tensor) -> Tensor:
        """[W, N, columns] -> [N, columns]: the owners' rows."""
        return (rows * self.home[:, :, None]).sum(0)


class Sent:
    """All that was sent in one direction, and what of it is used."""

    def __init__(self, r: int, nodes: int) -> None:
        self.r, self.all = r, list[Tensor]()
        self.bins = bits(Key.root(0).fold(_BINS), torch.arange(nodes)) % max(1, r)

    def used(self, now: Tensor) -> Tensor:
        """Sends [W, N, columns] and gives what a step uses: of every node what was sent when its bin had its last turn
        that is r steps ago at least; what the first step sent where there was none."""
        self.all.append(now.detach().clone())
        out, step = self.all[0].clone(), len(self.all) - 1
        for sent in range(1, step - self.r + 1):
            turn = self.bins == sent % max(1, self.r)
            out[:, turn] = self.all[sent][:, turn]
        return out


class Lane:
    """What goes between workers for the sums of a layer, in one pass."""

    def __init__(self, r: int, cut: Cut) -> None:
        self.cut, self.back, self.out = cut, Sent(r, cut.here.shape[1]), Sent(r, cut.here.shape[1])

    def at_owners(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """[W, N, columns] of every worker -> what owners have of mirrors, and all their sums: [N, columns]."""
        mirrors = (self.cut.here & ~self.cut.home)[:, :, None]
        came = self.back.used(parts * mirrors)
        return came, self.cut.owned(parts) + came.sum(0)

    def everywhere(self, parts: Tensor) -> Tensor:
        """[W, N, columns] -> [W, N, columns]: every worker's sums of everything."""
        came, whole = self.at_owners(parts)
        others = self.out.used(whole[None] - came)
        return torch.where(self.cut.home[:, :, None], whole[None], parts + others) * self.cut.here[:, :, None]

    def to_mirrors(self, whole: Tensor) -> Tensor:
        """[N, columns] of owners -> [W, N, columns]: theirs at once, others' late."""
        late = self.out.used(whole[None].expand(len(self.cut.home), -1, -1))
        return torch.where(self.cut.home[:, :, None], whole[None], late) * self.cut.here[:, :, None]


class Everywhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, forwards: Lane, backwards: Lane) -> Tensor:
        ctx.backwards = backwards
        return forwards.everywhere(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.backwards.everywhere(gradients[0]), None, None


class AtOwners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, forwards: Lane, backwards: Lane) -> Tensor:
        ctx.backwards = backwards
        return forwards.at_owners(parts)[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.backwards.to_mirrors(gradients[0]), None, None


def replica_losses(run: Run, r: int) -> list[float]:
    """The loss of every epoch of a full-batch run of `SAGE` on a vertex-cut with a worker for every part."""
    learner = Learner.of(run)
    cut, layers = cut_of(learner.raw, learner.workload), len(learner.model.layers)
    losses, lanes = [], [(Lane(r, cut), Lane(r, cut)) for _ in range(layers)]
    for epoch in range(run.epochs):
        key, rows = learner.key(epoch), learner.x[None] * cut.here[:, :, None]
        for number, layer in enumerate(learner.model.layers):
            parts = cut.means @ rows
            if number == 0:  # sums of features, nothing learned in them, are exact
                sums = parts.sum(0)[None] * cut.here[:, :, None]
            elif number < layers - 1:
                sums = Everywhere.apply(parts, *lanes[number])  # type: ignore[no-untyped-call]
            else:
                sums, rows = AtOwners.apply(parts, *lanes[number]), cut.owned(rows)  # type: ignore[no-untyped-call]
            rows = layer.neighbors(sums) + layer.own(rows)
            if number < layers - 1:
                rows = torch.stack([learner.between(some, number, key) for some in rows]) * cut.here[:, :, None]
        losses.append(learner.step(rows))
    return losses


def cut_of(raw: Any, workload: NodeClassification) -> Cut:
    """Where the partitioner puts edges and nodes."""
    graph, workers = raw.stream(), workload.parts
    placement = place(workload.partitioner, graph, workers)
    means = torch.zeros(workers, graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    for (source, target), part in zip(graph, placement.edge_parts(graph), strict=True):
        at = [torch.from_numpy(ends).long() for ends in (part, target, source)]
        means.index_put_(tuple(at), torch.ones(1, dtype=torch.float64), accumulate=True)
    home = torch.nn.functional.one_hot(torch.from_numpy(placement.owners).long(), workers).T.bool()
    here = home | (means != 0).any(1) | (means != 0).any(2)
    return Cut(means=means / means.sum((0, 2)).clamp(min=1)[None, :, None], here=here, home=home)

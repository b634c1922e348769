"""Node-wise neighbour sampling (Hamilton et al., "Inductive representation learning on large graphs", 2017).

A node that is met twice in one step, on one worker or on two, draws the same neighbours: draws are keyed by step, hop
and original id.
"""

import dataclasses

import torch

from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.sample import unique_relabel
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.sampler import DRAWING, SAMPLING, GraphView


@SAMPLERS.register("neighbor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbor:
    """A fixed number of neighbours a node and hop, uniform without replacement."""

    fanouts: tuple[int, ...] = (15, 10)
    """Neighbours a node, the hop from the seeds first; -1 takes all."""

    def __post_init__(self) -> None:
        if not self.fanouts or any(fanout < -1 or fanout == 0 for fanout in self.fanouts):
            raise InputError(f"--sampler.fanouts is {self.fanouts}; expected one number a hop, each positive or -1.")

    @property
    def depth(self) -> int:
        """One block a hop."""
        return len(self.fanouts)

    @property
    def whole(self) -> bool:
        """Blocks end at the seeds."""
        return False

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> list[Block]:
        """The blocks of `seeds`, the input layer's first."""
        blocks: list[Block] = []
        frontier = seeds
        for hop, fanout in enumerate(self.fanouts):
            drawn = graph.neighbors(frontier, fanout, key.fold(SAMPLING, hop))
            ids, indices = unique_relabel(frontier.ids, drawn.sources.ids)
            sources = _described(ids, frontier, drawn.sources, indices)
            blocks.append(
                Block(
                    sources=sources,
                    num_targets=len(frontier),
                    indptr=drawn.indptr,
                    indices=indices,
                    edge_weights=drawn.edge_weights,
                    key=key.fold(DRAWING, self.depth - 1 - hop),
                )
            )
            frontier = sources
        return blocks[::-1]


def _described(ids: torch.Tensor, frontier: Nodes, drawn: Nodes, positions: torch.Tensor) -> Nodes:
    """The nodes `ids`, which begin with the frontier; the rest is described by the edges that drew it."""
    original, degree = torch.empty_like(ids), torch.empty_like(ids)
    original[positions], degree[positions] = drawn.original, drawn.degree
    original[: len(frontier)], degree[: len(frontier)] = frontier.original, frontier.degree
    return Nodes(ids=ids, original=original, degree=degree)

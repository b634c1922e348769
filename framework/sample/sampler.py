"""The contract of a sampler, and what it sees of the graph."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.graph.block import GraphBlock, Nodes
from framework.random import Key

SAMPLING, DRAWING = 1, 2  # the two purposes a step's key is folded by: which neighbours, and what the layers draw


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Nodes, each as often as it was drawn, with what else is told of them only where it is asked for.

    A hub is drawn by many: to look its degree up for every edge would take longer than to draw."""

    ids: Tensor
    """int64 [n]: as those of Nodes."""
    describe: Callable[[Tensor], Nodes]
    """The nodes at some positions, int64 [m]."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: Tensor | slice) -> Nodes:
        if isinstance(chosen, slice) or chosen.dtype == torch.bool:
            chosen = torch.arange(len(self))[chosen]
        return self.describe(chosen)

    @cached_property
    def _all(self) -> Nodes:
        return self.describe(torch.arange(len(self)))

    @property
    def original(self) -> Tensor:
        """int64 [n]: as those of Nodes."""
        return self._all.original

    @property
    def degree(self) -> Tensor:
        """int64 [n]: as those of Nodes."""
        return self._all.degree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbors:
    """In-neighbours of some nodes, as a CSR over those nodes; inside a row by original id."""

    indptr: Tensor
    """int64 [nodes + 1]."""
    sources: Nodes | Drawn
    """One a drawn edge, in the CSR's order; a node stands here as often as it was drawn."""
    edge_weights: Tensor | None = None
    """float32 [edges], where the graph has them."""
    chances: Tensor | None = None
    """float64 [edges], above 0: what each edge was drawn with, where that is not the same for all of a node; a block's
    edges count by their inverse. A node's edges to itself are all there, with 1."""


class GraphView(Protocol):
    """The whole graph as a worker reaches it: near shards by memory, far ones through the group."""

    def neighbors(self, nodes: Nodes, fanout: int, key: Key, *, shared: bool = False) -> Neighbors:
        """At most `fanout` in-neighbours of every node, uniform without replacement; -1: all of them.

        Which ones depends on the key and the node's original id alone; where draws are `shared`, on the key and the
        neighbours' original ids: nodes that have neighbours in common then draw the same of them. All workers call this
        together."""

    def neighbors_together(self, nodes: Nodes, budget: int, key: Key) -> Neighbors:
        """Of the in-neighbours that the nodes of all workers have together, `budget` on average, each by a coin.

        A neighbour's chance grows with what its edges into all these nodes weigh (`framework.sample.chances`); all have
        1 where they are no more than the budget. Every edge from one that is drawn is there, and every self-loop, which
        draws nobody. The nodes of a worker are distinct; two workers may have the same. Which neighbours depends on
        the key and on original ids alone, those of the frontiers of all workers. All workers call this together."""

    def whole(self, keys: Sequence[Key | None]) -> Sequence[GraphBlock]:
        """One layer over all nodes of each worker for every key, which its draws are keyed by."""


@runtime_checkable
class Sampler(Protocol):
    """Seeds in, blocks out; pure in its arguments, so that any worker draws the same."""

    @property
    def depth(self) -> int:
        """Number of blocks that `sample` makes."""

    @property
    def whole(self) -> bool:
        """Whether the last block's targets are all nodes that a worker owns, rather than the seeds."""

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> Sequence[GraphBlock]:
        """The blocks of `seeds`, the input layer's first. All workers call this together, with or without seeds."""


@runtime_checkable
class Scoped(Protocol):
    """A Sampler whose draws are part of what is learned: a network's answer for a node is that on what is drawn for it.

    So evaluation draws, too, where it takes whole neighbourhoods for other samplers. Every seed has a graph of its own,
    and a node stands among the first block's sources once for each that has it; its row is fetched once."""

    @property
    def scope(self) -> int:
        """Hops from a seed to the farthest node of its graph: how far a network sees, however many layers it has."""

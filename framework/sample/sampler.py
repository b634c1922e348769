"""The contract of a sampler, and what it sees of the graph."""

import dataclasses
from typing import Protocol, runtime_checkable

from torch import Tensor

from framework.graph.block import Block, Nodes
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbors:
    """In-neighbours of some nodes, as a CSR over those nodes; inside a row by original id."""

    indptr: Tensor
    """int64 [nodes + 1]."""
    sources: Nodes
    """One a drawn edge, in the CSR's order; a node stands here as often as it was drawn."""
    edge_weights: Tensor | None = None
    """float32 [edges], where the graph has them."""


class GraphView(Protocol):
    """The whole graph as a worker reaches it: near shards by memory, far ones through the group."""

    def neighbors(self, nodes: Nodes, fanout: int, key: Key) -> Neighbors:
        """At most `fanout` in-neighbours of every node, uniform without replacement; -1: all of them.

        Which ones depends on the key and the node's original id alone. All workers call this together."""


@runtime_checkable
class Sampler(Protocol):
    """Seeds in, blocks out; pure in its arguments, so that any worker draws the same."""

    @property
    def depth(self) -> int:
        """Number of blocks that `sample` makes."""

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> list[Block]:
        """The blocks of `seeds`, the input layer's first. All workers call this together, with or without seeds."""

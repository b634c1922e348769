"""Partitions: what a partitioner is, what its answer becomes, and how good it is.

An edge-cut gives every node one owner; the edges of a shard are the in-edges of its nodes. A vertex-cut gives every
edge one owner and replicates nodes: a node's master is one of the parts that hold an edge of it, the others are mirrors.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from framework.graph.edges import EdgeStream

NodeParts = NDArray[np.int32]
EdgeParts = NDArray[np.int32]


@runtime_checkable
class EdgeCut(Protocol):
    """A partitioner that gives every node one owner."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes], each in [0, parts)."""


@runtime_checkable
class VertexCut(Protocol):
    """A partitioner that gives every edge one owner. Named otherwise than EdgeCut's, so that the two can be told apart."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        """For each batch of the stream, in its order, the part of every edge: int32 [batch], each in [0, parts)."""

"""The edge stream: what a partitioner and prepare see of a raw graph.

Assumptions: node ids are dense (0 to num_nodes - 1: the *original* ids; a dictionary step before this one makes them so
of any ids), edges are directed source -> target, an undirected graph holds each edge in both directions. Iterating
again gives the same edges in the same order. Nothing here holds more than one batch of edges at a time, unless the
stream was made of arrays.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
EdgeBatch = tuple[Ids, Ids]


@runtime_checkable
class EdgeStream(Protocol):
    """Edges in batches, as often as one likes. Plug-ins of others depend on this: it stays small and does not change."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes, isolated ones included."""

    @property
    def num_edges(self) -> int:
        """Number of directed edges, duplicates and self-loops included."""

    @property
    def node_weights(self) -> Ids | None:
        """A second weight a node (int64 [num_nodes]) to balance beside the node's count of 1: 1 for training nodes."""

    def __iter__(self) -> Iterator[EdgeBatch]:
        """Batches of (source, target), each int64 [batch], in a fixed order."""

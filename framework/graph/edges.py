"""The edge stream: what a partitioner and prepare see of a raw graph.

Assumptions: node ids are dense (0 to num_nodes - 1: the *original* ids; a dictionary step before this one makes them so
of any ids), edges are directed source -> target, an undirected graph holds each edge in both directions. Iterating
again gives the same edges in the same order. Nothing here holds more than one batch of edges at a time, unless the
stream was made of arrays.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
EdgeBatch = tuple[Ids, Ids]


@runtime_checkable
class EdgeStream(Protocol):
    """Edges in batches, as often as one likes. Plug-ins of others depend on this: it stays small and stable."""

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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArrayEdges:
    """An edge stream over two arrays, which may be mapped from files."""

    source: NDArray[np.integer]
    """[E], any integer type."""
    target: NDArray[np.integer]
    """[E], any integer type."""
    num_nodes: int
    """Number of nodes, isolated ones included."""
    node_weights: Ids | None = None
    """A second weight a node, int64 [num_nodes]."""
    batch_size: int = 1 << 20
    """Edges a batch."""

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return len(self.source)

    def __iter__(self) -> Iterator[EdgeBatch]:
        """Batches of (source, target), each int64 [batch]."""
        for start in range(0, len(self.source), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield np.asarray(self.source[part], dtype=np.int64), np.asarray(self.target[part], dtype=np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """The edges of another stream, with node weights."""

    edges: EdgeStream
    """The stream."""
    node_weights: Ids
    """A second weight a node, int64 [num_nodes]."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes of the stream."""
        return self.edges.num_nodes

    @property
    def num_edges(self) -> int:
        """Number of edges of the stream."""
        return self.edges.num_edges

    def __iter__(self) -> Iterator[EdgeBatch]:
        """The batches of the stream."""
        return iter(self.edges)


def both_directions(source: NDArray[np.integer], target: NDArray[np.integer]) -> EdgeBatch:
    """Every undirected edge as two directed ones, side by side; a self-loop stays one. [E] each -> int64 [<= 2 E] each.

    The two directions stand next to each other, so that the order does not depend on where a batch ends."""
    pairs = np.stack([source, target], axis=1).astype(np.int64)
    keep = doubled(source, target)
    return pairs.reshape(-1)[keep], pairs[:, ::-1].reshape(-1)[keep]


def doubled(source: NDArray[np.integer], target: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which of the 2 E positions of `both_directions` are kept: all but a self-loop's second. bool [2 E]."""
    keep = np.ones((len(source), 2), dtype=np.bool_)
    keep[:, 1] = source != target
    return keep.reshape(-1)

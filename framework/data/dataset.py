"""What a data set is: a value with a fingerprint, which opens as a raw graph that prepare turns into shards.

Assumptions: nodes have original ids 0 to N - 1, and everything given for nodes (raw ids, labels, split, feature rows)
is in their order. Only what has one number a node is held in memory; edges and feature rows come in batches, in the
same order every time, and the result of prepare does not depend on where a batch ends.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from framework.errors import InputError
from framework.graph.edges import EdgeStream, Ids, Weighted

NO_LABEL = -1
"""The label of a node that has none."""
NO_SPLIT, TRAIN, VALIDATION, TEST = range(4)
"""What a node is for: the values of a split."""

F = TypeVar("F", bound=Callable[[Any], Any])
Mapper = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]
"""Applies a function to every item of a list, results in its order: `map`, or Ray tasks that do the same."""


def of_raw_files(function: F) -> F:
    """Marks a function of pieces of raw files, to be decoded or tokenised: Ray maps it as a stream of Ray Data."""
    vars(function)["of_raw_files"] = True
    return function


def is_of_raw_files(function: Callable[[Any], Any]) -> bool:
    """Whether a function is marked so."""
    return bool(getattr(function, "of_raw_files", False))


def each(mapper: Mapper, function: Callable[[Any], Any], items: list[Any]) -> Iterable[Any]:
    """`function` of every item, in order: by `mapper` where there are several, here where there is one."""
    return mapper(function, items) if len(items) > 1 else map(function, items)


@runtime_checkable
class Rows(Protocol):
    """Feature rows of all nodes, in batches: never all in memory unless they were to begin with."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of nodes, number of columns."""

    def batches(self) -> Iterator[NDArray[Any]]:
        """[batch, columns] of any number type, in the order of original ids."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArrayRows:
    """The rows of an array, which may be mapped from a file (`np.memmap`, `np.load(..., mmap_mode="r")`)."""

    array: NDArray[Any]
    """[N, columns], any type of real numbers."""
    batch_size: int = 65536
    """Rows a batch."""

    def __post_init__(self) -> None:
        if self.array.ndim != 2 or self.array.dtype.kind not in "biuf":
            raise InputError(
                f"features have shape {self.array.shape}, of {self.array.dtype}; expected numbers [nodes, columns]."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of nodes, number of columns."""
        return self.array.shape[0], self.array.shape[1]

    def batches(self) -> Iterator[NDArray[Any]]:
        """Slices of the array."""
        for start in range(0, len(self.array), self.batch_size):
            yield self.array[start : start + self.batch_size]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RawGraph:
    """A graph as its data set gives it, before anybody partitioned it."""

    edges: EdgeStream
    """The edges, between original ids."""
    ids: NDArray[Any] | None = None
    """The raw id of every original id: int64 [N] or text [N]. None: the original ids are the raw ones."""
    features: Rows | None = None
    """One row a node."""
    labels: Ids | None = None
    """The class of every node, int64 [N], in [0, num_classes); NO_LABEL where there is none."""
    num_classes: int = 0
    """Number of classes."""
    class_names: tuple[str, ...] = ()
    """The name of every class; empty where they have none."""
    split: NDArray[np.uint8] | None = None
    """What every node is for, uint8 [N]: NO_SPLIT, TRAIN, VALIDATION or TEST."""
    edge_weights: Iterable[NDArray[np.float32]] | None = None
    """A batch of weights, float32 [batch], beside every batch of edges; can be iterated again."""

    def stream(self) -> EdgeStream:
        """The edges as a partitioner sees them: training nodes carry a second weight, to be balanced too."""
        if self.split is None or self.edges.node_weights is not None:
            return self.edges
        return Weighted(edges=self.edges, node_weights=(self.split == TRAIN).astype(np.int64))


@runtime_checkable
class Dataset(Protocol):
    """A data set. A plug-in: its fields are its configuration."""

    def fingerprint(self) -> str:
        """Hex digest of the raw bytes and the settings: two data sets with the same one open as the same graph."""

    def open(self) -> RawGraph:
        """The raw graph. Raises InputError for raw data that cannot be used."""


@runtime_checkable
class IngestedDataset(Protocol):
    """A data set whose raw files are worth parsing side by side, and once."""

    def fingerprint(self) -> str:
        """As a Dataset's."""

    def ingest(self, scratch: Path, mapper: Mapper) -> RawGraph:
        """As a Dataset's `open`, with the parsing done through `mapper`, its results in the empty folder `scratch`."""

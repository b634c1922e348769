"""Edges on disk between two steps: raw files of (source, target) pairs, and files of weights beside them.

Assumptions: these files are scratch of one machine and one run of prepare (native byte order, no header); they are
appended to in batches and read back mapped. A piece, that is one file, can be handed to another process by its path.
"""

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from framework.errors import InputError
from framework.graph.edges import EdgeBatch, Ids
from framework.store.folder import full_disk_named

_PAIR_BYTES = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairFiles:
    """An edge stream over files of pairs, one after the other."""

    files: tuple[Path, ...]
    """Files of int64 (source, target)."""
    num_nodes: int
    """Number of nodes, isolated ones included."""
    node_weights: Ids | None = None
    """A second weight a node, int64 [num_nodes]."""
    batch_size: int = 1 << 20
    """Edges a batch; a batch ends at the end of a file."""
    keep: object = None
    """Whatever the files last as long as: a temporary folder."""

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return sum(file.stat().st_size for file in self.files) // _PAIR_BYTES

    def __iter__(self) -> Iterator[EdgeBatch]:
        """Batches of (source, target), each int64 [batch]."""
        for file in self.files:
            pairs = read_scratch(file, np.int64, columns=2)
            for start in range(0, len(pairs), self.batch_size):
                batch = pairs[start : start + self.batch_size]
                yield np.ascontiguousarray(batch[:, 0]), np.ascontiguousarray(batch[:, 1])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightFiles:
    """Edge weights in files, cut into batches as PairFiles of the same batch size is."""

    files: tuple[Path, ...]
    """Files of float32."""
    batch_size: int = 1 << 20
    """Weights a batch."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Batches, each float32 [batch]."""
        for file in self.files:
            weights = read_scratch(file, np.float32)
            for start in range(0, len(weights), self.batch_size):
                yield weights[start : start + self.batch_size]


def append_pairs(path: Path, source: Ids, target: Ids) -> None:
    """Adds edges to a file of pairs; makes it where there is none. Raises InputError for a full disk."""
    append_scratch(path, np.stack([source, target], axis=1))


def append_scratch(path: Path, rows: NDArray[Any]) -> None:
    """Adds the bytes of `rows` to a file; makes it, and its folder, where needed. Raises InputError for a full disk."""
    with full_disk_named(path.parent):
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(np.ascontiguousarray(rows).data)


def read_scratch(path: Path, dtype: DTypeLike, *, columns: int | None = None) -> NDArray[Any]:
    """What `append_scratch` wrote, mapped: [rows], or [rows, columns]. A file that nobody wrote holds no row."""
    shape = (-1,) if columns is None else (-1, columns)
    if not path.exists() or path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype).reshape(0, *shape[1:])
    return np.memmap(path, dtype, mode="r").reshape(shape)


def require_scratch(path: Path) -> None:
    """Raises InputError where this process, perhaps on another host, does not see the scratch of the one that asked."""
    if not path.exists():
        raise InputError(
            f"'{path}' is not there on host {socket.gethostname()}. Keep stores on a file system that every host sees, "
            "or prepare on one host."
        )

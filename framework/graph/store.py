"""The shard store: a folder with a manifest and one folder of Arrow files a part.

Assumptions: a store appears whole (by rename) and is never written again. Opening one reads the manifest and asks the
file system for sizes; `verify` reads every byte.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.graph.shard import GraphShard


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the manifest knows of one file."""

    bytes: int
    """Its size."""
    sha256: str
    """Its digest, 64 hex digits."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShardStore:
    """A prepared graph on disk."""

    path: Path
    """The store's folder."""
    digest: str
    """What the store is a function of: data, partitioner, parts, format. 64 hex digits."""
    data_digest: str
    """The fingerprint of the data set it was made from."""
    num_nodes: int
    """Number of nodes."""
    num_edges: int
    """Number of directed edges."""
    parts: int
    """Number of parts."""
    offsets: Tensor
    """Part p owns the global ids offsets[p] to offsets[p + 1]. int64 [parts + 1]."""
    num_features: int
    """Feature columns; 0 where nodes have none."""
    num_classes: int
    """Classes; 0 where nodes have none."""
    class_names: tuple[str, ...]
    """The classes' names; empty where they have none."""
    columns: tuple[str, ...]
    """The files of every part, without their ending."""
    partitioner: Mapping[str, Any]
    """The partitioner, as framework.config.encode writes it."""
    quality: Mapping[str, Any]
    """What the partition is worth."""
    files: Mapping[str, FileFacts]
    """Every file of the store but the manifest, by its path inside the folder."""

    @classmethod
    def open(cls, path: Path | str) -> "ShardStore":
        """The store in the folder `path`. Raises StoreError where one is missing, torn, of a newer version or altered."""
        raise NotImplementedError

    def shard(self, part: int) -> GraphShard:
        """The shard of `part`, mapped from its files. Raises StoreError for a damaged file, InputError for no such part."""
        raise NotImplementedError

    def owner_of(self, ids: Tensor) -> Tensor:
        """The part that owns each global id. int64 [...] -> int64 [...]."""
        return torch.searchsorted(self.offsets, ids, right=True) - 1

    def verify(self) -> None:
        """Reads every byte of every file. Raises StoreError that names the first one that differs from its digest."""
        raise NotImplementedError

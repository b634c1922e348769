"""The shard store: a folder with a manifest and one folder of Arrow files a part.

Assumptions: a store appears whole (by rename) and is never written again. Opening one reads the manifest and asks the
file system for sizes; `verify` reads every byte.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from framework.errors import InputError, StoreError
from framework.graph.shard import BESIDE_EDGES, GraphShard, Kind, PartCounts
from framework.store.columns import REMEDY, FileFacts, column_file, map_column, part_folder, read_column
from framework.store.manifest import read_manifest, verify_files, write_manifest

FORMAT = "shardyard-store"
VERSIONS: Mapping[Kind, int] = MappingProxyType({"edge-cut": 4, "vertex-cut": 5})
"""Of the format, by what a store holds: raised whenever what is written changes, so that an older store is prepared
again. The newest is the highest that this program reads."""
VERSION = max(VERSIONS.values())


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
    """The files of every part, without their ending: the tensors of a GraphShard, and `ids`, the raw ids."""
    counts: tuple[PartCounts, ...]
    """What every part holds."""
    partitioner: Mapping[str, Any]
    """The partitioner, as framework.config.encode writes it."""
    quality: Mapping[str, Any]
    """What the partition is worth."""
    files: Mapping[str, FileFacts]
    """Every file of the store but the manifest, by its path inside the folder."""
    kind: Kind = "edge-cut"
    """What the partitioner cut."""

    @classmethod
    def open(cls, path: Path | str, needs: Callable[[str], bool] | None = None) -> "ShardStore":
        """The store in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer than we.

        `needs`: whether a file, by its path inside the folder, has to be there. None: each has."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=VERSIONS.values(), what="shard store", needs=needs)
        return _from_manifest(path, content)

    def seal(self) -> None:
        """Writes the manifest into the store's folder: the last step of making one. Raises OSError."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        fields["offsets"] = self.offsets.tolist()
        fields["counts"] = [dataclasses.asdict(counts) for counts in self.counts]
        if self.kind == "edge-cut":  # as it was written before there was another kind
            del fields["kind"]
        write_manifest(self.path, fields, format=FORMAT, version=VERSIONS[self.kind])

    def shard(self, part: int, *, edges_alone: bool = False) -> GraphShard:
        """The shard of `part`, mapped; with `edges_alone`, without what is not needed to draw neighbours from it.

        Raises StoreError for a damaged file, InputError where there is no such part."""
        self._check_part(part)
        left_out = BESIDE_EDGES if edges_alone else ("ids",)
        columns = {name: map_column(self._file(part, name)) for name in self.columns if name not in left_out}
        lengths = self.counts[part].lengths(self.kind)
        for name, column in columns.items():
            if len(column) != lengths[name]:
                raise StoreError(
                    f"'{self._file(part, name)}' has {len(column)} rows; the manifest says {lengths[name]}. {REMEDY}"
                )
        return GraphShard(
            part=part,
            first=int(self.offsets[part]),
            num_nodes=self.num_nodes,
            original=columns["original"],
            degree=columns["degree"],
            indptr=columns["indptr"],
            indices=columns["indices"],
            halo=columns["halo"],
            halo_original=columns["halo_original"],
            halo_degree=columns["halo_degree"],
            labels=columns.get("labels"),
            split=columns.get("split"),
            features=columns.get("features"),
            edge_weights=columns.get("edge_weights"),
        )

    def column(self, part: int, name: str) -> Tensor:
        """One tensor of the shard of `part`, in a mapping of its own that ends with the tensor. Raises as `shard`."""
        self._check_part(part)
        return map_column(self._file(part, name))

    def raw_ids(self, part: int) -> pa.Array:
        """The ids that the raw data knows the owned nodes of `part` by: int64 or text [n]. Raises as `shard`."""
        self._check_part(part)
        return read_column(self._file(part, "ids" if "ids" in self.columns else "original"))

    def owner_of(self, ids: Tensor) -> Tensor:
        """The part that owns each global id. int64 [...] -> int64 [...]."""
        return torch.searchsorted(self.offsets, ids, right=True) - 1

    def verify(self, part: int | None = None) -> None:
        """Reads every byte of every file, or of one part's. Raises StoreError that names one not as its digest says."""
        verify_files(self.path, self.files, within="" if part is None else part_folder(part))

    def _file(self, part: int, column: str) -> Path:
        return column_file(self.path, part, column)

    def _check_part(self, part: int) -> None:
        if not 0 <= part < self.parts:
            raise InputError(f"'{self.path}' has no part {part}; expected 0 to {self.parts - 1}.")


def _from_manifest(path: Path, content: dict[str, Any]) -> ShardStore:
    return ShardStore(
        **{
            **content,
            "path": path,
            "offsets": torch.tensor(content["offsets"], dtype=torch.int64),
            "class_names": tuple(content["class_names"]),
            "columns": tuple(content["columns"]),
            "counts": tuple(PartCounts(**counts) for counts in content["counts"]),
        }
    )

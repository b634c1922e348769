"""The shard store: a folder with a manifest and one folder of Arrow files a part.

Assumptions: a store appears whole (by rename) and is never written again. Opening one reads the manifest and asks the
file system for sizes; `verify` reads every byte.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from framework.errors import InputError, NewerVersionError, StoreError
from framework.graph.columns import REMEDY, FileFacts, map_column, read_column
from framework.graph.shard import GraphShard, Kind, PartCounts

FORMAT = "shardyard-store"
VERSIONS: Mapping[Kind, int] = MappingProxyType({"edge-cut": 2, "vertex-cut": 3})
"""Of the format, by what a store holds: raised whenever what is written changes, so that an older store is prepared
again. The newest is the highest that this program reads."""
VERSION = max(VERSIONS.values())
MANIFEST = "manifest.json"


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
    def open(cls, path: Path | str) -> "ShardStore":
        """The store in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer than we."""
        path = Path(path)
        store = _from_manifest(path, _read_manifest(path / MANIFEST))
        for name, facts in store.files.items():
            _check_size(path / name, facts)
        return store

    def seal(self) -> None:
        """Writes the manifest into the store's folder: the last step of making one. Raises OSError."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        fields["offsets"] = self.offsets.tolist()
        fields["counts"] = [dataclasses.asdict(counts) for counts in self.counts]
        fields["files"] = {name: dataclasses.asdict(facts) for name, facts in self.files.items()}
        if self.kind == "edge-cut":  # as it was written before there was another kind
            del fields["kind"]
        content = {"format": FORMAT, "version": VERSIONS[self.kind], **fields}
        text = json.dumps({**content, "checksum": _checksum(content)}, indent=1)
        (self.path / MANIFEST).write_text(text)

    def shard(self, part: int) -> GraphShard:
        """The shard of `part`, mapped. Raises StoreError for a damaged file, InputError where there is no such part."""
        self._check_part(part)
        columns = {name: map_column(self._file(part, name)) for name in self.columns if name != "ids"}
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
        for name, facts in self.files.items():
            if part is not None and not name.startswith(f"{_part_folder(part)}/"):
                continue
            _check_size(self.path / name, facts)
            if FileFacts.of(self.path / name) != facts:
                raise StoreError(f"'{self.path / name}' was altered: its SHA-256 is not the manifest's. {REMEDY}")

    def _file(self, part: int, column: str) -> Path:
        return column_file(self.path, part, column)

    def _check_part(self, part: int) -> None:
        if not 0 <= part < self.parts:
            raise InputError(f"'{self.path}' has no part {part}; expected 0 to {self.parts - 1}.")


def column_file(store: Path, part: int, column: str) -> Path:
    """Where a store keeps a column of a part."""
    return store / _part_folder(part) / f"{column}.arrow"


def _part_folder(part: int) -> str:
    return f"part-{part:05d}"


def _check_size(path: Path, facts: FileFacts) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"'{path}' is missing. {REMEDY}") from error
    if size != facts.bytes:
        raise StoreError(f"'{path}' has {size} bytes; the manifest says {facts.bytes}. {REMEDY}")


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's content, checked against its own checksum, which is taken off."""
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum", None)
        version = content["version"] if content["format"] == FORMAT else None
    except FileNotFoundError as error:
        raise StoreError(f"'{path.parent}' is no shard store: it has no {MANIFEST}. Make one by `prepare`.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"'{path}' is torn or no manifest ({type(error).__name__}). {REMEDY}") from error
    if not isinstance(version, int) or version > VERSION:
        raise NewerVersionError(
            f"'{path}' is of format version {version}; this program reads up to {VERSION}. "
            "Update shardyard, or prepare the store again."
        )
    if version not in VERSIONS.values():
        raise StoreError(f"'{path}' is of the old format version {version}; expected {VERSION}. {REMEDY}")
    if checksum != _checksum(content):
        raise StoreError(f"'{path}' was altered: its checksum is not that of its content. {REMEDY}")
    assert isinstance(content, dict)
    return content


def _from_manifest(path: Path, content: dict[str, Any]) -> ShardStore:
    fields = {name: value for name, value in content.items() if name not in ("format", "version")}
    return ShardStore(
        **{
            **fields,
            "path": path,
            "offsets": torch.tensor(fields["offsets"], dtype=torch.int64),
            "class_names": tuple(fields["class_names"]),
            "columns": tuple(fields["columns"]),
            "counts": tuple(PartCounts(**counts) for counts in fields["counts"]),
            "files": {name: FileFacts(**facts) for name, facts in fields["files"].items()},
        }
    )


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

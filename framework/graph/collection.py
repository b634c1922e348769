"""A collection: many small graphs on disk, a folder with a manifest and one folder of Arrow files a part.

Assumptions: samples are numbered 0 to s - 1 in the order of the raw data, and part p holds the samples offsets[p] to
offsets[p + 1]; so are all their nodes numbered, whatever the parts. A collection appears whole (by rename) and is never
written again. Its tensors are views of read-only memory: writing into one ends the process.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from framework.errors import InputError, StoreError
from framework.store.columns import REMEDY, FileFacts, column_file, map_column, part_folder, read_column
from framework.store.manifest import read_manifest, verify_files, write_manifest

FORMAT = "shardyard-collection"
VERSION = 1
"""Of the format: raised whenever what is written changes, so that an older collection is prepared again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample of the raw data that no graph could be made of."""

    id: str | int
    """Its raw id."""
    split: int
    """What it would have been for."""
    reason: str
    """Why there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectionCounts:
    """How much a part of a collection holds."""

    graphs: int
    """Samples."""
    nodes: int
    """Nodes of all of them."""
    edges: int
    """Directed edges of all of them."""

    def lengths(self) -> dict[str, int]:
        """The number of rows of every column of the part."""
        return {
            **dict.fromkeys(("ids", "split", "labels", "targets"), self.graphs),
            "node_offsets": self.graphs + 1,
            **dict.fromkeys(("features", "positions"), self.nodes),
            "indptr": self.nodes + 1,
            **dict.fromkeys(("indices", "weights"), self.edges),
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Graphs:
    """The samples of one part, mapped: s graphs, n nodes, e in-edges."""

    node_offsets: Tensor
    """The nodes of graph a are node_offsets[a] to node_offsets[a + 1], in the part: int64 [s + 1]."""
    features: Tensor
    """float32 [n, columns]."""
    positions: Tensor
    """float32 [n, dimensions]."""
    indptr: Tensor
    """Where a node's in-edges begin: int64 [n + 1]."""
    indices: Tensor
    """The source of every in-edge, as a node's number in its own graph, ascending inside a node's: int32 [e]."""
    split: Tensor
    """What the samples are for: uint8 [s], the values of framework.data.dataset."""
    weights: Tensor | None
    """float32 [e], where edges have weights."""
    labels: Tensor | None
    """Classes, int64 [s], where samples have classes."""
    targets: Tensor | None
    """What is to be predicted instead, in the data's units: float64 [s, targets]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """Prepared small graphs on disk."""

    path: Path
    """The folder."""
    digest: str
    """What the collection is a function of: data, parts, format. 64 hex digits."""
    data_digest: str
    """The fingerprint of the data set it was made from."""
    offsets: Tensor
    """Part p holds the samples offsets[p] to offsets[p + 1]. int64 [parts + 1]."""
    num_features: int
    """Feature columns of a node."""
    num_dimensions: int
    """Dimensions of a position."""
    num_classes: int
    """Classes of a sample; 0 where samples have targets."""
    class_names: tuple[str, ...]
    """The classes' names; empty where they have none."""
    target_names: tuple[str, ...]
    """The targets' names; empty where samples have classes."""
    target_means: tuple[float, ...]
    """Mean of every target over the training samples."""
    target_deviations: tuple[float, ...]
    """Standard deviation of every target over the training samples; 1 where all are alike."""
    columns: tuple[str, ...]
    """The files of every part, without their ending: the tensors of a Graphs, and `ids`."""
    counts: tuple[CollectionCounts, ...]
    """What every part holds."""
    failures: tuple[Failure, ...]
    """Samples of the raw data that are not here, and why."""
    facts: Mapping[str, str]
    """What the data set says of itself: the unit of positions, versions of libraries."""
    files: Mapping[str, FileFacts]
    """Every file but the manifest, by its path inside the folder."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.counts)

    @property
    def num_graphs(self) -> int:
        """Number of samples."""
        return int(self.offsets[-1])

    @classmethod
    def open(cls, path: Path | str) -> "Collection":
        """The collection in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=[VERSION], what="collection of graphs")
        return cls(
            **{
                **content,
                **{name: tuple(value) for name, value in content.items() if isinstance(value, list)},
                "path": path,
                "offsets": torch.tensor(content["offsets"], dtype=torch.int64),
                "counts": tuple(CollectionCounts(**counts) for counts in content["counts"]),
                "failures": tuple(Failure(**failure) for failure in content["failures"]),
            }
        )

    def seal(self) -> None:
        """Writes the manifest into the collection's folder: the last step of making one. Raises OSError."""
        fields: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"
        }
        fields["offsets"] = self.offsets.tolist()
        for name in ("counts", "failures"):
            fields[name] = [dataclasses.asdict(item) for item in fields[name]]
        write_manifest(self.path, {**fields, "facts": dict(self.facts)}, format=FORMAT, version=VERSION)

    def part(self, number: int) -> Graphs:
        """The samples of a part, mapped. Raises StoreError for a damaged file, InputError for a part that is none."""
        if not 0 <= number < self.parts:
            raise InputError(f"'{self.path}' has no part {number}; expected 0 to {self.parts - 1}.")
        lengths = self.counts[number].lengths()
        columns = {}
        for name in self.columns:
            if name == "ids":
                continue
            file = column_file(self.path, number, name)
            columns[name] = map_column(file)
            if len(columns[name]) != lengths[name]:
                raise StoreError(f"'{file}' has {len(columns[name])} rows; the manifest says {lengths[name]}. {REMEDY}")
        return Graphs(**{field.name: columns.get(field.name) for field in dataclasses.fields(Graphs)})  # type: ignore[arg-type]  # what may be absent is

    def raw_ids(self) -> pa.ChunkedArray:
        """The ids that the raw data knows the samples by: int64 or text [s]. Raises StoreError for a damaged file."""
        return pa.chunked_array([read_column(column_file(self.path, part, "ids")) for part in range(self.parts)])

    def verify(self, part: int | None = None) -> None:
        """Reads every byte of every file, or of one part's. Raises StoreError that names one not as its digest says."""
        verify_files(self.path, self.files, within="" if part is None else part_folder(part))

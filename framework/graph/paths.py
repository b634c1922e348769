"""A path table: the sampled cheapest paths around every node, on disk, in the format of a shard store.

Assumptions: centres are the nodes of one graph in one numbering, and piece p holds the centres starts[p] to
starts[p + 1]; where pieces begin does not show in what a table says. A table appears whole (by rename) and is never
written again. Its tensors are views of read-only memory: writing into one ends the process.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from framework.errors import InputError, StoreError
from framework.kernels.csr import offsets
from framework.kernels.paths import FoundPaths, PathRule, Paths
from framework.store.columns import REMEDY, FileFacts, column_file, map_column, write_column
from framework.store.manifest import read_manifest, verify_files, write_manifest

FORMAT = "shardyard-paths"
VERSION = 1
"""Of the format: raised whenever what is written changes, so that an older table is searched for again."""
_EDGE_COSTS = "edge_costs.arrow"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathTable:
    """The paths around every node of a graph, on disk."""

    path: Path
    """The table's folder."""
    digest: str
    """What the table is a function of: graph, costs, rule, pieces, format. 64 hex digits."""
    graph_digest: str
    """What the graph is, whatever its edges cost."""
    rule: PathRule
    """Which paths are kept."""
    starts: tuple[int, ...]
    """Piece p has the centres starts[p] to starts[p + 1]; the last is the number of nodes."""
    counts: tuple[tuple[int, ...], ...]
    """Of every piece, the paths of 2, 3, ... nodes."""
    files: Mapping[str, FileFacts]
    """Every file of the table but the manifest, by its path inside the folder."""

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> "PathTable":
        """The table in the folder `path`; with `verify`, once every byte of it was read.

        Raises StoreError for one that is missing, torn, altered or newer than we."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=[VERSION], what="path table")
        table = cls(
            **{
                **content,
                "path": path,
                "rule": PathRule(**content["rule"]),
                "starts": tuple(content["starts"]),
                "counts": tuple(tuple(counts) for counts in content["counts"]),
            }
        )
        if verify:
            verify_files(path, table.files)
        return table

    def seal(self) -> None:
        """Writes the manifest into the table's folder: the last step of making one. Raises OSError."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "path"}
        fields["rule"] = dataclasses.asdict(self.rule)
        write_manifest(self.path, fields, format=FORMAT, version=VERSION)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, each of which is a centre."""
        return self.starts[-1]

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return len(self.counts)

    def piece(self, number: int) -> FoundPaths:
        """What was found for a piece's centres, mapped. Raises StoreError for a damaged file."""
        if not 0 <= number < self.pieces:
            raise InputError(f"'{self.path}' has no piece {number}; expected 0 to {self.pieces - 1}.")
        if number not in self._mapped:
            self._mapped[number] = self._map(number)
        return self._mapped[number]

    @cached_property
    def _mapped(self) -> dict[int, FoundPaths]:
        """The pieces that were asked for."""
        return {}

    def _map(self, number: int) -> FoundPaths:
        centres = self.starts[number + 1] - self.starts[number]
        lengths = tuple(
            Paths(
                offsets=self._column(number, f"offsets-{length}", centres + 1),
                nodes=self._column(number, f"nodes-{length}", count),
                costs=self._column(number, f"costs-{length}", count),
            )
            for length, count in zip(self.rule.lengths, self.counts[number], strict=True)
        )
        return FoundPaths(lengths=lengths, radii=self._column(number, "radii", centres))

    def between(self, first: int, last: int) -> FoundPaths:
        """The paths of the centres `first` to `last` - 1: mapped where one piece has them all, else put together.

        Raises StoreError for a damaged file, InputError for centres that there are not."""
        if not 0 <= first <= last <= self.num_nodes:
            raise InputError(f"'{self.path}' has no centres {first} to {last}; expected 0 to {self.num_nodes}.")
        found = [
            _rows(self.piece(number), max(first - begin, 0), min(last, end) - begin)
            for number, (begin, end) in enumerate(itertools.pairwise(self.starts))
            if begin < last and first < end
        ]
        return joined(found or [_rows(self.piece(0), 0, 0)])

    def of(self, centres: Tensor) -> tuple[Paths, ...]:
        """The paths of some centres, in their order, a table a length. `centres`: int64 [n], none twice.

        Raises StoreError for a damaged file."""
        if len(centres) and torch.equal(centres, torch.arange(int(centres[0]), int(centres[0]) + len(centres))):
            return self.between(int(centres[0]), int(centres[-1]) + 1).lengths
        piece = torch.searchsorted(torch.tensor(self.starts), centres, right=True) - 1
        order = torch.argsort(piece, stable=True)
        several, begin = [], 0
        for number, count in zip(*(values.tolist() for values in torch.unique(piece, return_counts=True)), strict=True):
            chosen = centres[order[begin : begin + count]] - self.starts[number]
            several.append([_chosen(paths, chosen) for paths in self.piece(number).lengths])
            begin += count
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        sorted_paths = several or [[_chosen(paths, centres) for paths in self.piece(0).lengths]]
        return tuple(_chosen(_joined(pieces), place) for pieces in zip(*sorted_paths, strict=True))

    def edge_costs(self) -> Tensor:
        """The cost of every edge that was searched with, mapped: float32 or float64 [edges]."""
        return map_column(self.path / _EDGE_COSTS)

    def _column(self, number: int, name: str, length: int) -> Tensor:
        file = column_file(self.path, number, name)
        column = map_column(file)
        if len(column) != length:
            raise StoreError(f"'{file}' has {len(column)} rows; the manifest says {length}. {REMEDY}")
        return column


def write_piece(folder: Path, number: int, found: FoundPaths, rule: PathRule) -> dict[str, FileFacts]:
    """Writes the files of a piece into the table's `folder`; their facts by relative path. Raises OSError."""
    columns = {"radii": found.radii}
    for length, paths in zip(rule.lengths, found.lengths, strict=True):
        columns |= {f"{field.name}-{length}": getattr(paths, field.name) for field in dataclasses.fields(paths)}
    files = {column_file(folder, number, name): values for name, values in columns.items()}
    column_file(folder, number, "radii").parent.mkdir()
    return {str(file.relative_to(folder)): write_column(file, values.numpy()) for file, values in files.items()}


def write_edge_costs(folder: Path, costs: Tensor) -> dict[str, FileFacts]:
    """Writes the costs that a table was searched with into its `folder`. Raises OSError."""
    return {_EDGE_COSTS: write_column(folder / _EDGE_COSTS, costs.numpy())}


def joined(several: Sequence[FoundPaths]) -> FoundPaths:
    """The paths of the centres of all of `several`, at least one of them, in that order."""
    if len(several) == 1:
        return several[0]
    lengths = tuple(map(_joined, zip(*(found.lengths for found in several), strict=True)))
    return FoundPaths(lengths=lengths, radii=torch.cat([found.radii for found in several]))


def _joined(pieces: Sequence[Paths]) -> Paths:
    """The paths of one length, of one piece after the other."""
    return Paths(
        offsets=offsets(torch.cat([paths.offsets.diff() for paths in pieces])),
        nodes=torch.cat([paths.nodes for paths in pieces]),
        costs=torch.cat([paths.costs for paths in pieces]),
    )


def _chosen(paths: Paths, centres: Tensor) -> Paths:
    """The paths of some centres, by their places: int64 [n]."""
    counts = paths.offsets.diff()[centres]
    begins = offsets(counts)
    entries = torch.arange(int(begins[-1])) + torch.repeat_interleave(paths.offsets[centres] - begins[:-1], counts)
    return Paths(offsets=begins, nodes=paths.nodes[entries], costs=paths.costs[entries])


def _rows(found: FoundPaths, first: int, last: int) -> FoundPaths:
    """The centres `first` to `last` - 1 of those found."""
    lengths = []
    for paths in found.lengths:
        begin, end = int(paths.offsets[first]), int(paths.offsets[last])
        begins = paths.offsets[first : last + 1]
        if begin:
            begins = begins - begin
        lengths.append(Paths(offsets=begins, nodes=paths.nodes[begin:end], costs=paths.costs[begin:end]))
    return FoundPaths(lengths=tuple(lengths), radii=found.radii[first:last])

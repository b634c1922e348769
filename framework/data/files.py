"""A graph in files of the user's own: edge lists in any number of files, and a table of nodes.

Assumptions: raw ids are any int64 or text (which of them in CSV and TSV, dictionary.py says), neither dense nor sorted.
With a table of nodes a node's original id is its row there. Without one, but with a file of features, raw ids are row
numbers of it. With neither, the nodes are those that edges name, in sorted order. Parsing happens once: dense edges are
kept in scratch files for all later passes.
"""

import dataclasses
import functools
import glob
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from numpy.typing import NDArray

from framework import config
from framework.data.arrays import classes_of
from framework.data.dataset import ArrayRows, Mapper, RawGraph, Rows, each
from framework.data.dictionary import Dictionary, FoundIds, blank_ids, is_blank, raw_ids, whole_numbers_of
from framework.data.fingerprint import fingerprint
from framework.data.node_table import NodeTable
from framework.data.npz import read_array
from framework.data.split import hashed_split
from framework.data.tables import has_types, read_edges
from framework.errors import InputError
from framework.graph.edges import both_directions, doubled
from framework.graph.pairs import PairFiles, WeightFiles, append_pairs, append_scratch, require_scratch
from framework.registry import DATASETS


@DATASETS.register("files")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """A graph in files: edges in Parquet, CSV, TSV, NPZ or NPY; nodes in Parquet, CSV or TSV; features in NPY."""

    edges: tuple[str, ...]
    """Files of edges, or patterns (`edges/*.parquet`), read in sorted order a pattern."""
    nodes: str = ""
    """A table with one row a node. Empty: the nodes are those that edges name."""
    features: str = ""
    """An .npy file [N, columns], in the order of the nodes. Empty: `columns` of the table, or no features."""
    source: str = "source"
    """The edge column of the node an edge comes from."""
    target: str = "target"
    """The edge column of the node it goes to."""
    weight: str = ""
    """The edge column of its weight. Empty: none."""
    id: str = "id"
    """The node column of the raw id."""
    label: str = ""
    """The node column of the class: whole numbers from 0 (-1 or nothing for none) or names. Empty: no classes."""
    classes: int = 0
    """Number of classes, where labels are numbers. 0: the largest label and one."""
    split: str = ""
    """The node column that says `train`, `validation`, `test` or nothing (or 1, 2, 3, 0). Empty: see `shares`."""
    shares: tuple[float, float] | None = None
    """Shares of training and validation nodes, drawn by a hash of the original id, where no column says."""
    columns: tuple[str, ...] = ()
    """Node columns of numbers that are the features."""
    undirected: bool = False
    """Whether every edge is given once and stands for both directions."""
    batch_size: int = config.placement(1 << 20)
    """Rows read at once."""

    def __post_init__(self) -> None:
        if self.split and self.shares is not None:
            raise InputError(
                f"--data.split is '{self.split}' and --data.shares {self.shares}; expected one of them: a column that "
                "says what every node is for, or shares to draw it by."
            )

    def fingerprint(self) -> str:
        """Digest of the settings and of every file's content."""
        edges = self._edge_files()
        paths = dict.fromkeys(("edges", "nodes", "features"))  # content counts, not where it lies
        settings = {**config.encode(self, result_only=True), **paths, "files": len(edges)}
        others = [Path(file) for file in (self.nodes, self.features) if file]
        return fingerprint({**settings, "others": [bool(self.nodes), bool(self.features)]}, files=[*edges, *others])

    def open(self) -> RawGraph:
        """The graph, its dense edges in a temporary folder that lasts as long as the edges do. Raises as `ingest`."""
        folder = tempfile.TemporaryDirectory(prefix="shardyard-")
        raw = self.ingest(Path(folder.name), map)
        assert isinstance(raw.edges, PairFiles)
        return dataclasses.replace(raw, edges=dataclasses.replace(raw.edges, keep=folder))

    def ingest(self, scratch: Path, mapper: Mapper) -> RawGraph:
        """The graph; one call of `mapper` finds the raw ids of every file, another makes its edges dense.

        Raises InputError for a file that is missing, cut short, empty or lacks a column, an edge to an unknown node."""
        if self.features and self.columns:
            raise InputError("both --data.features and --data.columns are given; expected at most one of them.")
        table = self._node_table()
        features = self._features()
        files = self._edge_files()
        jobs = [_Job(dataset=self, number=number, file=file, scratch=scratch) for number, file in enumerate(files)]
        ids = self._ids(table, features, mapper, jobs)
        if ids is not None:
            Dictionary.of(ids, f"'{self.nodes}'").save(scratch)
        num_nodes = len(ids) if ids is not None else features.shape[0] if features else 0
        dense = [dataclasses.replace(job, num_nodes=num_nodes, has_dictionary=ids is not None) for job in jobs]
        for _ in each(mapper, _make_dense, dense):
            pass
        labels, class_names = table.labels(self.label) if table and self.label else (None, ())
        num_classes = len(class_names) or self.classes
        if labels is not None and not num_classes:
            num_classes = classes_of(labels)
        return RawGraph(
            edges=PairFiles(files=tuple(job.pairs for job in jobs), num_nodes=num_nodes, batch_size=self.batch_size),
            ids=None if ids is None or _is_dense(ids) else ids,
            features=features,
            labels=labels,
            num_classes=num_classes,
            class_names=class_names,
            split=self._split(table, num_nodes),
            edge_weights=WeightFiles(files=tuple(job.weights for job in jobs), batch_size=self.batch_size)
            if self.weight
            else None,
        )

    def _edge_files(self) -> list[Path]:
        found: list[Path] = []
        for pattern in self.edges:
            matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 - may be absolute
            if not matches:
                raise InputError(f"no file matches '{pattern}'; expected files of edges.")
            found += map(Path, matches)
        if not found:
            raise InputError("edges names no file; expected at least one.")
        found = [path.absolute() for path in found]  # other processes, in other folders, are told of them
        for path in found:
            if not path.is_file():
                raise InputError(f"'{path}' is missing. Name files of edges that are there.")
        return found

    def _node_table(self) -> NodeTable | None:
        if self.nodes:
            return NodeTable(path=Path(self.nodes), id=self.id, batch_size=self.batch_size)
        wanted = [name for name in ("label", "split", "columns") if getattr(self, name)]
        if wanted:
            raise InputError(f"{wanted[0]} names a column of a table of nodes; expected nodes to name its file.")
        return None

    def _features(self) -> Rows | None:
        if not self.features:
            return NodeTable(path=Path(self.nodes), id=self.id).rows(self.columns) if self.columns else None
        array = read_array(Path(self.features))
        if array.ndim != 2:
            raise InputError(f"'{self.features}' has shape {array.shape}; expected [nodes, columns].")
        return ArrayRows(array=array)

    def _ids(
        self, table: NodeTable | None, features: Rows | None, mapper: Mapper, jobs: list["_Job"]
    ) -> NDArray[Any] | None:
        """The raw ids in the order of original ids; None where raw ids are row numbers of the features."""
        if table is not None:
            return table.ids()
        if features is not None:
            return None
        found: FoundIds = functools.reduce(FoundIds.joined, each(mapper, _find_ids, jobs))
        return found.decided()

    def _split(self, table: NodeTable | None, num_nodes: int) -> NDArray[np.uint8] | None:
        if table is not None and self.split:
            return table.split(self.split)
        return hashed_split(num_nodes, self.shares) if self.shares else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """One file of edges, parsed by one call that may run in another process on the same file system."""

    dataset: Files
    """Which columns to read, and how."""
    number: int
    """The file's place among the files."""
    file: Path
    """The file."""
    scratch: Path
    """Where the dictionary is, and where dense edges go."""
    num_nodes: int = 0
    """Number of nodes, once it is known."""
    has_dictionary: bool = True
    """Whether raw ids are looked up; else they are the original ones."""

    @property
    def among(self) -> str:
        """Where nodes have to be."""
        return f"the table '{self.dataset.nodes}'" if self.dataset.nodes else f"the {self.num_nodes} rows of features"

    @property
    def pairs(self) -> Path:
        """The file's dense edges."""
        return self.scratch / f"{self.number:05d}.pairs"

    @property
    def weights(self) -> Path:
        """The weights beside them."""
        return self.scratch / f"{self.number:05d}.weights"


def _find_ids(job: _Job) -> FoundIds:
    """The different raw ids in one file."""
    known: FoundIds | None = None
    typed = has_types(job.file)
    for batch in read_edges(job.file, [job.dataset.source, job.dataset.target], job.dataset.batch_size):
        for column in batch.columns:
            found = FoundIds.of(column, f"'{job.file}'", typed=typed)
            known = found if known is None else known.joined(found)
    if known is None:
        raise _no_edges(job.file)
    return known


def _make_dense(job: _Job) -> int:
    """Writes the edges of one file between original ids, and their weights. Returns how many edges the file has."""
    require_scratch(job.scratch)
    dataset = job.dataset
    dictionary = Dictionary.load(job.scratch) if job.has_dictionary else None
    columns = [dataset.source, dataset.target, *([dataset.weight] if dataset.weight else [])]
    seen = 0
    for batch in read_edges(job.file, columns, dataset.batch_size):
        source, target = (_dense(job, dictionary, batch.column(end), seen) for end in range(2))
        if dataset.weight:
            weights = _weights(batch.column(2), job.file, seen)
            twice = np.repeat(weights, 2)[doubled(source, target)] if dataset.undirected else weights
            append_scratch(job.weights, twice)
        append_pairs(job.pairs, *(both_directions(source, target) if dataset.undirected else (source, target)))
        seen += len(batch)
    if not seen:
        raise _no_edges(job.file)
    return seen


def _dense(job: _Job, dictionary: Dictionary | None, column: pa.Array, first: int) -> NDArray[np.int64]:
    """The original ids of one end of edges, the first of them being number `first` of the file."""
    where, readable = f"'{job.file}'", np.ones(len(column), bool)
    numeric = dictionary is None or dictionary.keys.dtype.kind != "U"
    if numeric and not has_types(job.file):
        found = whole_numbers_of(column)
        ids, readable = found.fill_null(0).to_numpy(), found.is_valid().to_numpy(zero_copy_only=False)
        if blanks := int(compute.sum(is_blank(column)).as_py()):
            raise blank_ids(where, blanks)
    else:
        ids = raw_ids(column, where)
        if numeric != (ids.dtype.kind != "U"):
            raise InputError(
                f"{where} has ids of another kind than {job.among}, {column.type}: expected "
                f"{'numbers' if numeric else 'text'}. Save them alike."
            )
    originals = ids if dictionary is None else dictionary.lookup(ids)
    known = readable & (originals >= 0) & (originals < job.num_nodes)
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(
            f"{where} has an edge (number {first + row}) with node {column[row]}, which is unknown to {job.among}. "
            "Add the node there, or take the edge out."
        )
    return originals


def _weights(column: pa.Array, file: Path, first: int) -> NDArray[np.float32]:
    """The weights of edges, the first of them being number `first` of the file."""
    try:
        with np.errstate(over="ignore"):
            weights: NDArray[np.float32] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{file}' has weights of type {column.type}; expected numbers.") from error
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise InputError(
            f"'{file}' has an edge (number {first + bad[0]}) of weight {weights[bad[0]]}; expected a finite float32."
        )
    return weights


def _no_edges(file: Path) -> InputError:
    return InputError(f"'{file}' has no edges; expected at least one. Take it off the list, or export it again.")


def _is_dense(ids: NDArray[Any]) -> bool:
    return ids.dtype.kind == "i" and np.array_equal(ids, np.arange(len(ids)))

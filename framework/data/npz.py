"""Graphs in one NumPy archive: edges, labels, features and split together, or a SciPy sparse matrix.

Assumptions: the archive's edges fit in memory; nothing in it is pickled (an archive that is will not be read).
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array, load_npz

from framework.data.arrays import MASKS, from_arrays, from_scipy, split_column, split_of_masks, whole_numbers
from framework.data.dataset import NO_SPLIT, TEST, TRAIN, VALIDATION, ArrayRows, RawGraph, Rows
from framework.data.fingerprint import fingerprint
from framework.data.split import hashed_split
from framework.errors import InputError
from framework.registry import DATASETS

_DAMAGE = (
    *(OSError, ValueError, EOFError, TypeError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading a damaged archive raises, by where the damage is."""
_PLANETOID_VALIDATION = 500


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """The rows of a SciPy matrix, made dense a batch at a time."""

    matrix: Any
    """CSR [N, columns]."""
    batch_size: int = 8192
    """Rows a batch."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of nodes, number of columns."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def __post_init__(self) -> None:
        if self.matrix.dtype.kind not in "biuf":
            raise InputError(f"features are {self.matrix.dtype}; expected real numbers [nodes, columns].")

    def batches(self) -> Iterator[NDArray[Any]]:
        """Dense slices."""
        for start in range(0, self.shape[0], self.batch_size):
            yield self.matrix[start : start + self.batch_size].toarray()


@DATASETS.register("npz")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Npz:
    """A graph in one .npz file: edge_index, and y, features and a split where it has them."""

    path: str
    """The file. `edge_index` [2, E]; `y` [N]; features as `x` [N, columns], or as CSR in `indptr`, `indices`, `data`,
    `shape`; `labels`, the classes' names; a split as `split` [N]; as PyG's `train_mask`, `val_mask`, `test_mask`; or as
    Planetoid's `n_train` and `test`: the first n_train nodes are trained on, the next 500 validated on."""
    undirected: bool = True
    """Whether every edge is given once and stands for both directions."""
    shares: tuple[float, float] | None = None
    """Shares of training and validation nodes, drawn by a hash of the id. None: the file's own split."""
    row_normalized: bool = False
    """Whether a node's features are divided by their sum, as is usual for Planetoid's graphs."""

    def fingerprint(self) -> str:
        """Digest of the file and the settings."""
        settings = {"undirected": self.undirected, "shares": self.shares, "row_normalized": self.row_normalized}
        masks = {"masks": True} if Path(self.path).is_file() and {*MASKS} & set(_names(Path(self.path))) else {}
        return fingerprint({**settings, **masks}, files=[Path(self.path)])

    def open(self) -> RawGraph:
        """The graph. Raises InputError for a file that is missing, cut short, or without `edge_index`."""
        content = read_archive(Path(self.path))
        edge_index = content.get("edge_index")
        if edge_index is None or edge_index.ndim != 2 or edge_index.shape[0] != 2:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(content.items()))
            raise InputError(f"'{self.path}' holds {shapes}; expected edge_index [2, E] among them.")
        features = _features(Path(self.path), content, row_normalized=self.row_normalized)
        labels = content.get("y")
        graph = from_arrays(
            edge_index[0],
            edge_index[1],
            num_nodes=features.shape[0] if features else None,
            labels=labels,
            class_names=tuple(str(name) for name in content.get("labels", ())),
            undirected=self.undirected,
        ).graph
        num_nodes = graph.edges.num_nodes
        split = hashed_split(num_nodes, self.shares) if self.shares else _split(Path(self.path), content, num_nodes)
        return dataclasses.replace(graph, features=features, split=split)


@DATASETS.register("scipy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scipy:
    """A sparse adjacency matrix as scipy.sparse.save_npz writes it, with labels and features beside it."""

    path: str
    """The file: a square matrix, whose entry (row, column) is the edge row -> column."""
    features: str = ""
    """A .npy file [N, columns], or a sparse matrix in .npz. Empty: none."""
    labels: str = ""
    """A .npy file of whole numbers [N], -1 for none. Empty: none."""
    weighted: bool = False
    """Whether the entries are edge weights."""
    undirected: bool = False
    """Whether every edge is given once and stands for both directions."""
    shares: tuple[float, float] | None = None
    """Shares of training and validation nodes, drawn by a hash of the id. None: no split."""

    def fingerprint(self) -> str:
        """Digest of the files and the settings."""
        settings = {"weighted": self.weighted, "undirected": self.undirected, "shares": self.shares}
        files = {"path": self.path, "features": self.features, "labels": self.labels}
        given = {name: Path(file) for name, file in files.items() if file}
        return fingerprint({**settings, "files": list(given)}, files=given.values())

    def open(self) -> RawGraph:
        """The graph. Raises InputError for a file that is missing, cut short, or of another shape."""
        matrix = _matrix(Path(self.path))
        graph = from_scipy(
            matrix,
            weighted=self.weighted,
            labels=read_array(Path(self.labels)) if self.labels else None,
            split=hashed_split(matrix.shape[0], self.shares) if self.shares else None,
            undirected=self.undirected,
        ).graph
        features: Rows | None = None
        if self.features.endswith(".npz"):
            features = SparseRows(matrix=_matrix(Path(self.features)))
        elif self.features:
            features = ArrayRows(array=read_array(Path(self.features)))
        return dataclasses.replace(graph, features=features)


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an .npz file. Raises InputError for one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _names(path: Path) -> list[str]:
    """The names of an .npz file's arrays. Raises InputError for one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def read_array(path: Path) -> NDArray[Any]:
    """The array of an .npy file, mapped. Raises InputError for one that cannot be read."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"'{path}' is an archive of arrays; expected one array, in .npy.")
    return array


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(getattr(error, "strerror", None) or error).partition("\n")[0].rstrip(".")
    return InputError(f"'{path}' cannot be read as a NumPy file ({reason}). Name a whole .npy or .npz without pickles.")


def _matrix(path: Path) -> Any:
    try:
        return load_npz(path).tocsr()
    except (*_DAMAGE, KeyError) as error:
        raise _unreadable(path, error) from error


def _features(path: Path, content: dict[str, NDArray[Any]], *, row_normalized: bool) -> Rows | None:
    if "x" in content:
        return ArrayRows(array=_over_sums(content["x"]) if row_normalized else content["x"])
    if not {"indptr", "indices", "data", "shape"} <= content.keys():
        return None
    entries = (content["data"].astype(np.float32), content["indices"].astype(np.int64), content["indptr"])
    try:
        matrix = csr_matrix(entries, shape=tuple(content["shape"]))
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{path}' has features in indptr, indices, data and shape that are no CSR matrix ({error}); save what "
            "SciPy has under these names."
        ) from error
    return SparseRows(matrix=diags_array(_factors(matrix.sum(1))) @ matrix if row_normalized else matrix)


def _over_sums(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows over their sums."""
    quotient: NDArray[np.float32] = rows * _factors(rows.sum(1, dtype=np.float64))[:, None]
    return quotient


def _factors(sums: Any) -> NDArray[np.float32]:
    """One over each sum; a row that adds up to nothing stays as it is."""
    sums = np.asarray(sums, np.float64).ravel()
    return (1 / np.where(sums == 0, 1, sums)).astype(np.float32)


def _split(path: Path, content: dict[str, NDArray[Any]], num_nodes: int) -> NDArray[np.uint8] | None:
    if "split" in content:
        return split_column(content["split"])
    masks = {name: content[name] for name in MASKS if name in content}
    if masks:
        return split_of_masks(masks, num_nodes)
    if not {"n_train", "test"} <= content.keys():
        return None
    split = np.full(num_nodes, NO_SPLIT, np.uint8)
    trained = int(content["n_train"])
    split[:trained] = TRAIN
    split[trained : trained + _PLANETOID_VALIDATION] = VALIDATION
    test = content["test"]
    if test.dtype != np.bool_:
        test = whole_numbers("test", test)
        unknown = test[(test < 0) | (test >= num_nodes)]
        if len(unknown):
            raise InputError(f"'{path}' has node {unknown[0]} in test; expected 0 to {num_nodes - 1}.")
    split[test] = TEST
    return split

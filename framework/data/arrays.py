"""Graphs that are in memory already: arrays, SciPy matrices, PyG's Data.

Assumptions: node ids are dense; the arrays are not changed afterwards, for prepare may read them more than once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray

from framework.data.check import check_ends
from framework.data.dataset import NO_SPLIT, TEST, TRAIN, VALIDATION, ArrayRows, RawGraph
from framework.data.dictionary import Dictionary, raw_ids
from framework.data.fingerprint import fingerprint
from framework.errors import InputError
from framework.graph.edges import ArrayEdges, Ids, both_directions, doubled


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArrayWeights:
    """Edge weights of an array, cut into batches as ArrayEdges of the same batch size is."""

    array: NDArray[np.float32]
    """[E]."""
    batch_size: int = 1 << 20
    """Weights a batch."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Batches, each float32 [batch]."""
        for start in range(0, len(self.array), self.batch_size):
            yield self.array[start : start + self.batch_size]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """A data set made of arrays by one of the functions below."""

    graph: RawGraph
    """What it opens as."""

    def fingerprint(self) -> str:
        """Digest of the arrays."""
        graph, features, weights = self.graph, self.graph.features, self.graph.edge_weights
        assert isinstance(graph.edges, ArrayEdges)
        assert isinstance(features, ArrayRows | None)
        assert isinstance(weights, ArrayWeights | None)
        return fingerprint(
            {"num_nodes": graph.edges.num_nodes, "num_classes": graph.num_classes, "class_names": graph.class_names},
            arrays=[
                np.asarray(graph.edges.source, dtype=np.int64),
                np.asarray(graph.edges.target, dtype=np.int64),
                features.array if features else None,
                graph.labels,
                graph.split,
                graph.ids,
                weights.array if weights else None,
            ],
        )

    def open(self) -> RawGraph:
        """The graph itself."""
        return self.graph


def from_arrays(
    source: ArrayLike,
    target: ArrayLike,
    *,
    num_nodes: int | None = None,
    features: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    num_classes: int | None = None,
    class_names: tuple[str, ...] = (),
    split: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    edge_weights: ArrayLike | None = None,
    undirected: bool = False,
) -> InMemory:
    """A data set of edges source[i] -> target[i], both [E], and columns with one value a node (see RawGraph).

    `num_nodes`: by default as many as feature rows, labels, or the largest id say. `undirected`: every edge is given
    once and stands for both directions. Raises InputError for edge columns of other lengths, a weight that is not
    finite, and an id twice."""
    sources, targets = whole_numbers("source", source), whole_numbers("target", target)
    weights = None if edge_weights is None else _weights(edge_weights)
    if sources.ndim != 1 or sources.shape != targets.shape or (weights is not None and weights.shape != sources.shape):
        given = [sources.shape, targets.shape] + ([] if weights is None else [weights.shape])
        raise InputError(f"source, target and edge_weights have shapes {given}; expected one length for all.")
    classes = None if labels is None else whole_numbers("labels", labels)
    rows = None if features is None else np.asanyarray(features)
    if num_nodes is None:
        known = [len(column) for column in (rows, classes) if column is not None]
        num_nodes = known[0] if known else int(max(sources.max(initial=-1), targets.max(initial=-1))) + 1
    if undirected:
        check_ends(sources, targets, num_nodes)  # by the numbers that edges have before each becomes two
        if weights is not None:
            weights = np.repeat(weights, 2)[doubled(sources, targets)]
        sources, targets = both_directions(sources, targets)
    names = None if ids is None else raw_ids(pa.array(ids), "ids")
    if names is not None:
        Dictionary.of(names, "ids")
    if num_classes is None:
        num_classes = len(class_names) or (0 if classes is None else classes_of(classes))
    graph = RawGraph(
        edges=ArrayEdges(source=sources, target=targets, num_nodes=num_nodes),
        ids=names,
        features=None if rows is None else ArrayRows(array=rows),
        labels=classes,
        num_classes=num_classes,
        class_names=class_names,
        split=None if split is None else split_column(split),
        edge_weights=None if weights is None else ArrayWeights(array=weights),
    )
    return InMemory(graph=graph)


def _weights(values: ArrayLike) -> NDArray[np.float32]:
    """Edge weights as float32. Raises InputError for what is none, by the number that the edge has for the user."""
    try:
        with np.errstate(over="ignore"):
            weights = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"edge_weights holds {np.asarray(values).dtype}; expected numbers.") from error
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise InputError(f"the weight of edge {bad[0]} is {weights.flat[bad[0]]}; expected a finite float32.")
    return weights


def classes_of(labels: Ids) -> int:
    """How many classes there are where nobody says: as many as the greatest label of `labels` (int64 [any]).

    Raises InputError for one that is far from the others, as 999999 for none is: a network has an output a class."""
    classes = int(labels.max(initial=-1)) + 1
    there = np.unique(labels[labels >= 0]) if classes > _MANY_CLASSES else labels
    if classes > _MANY_CLASSES and 2 * len(there) < classes:
        raise InputError(
            f"the greatest label is {classes - 1} (the first at row {int(labels.argmax())}), but there are only "
            f"{len(there)} different ones; expected classes numbered from 0 on, and -1 for none. Number them so."
        )
    return classes


_MANY_CLASSES = 1000


def whole_numbers(name: str, values: ArrayLike) -> Ids:
    """A column of whole numbers as int64, whatever type holds them. Raises InputError for text, fractions, NaN, and for
    numbers outside int64."""
    column = np.asarray(values)
    if column.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {column.dtype}; expected whole numbers.")
    if column.dtype.kind == "f":
        end = np.float64(2.0**63)
        outside = ~np.isfinite(column) | (column < -end) | (column >= end)
        wrong = np.flatnonzero(outside | (column != np.floor(column)))
    else:
        wrong = np.flatnonzero(column > np.iinfo(np.int64).max)
    if len(wrong):
        raise InputError(f"{name} holds {column.flat[wrong[0]]} at {wrong[0]}; expected whole numbers within int64.")
    return column.astype(np.int64)


MASKS = {"train_mask": TRAIN, "val_mask": VALIDATION, "test_mask": TEST}
"""PyG's names of who is for what."""


def split_of_masks(masks: Mapping[str, NDArray[Any]], num_nodes: int) -> NDArray[np.uint8]:
    """A split, uint8 [N], of some of PyG's masks, bool [N]. Raises InputError for masks that are not, or overlap."""
    split = np.full(num_nodes, NO_SPLIT, np.uint8)
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != (num_nodes,):
            raise InputError(f"{name} has shape {mask.shape}, of {mask.dtype}; expected ({num_nodes},) of bool.")
        twice = np.flatnonzero(mask & (split != NO_SPLIT))
        if len(twice):
            other = next(before for before in masks if MASKS[before] == split[twice[0]])
            raise InputError(f"{other} and {name} both have node {twice[0]}; expected every node in one mask at most.")
        split[mask] = MASKS[name]
    return split


def split_column(values: ArrayLike) -> NDArray[np.uint8]:
    """A split, uint8 [N]. Raises InputError for a value that is none of NO_SPLIT, TRAIN, VALIDATION and TEST."""
    split = whole_numbers("split", values)
    wrong = np.flatnonzero((split < NO_SPLIT) | (split > TEST))
    if len(wrong):
        expected = f"{NO_SPLIT} (none), {TRAIN} (training), {VALIDATION} (validation) or {TEST} (test)"
        raise InputError(f"split holds {split[wrong[0]]} for node {wrong[0]}; expected {expected}.")
    return split.astype(np.uint8)


def from_scipy(
    matrix: Any,
    *,
    weighted: bool = False,
    features: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    split: ArrayLike | None = None,
    undirected: bool = False,
) -> InMemory:
    """A data set of a SciPy sparse matrix [N, N]: the entry (row, column) is the edge row -> column.

    `weighted`: the entries are edge weights; else only their places count. The other arguments are `from_arrays`'s.
    Raises InputError for a matrix that is not square."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"the adjacency matrix has shape {matrix.shape}; expected a square one.")
    entries = matrix.tocoo()
    return from_arrays(
        entries.row,
        entries.col,
        num_nodes=matrix.shape[0],
        features=features,
        labels=labels,
        split=split,
        edge_weights=entries.data if weighted else None,
        undirected=undirected,
    )


def from_pyg(data: Any) -> InMemory:
    """A data set of a `torch_geometric.data.Data`: its edge_index, x, y, edge_weight and train, val and test masks.

    Raises InputError where there is no `edge_index`, `y` has more than one value a node, or masks overlap."""
    edge_index = getattr(data, "edge_index", None)
    if edge_index is None:
        raise InputError(f"the {type(data).__name__} has no edge_index; expected one, int64 [2, E].")
    labels, features, weights = (getattr(data, name, None) for name in ("y", "x", "edge_weight"))
    if labels is not None and labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels is not None and labels.dim() != 1:
        raise InputError(f"y has shape {tuple(labels.shape)}; expected one class a node.")
    num_nodes = int(data.num_nodes)
    masks = {name: _numpy(name, mask) for name in MASKS if (mask := getattr(data, name, None)) is not None}
    return from_arrays(
        _numpy("edge_index", edge_index[0]),
        _numpy("edge_index", edge_index[1]),
        num_nodes=num_nodes,
        features=None if features is None else _numpy("x", features),
        labels=None if labels is None else _numpy("y", labels),
        split=split_of_masks(masks, num_nodes) if masks else None,
        edge_weights=None if weights is None else _numpy("edge_weight", weights),
    )


def _numpy(name: str, tensor: Any) -> NDArray[Any]:
    """A tensor as NumPy's array. Raises InputError for a sparse one, and for what is none."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        given = f"of layout {tensor.layout}" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise InputError(f"{name} is {given}; expected a dense tensor: make it one, for instance by to_dense().")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy()
    return array

"""Is a raw graph usable? Every mistake that would surface later as nonsense is named here first.

Assumptions: edges are read once, in batches; feature rows are checked where they are copied.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.data.dataset import NO_LABEL, TEST, RawGraph
from framework.errors import InputError, PluginError
from framework.graph.edges import Ids


def check_graph(raw: RawGraph) -> None:
    """Raises InputError, naming the node, the edge or the column, for a graph without nodes, an edge to a node that is
    not there, a label out of range, a split of another value, columns of other lengths."""
    if not isinstance(raw, RawGraph):
        raise PluginError(f"the data set opened as a {type(raw).__name__}; expected a RawGraph. Mend its open().")
    num_nodes = raw.edges.num_nodes
    if num_nodes < 1:
        raise InputError("the graph has no nodes; expected at least one.")
    for name, column in (("ids", raw.ids), ("labels", raw.labels), ("split", raw.split)):
        if column is not None and column.shape != (num_nodes,):
            raise InputError(f"{name} has shape {column.shape}; expected ({num_nodes},), one value a node.")
    if raw.features is not None and (raw.features.shape[0] != num_nodes or raw.features.shape[1] < 1):
        raise InputError(f"features have shape {raw.features.shape}; expected ({num_nodes}, at least 1).")
    if raw.class_names and len(raw.class_names) != raw.num_classes:
        raise InputError(f"there are {len(raw.class_names)} class names; expected {raw.num_classes}, one a class.")
    if raw.labels is not None:
        _check_range(raw, "label", raw.labels, NO_LABEL, raw.num_classes, "-1 for a node without one")
    if raw.split is not None:
        _check_range(raw, "split", raw.split, 0, TEST + 1, "0 for a node in none")
    _check_edges(raw)


def check_ends(source: Ids, target: Ids, num_nodes: int, *, first: int = 0) -> None:
    """Raises InputError, naming it, where one of the edges from number `first` on names a node that is not there."""
    for end in (source, target):
        bad = np.flatnonzero((end < 0) | (end >= num_nodes))
        if len(bad):
            raise InputError(
                f"edge {first + int(bad[0])} ({source[bad[0]]} -> {target[bad[0]]}) names node {end[bad[0]]}, "
                f"which is unknown; expected 0 to {num_nodes - 1}."
            )


def check_rows(raw: RawGraph, first: int, rows: NDArray[np.float32]) -> None:
    """Raises InputError, naming node and column, where `rows` (float32 [batch, columns], of the nodes from original id
    `first` on) hold a value that is not finite."""
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"feature column {column} of {name_node(raw, first + int(row))} is {rows[row, column]}; "
            "expected a finite float32. Replace or remove it in the raw data."
        )


def name_node(raw: RawGraph, original: int) -> str:
    """How the user knows a node."""
    return f"node {original if raw.ids is None else raw.ids[original]}"


def _check_range(raw: RawGraph, what: str, values: NDArray[Any], least: int, end: int, none: str) -> None:
    bad = np.flatnonzero((values < least) | (values >= end))
    if len(bad):
        raise InputError(
            f"the {what} of {name_node(raw, int(bad[0]))} is {values[bad[0]]}; expected 0 to {end - 1}, or {none}."
        )


def _check_edges(raw: RawGraph) -> None:
    seen = 0
    for source, target in raw.edges:
        if source.shape != target.shape or source.ndim != 1:
            raise InputError(f"a batch of edges has shapes {source.shape}, {target.shape}; expected two equal lengths.")
        check_ends(source, target, raw.edges.num_nodes, first=seen)
        seen += len(source)
    if seen != raw.edges.num_edges:
        raise InputError(f"the edge stream gave {seen} edges; it had announced {raw.edges.num_edges}.")

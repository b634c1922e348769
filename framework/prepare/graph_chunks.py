"""Graphs of a chunk of samples: made by one call, kept in a scratch file as columns, cut and joined again.

Assumptions: the call may run in another process on the same file system. Where a chunk ends shows in no column.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framework.data.graph_sets import GraphSet, SmallGraph, fault_of
from framework.errors import PluginError, asked
from framework.graph.pairs import require_scratch
from framework.kernels.csr import build_csr
from framework.registry import GRAPH_SETS
from framework.store.folder import full_disk_named

Shape = tuple[int, int, bool]
"""What all graphs of a set have alike: feature columns, dimensions of positions, and whether edges have weights."""
Columns = dict[str, NDArray[Any]]
"""Graphs one after the other: their numbers of `nodes` and `edges`, and the columns of a collection, degrees instead of
`indptr`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Samples whose graphs one call makes."""

    graph_set: GraphSet
    """Who makes them."""
    contents: Sequence[Any]
    """What of."""
    numbers: NDArray[np.int64]
    """Their numbers in the raw data."""
    file: Path
    """The scratch file that the graphs go to."""
    cache: Path
    """Where the set keeps what took long."""


def make_graphs(chunk: Chunk) -> tuple[list[tuple[int, str]], Shape | None]:
    """Writes the graphs of a chunk to its file; returns the samples without one, each with the reason, and what all
    graphs have in common. Raises PluginError for a graph that is malformed, and for a set that fails."""
    require_scratch(chunk.file.parent)
    who = f"graph set '{GRAPH_SETS.name_of(type(chunk.graph_set))}'"
    refused, made = [], []
    for number, content in zip(chunk.numbers.tolist(), chunk.contents, strict=True):
        graph = asked(f"{who} failed on sample {number}", functools.partial(_graph, chunk, content))
        if isinstance(graph, str):
            refused.append((number, graph))
            continue
        fault = fault_of(graph)
        if fault:
            raise PluginError(f"{who} made of sample {number} a graph with {fault}. Mend its graph().")
        made.append(graph)
    shapes = {(graph.features.shape[1], graph.positions.shape[1], graph.weights is not None) for graph in made}
    if len(shapes) > 1:
        raise uneven(shapes)
    with full_disk_named(chunk.file):
        np.savez(chunk.file, **_joined([_columns(graph) for graph in made]) if made else {})  # type: ignore[arg-type]  # of their allow_pickle
    return refused, next(iter(shapes), None)


def _graph(chunk: Chunk, content: Any) -> SmallGraph | str:
    with full_disk_named(chunk.cache):
        return chunk.graph_set.graph(content, chunk.cache)


def _columns(graph: SmallGraph) -> Columns:
    """One graph as columns."""
    nodes = len(graph.features)
    target, source = (np.ascontiguousarray(end, dtype=np.int64) for end in (graph.target, graph.source))
    csr = build_csr(torch.from_numpy(target), torch.from_numpy(source), nodes)
    columns = {
        "nodes": np.array([nodes]),
        "edges": np.array([len(csr.indices)]),
        "features": np.asarray(graph.features, np.float32),
        "positions": np.asarray(graph.positions, np.float32),
        "degrees": csr.indptr.diff().numpy(),
        "indices": csr.indices.to(torch.int32).numpy(),
    }
    if graph.weights is not None:
        columns["weights"] = np.asarray(graph.weights, np.float32)[csr.edges.numpy()]
    return columns


def _joined(several: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([columns[name] for columns in several]) for name in several[0]}


def _cut(columns: Columns, begin: int, end: int) -> Columns:
    """The graphs `begin` to `end` of several."""
    ends = {kind: np.concatenate([[0], columns[kind].cumsum()]) for kind in ("nodes", "edges")}
    nodes, edges = (slice(ends[kind][begin], ends[kind][end]) for kind in ("nodes", "edges"))
    by_kind = {"nodes": slice(begin, end), "edges": slice(begin, end), "indices": edges, "weights": edges}
    return {name: values[by_kind.get(name, nodes)] for name, values in columns.items()}


def part_columns(files: Sequence[Path], sizes: Sequence[int], begin: int, end: int) -> Columns:
    """The graphs `begin` to `end` of those in all scratch files, of which each has `sizes`; perhaps none."""
    pieces: list[Columns] = []
    first = 0
    for file, size in zip(files, sizes, strict=True):
        low, high = max(begin, first) - first, min(end, first + size) - first
        if low < high or (not pieces and size):  # an empty piece in front has the columns' types, if nothing else
            with np.load(file, allow_pickle=False) as arrays:
                pieces.append(_cut(dict(arrays), min(low, size), min(max(low, high), size)))
        first += size
    return _joined(pieces)


def graphs_in(file: Path) -> int:
    """How many graphs a scratch file holds."""
    with np.load(file, allow_pickle=False) as arrays:
        return len(arrays["nodes"]) if "nodes" in arrays else 0


def uneven(shapes: Iterable[Shape]) -> PluginError:
    """What to say of graphs that do not fit together."""
    told = " and ".join(
        f"{columns} columns at {dimensions} dimensions with{'' if weighted else 'out'} edge weights"
        for columns, dimensions, weighted in sorted(shapes)
    )
    return PluginError(f"graphs of one data set have {told}; expected the same for all. Mend its graph().")

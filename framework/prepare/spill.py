"""Edges and feature rows of a raw graph, bucketed by part into scratch files.

Assumptions: the graph was checked; edges are bucketed piece by piece, and pieces may be done in any order and by other
processes that see the same file system. The buckets of a part, read piece after piece, hold its edges in input order.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.data.check import check_rows
from framework.data.dataset import Mapper, RawGraph, each
from framework.errors import InputError
from framework.graph.edges import EdgeStream
from framework.graph.pairs import PairFiles, WeightFiles, append_pairs, append_scratch, read_scratch, require_scratch
from framework.partition import Placement

Progress = Callable[[str, float], None]
"""Told the step that is going on, and how much of it is done, 0 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """A share of the edges, bucketed by one call that may run in another process on the same file system."""

    number: int
    """Its place in the order of the input."""
    edges: EdgeStream
    """The edges."""
    weights: Iterable[NDArray[np.float32]] | None
    """Their weights, a batch beside every batch of edges."""
    parts: Path
    """A file of parts, int32: of every node, which its in-edges follow, or of every edge."""
    first: int
    """The number of its first edge among all."""
    by_edge: bool
    """Whether there is a part for every edge."""
    scratch: Path
    """Where the buckets go."""


def buckets(scratch: Path, part: int) -> Path:
    """The scratch folder of everything that was put aside for a part."""
    return scratch / f"{part:05d}"


def bucket(scratch: Path, part: int, piece: int, kind: str) -> Path:
    """The scratch file of what a piece holds for a part: its `pairs`, `weights` or `features`."""
    return buckets(scratch, part) / f"{piece:05d}.{kind}"


def _pieces(raw: RawGraph, parts: Path, scratch: Path, *, by_edge: bool) -> list[_Piece]:
    """One piece a file where the edges are in files that another process can open, else one piece."""
    edges, weights = raw.edges, raw.edge_weights
    streams: list[tuple[EdgeStream, Iterable[NDArray[np.float32]] | None]] = [(edges, weights)]
    if isinstance(edges, PairFiles) and (weights is None or isinstance(weights, WeightFiles)):
        streams = [
            (
                dataclasses.replace(edges, files=(file,), node_weights=None, keep=None),
                weights and dataclasses.replace(weights, files=(weights.files[number],)),
            )
            for number, file in enumerate(edges.files)
        ]
    starts = itertools.accumulate((piece.num_edges for piece, _ in streams), initial=0)
    return [
        _Piece(
            number=number,
            edges=piece,
            weights=beside,
            parts=parts,
            first=first,
            by_edge=by_edge,
            scratch=scratch,
        )
        for number, ((piece, beside), first) in enumerate(zip(streams, starts, strict=False))
    ]


def spill_edges(raw: RawGraph, placement: Placement, scratch: Path, mapper: Mapper, told: Progress) -> None:
    """Buckets all edges, and their weights, by part. Raises InputError for a bad weight, and for a vertex-cut that
    answers amiss the second time it is asked."""
    by_edge = placement.kind == "vertex-cut"
    append_scratch(scratch / "parts", np.empty(0, np.int32))  # which a graph without edges says nothing more of
    for parts in placement.edge_parts(raw.stream()) if by_edge else [placement.owners]:
        append_scratch(scratch / "parts", parts)
    pieces = _pieces(raw, scratch / "parts", scratch, by_edge=by_edge)
    for done, _ in enumerate(each(mapper, _spill_piece, pieces)):
        told("bucket edges", (done + 1) / len(pieces))


def _spill_piece(piece: _Piece) -> int:
    """Appends every edge of the piece to the bucket of its part, in order. Returns the number of edges."""
    require_scratch(piece.parts)
    parts = read_scratch(piece.parts, np.int32)
    total = 0
    weights = None if piece.weights is None else iter(piece.weights)
    for source, target in piece.edges:
        beside = None if weights is None else _checked_weights(next(weights, None), piece.first + total, len(source))
        chosen_parts = parts[piece.first + total :][: len(source)] if piece.by_edge else parts[target]
        for part, chosen in _by_part(chosen_parts):
            append_pairs(bucket(piece.scratch, part, piece.number, "pairs"), source[chosen], target[chosen])
            if beside is not None:
                append_scratch(bucket(piece.scratch, part, piece.number, "weights"), beside[chosen])
        total += len(source)
    if weights is not None and next(weights, None) is not None:
        raise InputError(f"there are more weights than the {total} edges; expected one an edge.")
    return total


def _checked_weights(weights: NDArray[np.float32] | None, first: int, expected: int) -> NDArray[np.float32]:
    if weights is None or weights.shape != (expected,):
        given = "none" if weights is None else str(weights.shape)
        raise InputError(f"the weights from edge {first} on are {given}; expected {expected}, one an edge.")
    weights = np.asarray(weights, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise InputError(f"the weight of edge {first + int(bad[0])} is {weights[bad[0]]}; expected a finite float32.")
    return weights


def _by_part(parts: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Every part that occurs, and the positions at which it does, increasing."""
    if len(parts):
        order = np.argsort(parts, kind="stable")
        found, starts = np.unique(parts[order], return_index=True)
        for part, positions in zip(found, np.split(order, starts[1:]), strict=True):
            yield int(part), positions


def spill_features(raw: RawGraph, placement: Placement, scratch: Path, told: Progress) -> None:
    """Buckets all feature rows by the part that owns the node, in two pieces: first those of nodes that other parts
    hold a row of. Raises InputError for a value that is not finite."""
    if raw.features is None:
        return
    first, rest = 0, ~placement.shared
    for batch in raw.features.batches():
        with np.errstate(over="ignore"):  # too large a number becomes infinite, which check_rows names
            rows = np.asarray(batch, dtype=np.float32)
        check_rows(raw, first, rows)
        here = slice(first, first + len(rows))
        for place, chosen in _by_part(2 * placement.owners[here] + rest[here]):
            append_scratch(bucket(scratch, place >> 1, place & 1, "features"), rows[chosen])
        first += len(rows)
        told("bucket features", first / raw.features.shape[0])
    if first != raw.features.shape[0]:
        raise InputError(f"there are {first} feature rows; expected {raw.features.shape[0]}, one a node.")

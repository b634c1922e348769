"""The neighbours of each node, a window of nodes at a time, of a graph that does not fit in memory.

Assumptions: an edge stream comes in any order, and may be larger than memory; what has one number a node fits. The
edges are sorted by node once: into windows of consecutive nodes in a temporary file (in TMPDIR), which is then read
once a pass by plain file reads, so that the resident memory is that of one window. Both directions of an edge count, so
two nodes with edges both ways are twice neighbours; except that in a symmetric graph, where this would only double
everything, each is counted once. Self-loops are dropped, duplicates stay. A graph of one window never leaves memory.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from io import FileIO

import numpy as np
import torch
from numpy.typing import NDArray

from framework.errors import InputError
from framework.graph.edges import EdgeBatch, EdgeStream, Ids
from framework.kernels import partition as kernels
from framework.kernels.csr import offsets

Nodes = NDArray[np.int32]

_ENTRIES_PER_NODE = 8
_LEAST_ENTRIES = 1 << 18
_CHUNK = 1 << 17
_PAIR_BYTES, _ENTRY_BYTES = 8, 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """The neighbours of consecutive nodes. Its arrays are overwritten by the next window."""

    first: int
    """The first node."""
    indptr: Ids
    """Where the neighbours of each node begin and the last ones end: int64 [size + 1]."""
    neighbors: Nodes
    """int32 [indptr[-1]], in the order of the stream."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adjacency:
    """The neighbours of every node, to be passed over as often as one likes."""

    degrees: Ids
    """Neighbours of each node, int64 [num_nodes]."""
    edge_weights: Ids
    """In-edges of each node, self-loops and duplicates included: what owning it means to a shard. int64 [num_nodes]."""
    bounds: Ids
    """The first node of each window, and the number of nodes: int64 [windows + 1]."""
    buffer: Nodes
    """Room for the neighbours of any one window; those of the only window, where there is one."""
    file: FileIO | None
    """The neighbours of all nodes in order, int32; None where they are in the buffer."""

    def windows(self) -> Iterator[Window]:
        """Every node once, in order."""
        if self.file is not None:
            self.file.seek(0)
        for first, last in zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True):
            indptr = _starts(self.degrees[first:last])
            neighbors = self.buffer[: indptr[-1]]
            if self.file is not None:
                _read(self.file, neighbors)
            yield Window(first=first, indptr=indptr, neighbors=neighbors)


@contextlib.contextmanager
def open_adjacency(graph: EdgeStream, *, budget: int | None = None) -> Iterator[Adjacency]:
    """Sort `graph` by node; the temporary file is gone at the end of the `with`.

    `budget`: entries a window may have (a node with more is a window by itself); 8 a node, at least 2^18, unless
    given. Raises InputError for an id that is no node, for a stream in which a node has other than its number of
    neighbours the second time, for 2^31 nodes, and when the temporary folder is full."""
    if graph.num_nodes >= 2**31:
        raise InputError(f"the graph has {graph.num_nodes} nodes; partitioners take fewer than 2^31.")
    scan = kernels.Scan.empty(graph.num_nodes)
    for source, target in _chunks(graph):
        kernels.scan_edges(source, target, scan)
    symmetric = scan.asymmetry[0] == 0
    degrees = scan.out_degrees if symmetric else scan.out_degrees + scan.in_degrees
    bounds = _window_bounds(degrees, budget or max(_ENTRIES_PER_NODE * graph.num_nodes, _LEAST_ENTRIES))
    entries = np.add.reduceat(degrees, bounds[:-1]) if graph.num_nodes else np.zeros(1, np.int64)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0)) if len(entries) > 1 else None
        adjacency = Adjacency(
            degrees=degrees,
            edge_weights=scan.in_degrees + scan.loops,
            bounds=bounds,
            buffer=np.empty(int(entries.max()), np.int32),
            file=file,
        )
        del scan
        try:
            _sort(graph, adjacency, entries, both=not symmetric)
        except OSError as error:
            raise InputError(
                f"the edges could not be sorted in the folder {tempfile.gettempdir()}: {error.strerror}; free "
                f"{int(entries.sum()) * _PAIR_BYTES >> 20} MiB there or set TMPDIR to a folder that has them."
            ) from error
        yield adjacency


def _window_bounds(degrees: Ids, budget: int) -> Ids:
    """Cut the nodes into runs of at most `budget` neighbours, each of at least one node."""
    total = np.cumsum(degrees)
    bounds = [0]
    while bounds[-1] < len(degrees):
        before = total[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(max(bounds[-1] + 1, int(np.searchsorted(total, before + budget, side="right"))))
    return np.array(bounds if len(bounds) > 1 else [0, 0], np.int64)


def _sort(graph: EdgeStream, adjacency: Adjacency, entries: Ids, *, both: bool) -> None:
    """Fill the buffer, or the file: first with pairs by window, then window by window with rows."""
    windows = len(entries)
    window = np.repeat(np.arange(windows, dtype=np.int32), np.diff(adjacency.bounds))
    begins = np.cumsum(entries) - entries
    filled = np.zeros(windows, np.int64)
    rows = _Rows(adjacency, 0, adjacency.bounds[-1]) if adjacency.file is None else None
    for source, target in _chunks(graph):
        ends, pairs = kernels.bucket_edges(source, target, window, windows, both=both)
        counts = np.diff(ends, prepend=0)
        filled += counts
        if (filled > entries).any():
            raise _other_total(filled, entries)
        if rows is not None:
            rows.fill(pairs)
            continue
        assert adjacency.file is not None
        for number in np.flatnonzero(counts):
            adjacency.file.seek(int(begins[number] + filled[number] - counts[number]) * _PAIR_BYTES)
            _write(adjacency.file, pairs[ends[number] - counts[number] : ends[number]])
    if (filled != entries).any():
        raise _other_total(filled, entries)
    if adjacency.file is not None:
        _pairs_to_rows(adjacency, adjacency.file, entries, begins)


def _pairs_to_rows(adjacency: Adjacency, file: FileIO, entries: Ids, begins: Ids) -> None:
    """Replace the pairs of each window by its rows, in place: they end before the pairs of the next window begin."""
    chunk = np.empty((_CHUNK, 2), np.int32)
    for number, (begin, count) in enumerate(zip(begins.tolist(), entries.tolist(), strict=True)):
        rows = _Rows(adjacency, *adjacency.bounds[number : number + 2].tolist())
        file.seek(begin * _PAIR_BYTES)
        for done in range(0, count, _CHUNK):
            pairs = chunk[: min(_CHUNK, count - done)]
            _read(file, pairs)
            rows.fill(pairs)
        file.seek(begin * _ENTRY_BYTES)
        _write(file, adjacency.buffer[:count])
    file.truncate(int(entries.sum()) * _ENTRY_BYTES)


class _Rows:
    """The rows of a window, in the buffer, while they are filled."""

    def __init__(self, adjacency: Adjacency, first: int, last: int) -> None:
        starts = _starts(adjacency.degrees[first:last])
        self._first, self._following, self._ends = first, starts[:-1].copy(), starts[1:]
        self._buffer = adjacency.buffer

    def fill(self, pairs: Nodes) -> None:
        """Put the second of each of `pairs` into the row of the first. Raises InputError for a row that is full."""
        bad = kernels.fill_rows(pairs, self._first, self._following, self._ends, self._buffer)
        if bad is not None:
            raise _changed(f"node {pairs[bad, 0]} has more neighbours than the first time")


def _chunks(graph: EdgeStream) -> Iterator[EdgeBatch]:
    """The stream in pieces small enough that what is made of one does not count."""
    for source, target in graph:
        for start in range(0, len(source), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield np.ascontiguousarray(source[part], np.int64), np.ascontiguousarray(target[part], np.int64)


def _starts(counts: Ids) -> Ids:
    starts: Ids = offsets(torch.from_numpy(counts)).numpy()
    return starts


def _read(file: FileIO, array: Nodes) -> None:
    """Fill the contiguous `array`. A read of a file may give less than was asked for."""
    view = _bytes(array)
    while len(view):
        got = file.readinto(view)
        assert got, "the temporary file is shorter than what was written to it"
        view = view[got:]


def _write(file: FileIO, array: Nodes) -> None:
    """Write all of the contiguous `array`. A write to a file may take less than was given."""
    view = _bytes(array)
    while len(view):
        view = view[file.write(view) :]


def _bytes(array: Nodes) -> memoryview:
    return array.data.cast("B") if array.size else memoryview(b"")


def _other_total(filled: Ids, entries: Ids) -> InputError:
    return _changed(f"{int(filled.sum())} neighbours so far, {int(entries.sum())} in all the first time")


def _changed(how: str) -> InputError:
    return InputError(
        f"the stream gave other edges the second time it was read ({how}); expected the same edges each time."
    )

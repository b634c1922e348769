"""Partitions: what a partitioner is, what its answer becomes, and how good it is.

An edge-cut gives every node one owner; the edges of a shard are the in-edges of its nodes. A vertex-cut gives every
edge one owner and replicates nodes: a node's master is on one of the parts that hold an edge of it, on the others are
mirrors. `place` is the way from a plug-in to a placement: it runs the plug-in, checks its answer, and measures it.
Nothing here holds more than one batch of edges and `parts` bits a node.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from framework import random
from framework.errors import InputError, PluginError, asked
from framework.graph.edges import EdgeBatch, EdgeStream, Ids
from framework.graph.shard import Kind
from framework.memory import PeakMemory
from framework.registry import PARTITIONERS

NodeParts = NDArray[np.int32]
EdgeParts = NDArray[np.int32]

T = TypeVar("T")

_FLOAT_BYTES = 4
_NODE_CHUNK = 1 << 16


@runtime_checkable
class EdgeCut(Protocol):
    """A partitioner that gives every node one owner."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes], each in [0, parts)."""


@runtime_checkable
class VertexCut(Protocol):
    """A partitioner that gives every edge one owner. Its method has another name, so that the two can be told apart."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        """For each batch of the stream, in its order, the part of every edge: int32 [batch], each in [0, parts)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How good a placement is. A balance is the largest part over the mean part: 1 is perfect."""

    cut_ratio: float
    """Share of edges between two parts; for a vertex-cut, share of nodes that are on several parts."""
    replication_factor: float
    """Rows held (owned, and halo or mirrors) over nodes."""
    communication_volume: int
    """Rows that cross in one exchange: the sum over nodes of the other parts that need them."""
    node_balance: float
    """Of owned nodes."""
    edge_balance: float
    """Of edges: the in-edges of owned nodes, or the edges given."""
    training_balance: float | None
    """Of the stream's node weights (training nodes); None where it has none."""
    halo_share: float
    """Halo (or mirror) rows over owned rows, in the part where this is worst."""
    bytes_per_layer: tuple[int, ...]
    """Bytes that one forward exchange moves before each layer, float32, for the widths asked for."""
    bytes_per_epoch: int
    """Bytes of a full-graph epoch: forward and backward of every layer but the first, whose rows are fetched once."""
    seconds: float
    """Wall time of the partitioner."""
    cpu_seconds: float
    """Processor time of the partitioner, of all its threads."""
    peak_memory_bytes: int
    """What the partitioner added to the resident set at its worst moment."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where every node and every edge of a graph belongs, and how good that is."""

    kind: Kind
    """What the partitioner cut."""
    parts: int
    """Number of parts; some may be empty."""
    owners: NodeParts
    """The part that owns a node (in a vertex-cut: that holds its master), int32 [num_nodes]."""
    replicas: NDArray[np.uint8]
    """The parts that hold a row of a node beside its owner, as bits (little end first): uint8 [num_nodes, parts / 8].

    These are the halo of an edge-cut and the mirrors of a vertex-cut."""
    partitioner: EdgeCut | VertexCut
    """What made it."""
    quality: Quality
    """How good it is."""

    @property
    def shared(self) -> NDArray[np.bool_]:
        """Whether a part beside its owner holds a row of a node: bool [num_nodes]."""
        shared: NDArray[np.bool_] = np.any(self.replicas, axis=1)
        return shared

    def replicated(self, part: int) -> Ids:
        """The nodes that `part` holds a row of and does not own, sorted: int64 [halo or mirrors]."""
        return np.flatnonzero(self.replicas[:, part >> 3] & np.uint8(1 << (part & 7)))

    def edge_parts(self, graph: EdgeStream) -> Iterator[EdgeParts]:
        """For each batch of `graph` (the one that was placed), the part of every edge: int32 [batch].

        A vertex-cut is computed again, which is why it must be deterministic: a list of it would take O(edges)."""
        if isinstance(self.partitioner, EdgeCut):
            for _, target in graph:
                yield self.owners[target]
        else:
            for _, holder in _edge_answers(self.partitioner, graph, self.parts):
                yield holder


def kind_of(partitioner: EdgeCut | VertexCut) -> Kind:
    """What a partitioner cuts; one that does both is taken for an edge-cut."""
    return "edge-cut" if isinstance(partitioner, EdgeCut) else "vertex-cut"


def place(
    partitioner: EdgeCut | VertexCut, graph: EdgeStream, parts: int, *, widths: tuple[int, ...] = (128, 256)
) -> Placement:
    """Run `partitioner` on `graph` and measure its answer. `widths`: columns of the rows before each layer.

    Raises InputError for parts < 1, and PluginError for an answer of wrong type, shape or range, naming the plug-in."""
    if parts < 1:
        raise InputError(f"--parts is {parts}; expected at least 1.")
    if isinstance(partitioner, EdgeCut):
        return _place_nodes(partitioner, graph, parts, widths)
    if isinstance(partitioner, VertexCut):
        return _place_edges(partitioner, graph, parts, widths)
    raise InputError(
        f"{_name(partitioner)} is no partitioner; expected a method owners(graph, parts) for an edge-cut, "
        "or edge_owners(graph, parts) for a vertex-cut."
    )


def _place_nodes(partitioner: EdgeCut, graph: EdgeStream, parts: int, widths: tuple[int, ...]) -> Placement:
    cost = _Cost()
    with cost:
        owners = _asked(partitioner, lambda: partitioner.owners(graph, parts))
    cost.settle()
    _validate(partitioner, "owners", owners, graph.num_nodes, parts)

    replicas = _Replicas(graph.num_nodes, parts)
    edges = np.zeros(parts, np.int64)
    cut = 0
    for source, target in graph:
        holder = owners[target]
        crossing = owners[source] != holder
        cut += int(np.count_nonzero(crossing))
        edges += np.bincount(holder, minlength=parts)
        replicas.add(source[crossing], holder[crossing])
    quality = _quality(
        graph,
        owners,
        replicas.per_part(),
        edges,
        cut_ratio=cut / max(1, graph.num_edges),
        row_bytes=[_FLOAT_BYTES * width for width in widths],
        cost=cost,
    )
    return Placement(
        kind="edge-cut", parts=parts, owners=owners, replicas=replicas.bits, partitioner=partitioner, quality=quality
    )


def _place_edges(partitioner: VertexCut, graph: EdgeStream, parts: int, widths: tuple[int, ...]) -> Placement:
    replicas = _Replicas(graph.num_nodes, parts)
    edges = np.zeros(parts, np.int64)
    cost = _Cost()
    for (source, target), holder in _edge_answers(partitioner, graph, parts, cost):
        edges += np.bincount(holder, minlength=parts)
        replicas.add(source, holder)
        replicas.add(target, holder)
    cost.settle()

    owners, copies = replicas.masters()
    quality = _quality(
        graph,
        owners,
        replicas.per_part(),
        edges,
        cut_ratio=int(np.count_nonzero(copies > 1)) / max(1, graph.num_nodes),
        # A mirror sends its partial aggregate, and receives the whole one.
        row_bytes=[2 * _FLOAT_BYTES * width for width in widths],
        cost=cost,
    )
    return Placement(
        kind="vertex-cut", parts=parts, owners=owners, replicas=replicas.bits, partitioner=partitioner, quality=quality
    )


def _edge_answers(
    partitioner: VertexCut, graph: EdgeStream, parts: int, cost: "_Cost | None" = None
) -> Iterator[tuple[EdgeBatch, EdgeParts]]:
    """Every batch of the stream with the parts of its edges, checked. Counts the plug-in's time as `cost`."""
    answers = _asked(partitioner, lambda: iter(partitioner.edge_owners(graph, parts)))
    for number, batch in enumerate(graph):
        with cost or contextlib.nullcontext():
            holder = _asked(partitioner, lambda: next(answers, None))
        _validate(partitioner, f"edge_owners, batch {number}", holder, len(batch[0]), parts)
        assert holder is not None
        yield batch, holder
    if (extra := _asked(partitioner, lambda: next(answers, None))) is not None:
        raise PluginError(f"{_name(partitioner)}: edge_owners answered {len(extra)} edges after the last batch.")


def _asked(partitioner: Any, question: Callable[[], T]) -> T:
    return asked(f"{_name(partitioner)} failed", question)


def _validate(partitioner: Any, method: str, answer: Any, length: int, parts: int) -> None:
    what = f"{_name(partitioner)}: {method} answered"
    expected = f"expected a NumPy int32 array of shape ({length},) with parts from 0 to {parts - 1}."
    if not isinstance(answer, np.ndarray):
        raise PluginError(f"{what} {'nothing' if answer is None else f'a {type(answer).__name__}'}; {expected}")
    if answer.dtype != np.int32 or answer.shape != (length,):
        raise PluginError(f"{what} {answer.dtype} of shape {answer.shape}; {expected}")
    if length and (answer.min() < 0 or answer.max() >= parts):
        raise PluginError(f"{what} parts from {answer.min()} to {answer.max()}; {expected}")


def _name(partitioner: Any) -> str:
    return f"partitioner '{PARTITIONERS.name_of(type(partitioner))}'"


def _quality(
    graph: EdgeStream,
    owners: NodeParts,
    replicas: Ids,
    edges: Ids,
    *,
    cut_ratio: float,
    row_bytes: list[int],
    cost: "_Cost",
) -> Quality:
    """`replicas`, `edges`: of each part, int64 [parts]. `row_bytes`: what one replica costs before each layer."""
    owned = np.bincount(owners, minlength=len(edges))
    volume = int(replicas.sum())
    weights = graph.node_weights
    per_layer = tuple(volume * size for size in row_bytes)
    return Quality(
        cut_ratio=cut_ratio,
        replication_factor=1 + volume / max(1, graph.num_nodes),
        communication_volume=volume,
        node_balance=balance(owned),
        edge_balance=balance(edges),
        training_balance=None if weights is None else balance(np.bincount(owners, weights, minlength=len(edges))),
        halo_share=float(np.max(replicas / np.maximum(1, owned))),
        bytes_per_layer=per_layer,
        bytes_per_epoch=2 * sum(per_layer[1:]),
        seconds=cost.seconds,
        cpu_seconds=cost.cpu_seconds,
        peak_memory_bytes=cost.peak_memory_bytes,
    )


def balance(loads: NDArray[Any]) -> float:
    """The largest of `loads` (a number a part) over their mean; 1 where there is no load at all."""
    total = loads.sum()
    return float(loads.max() * len(loads) / total) if total else 1.0


class _Cost:
    """What a plug-in takes: time inside `with`, as often as it is entered, and memory from the making to `settle`."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0
        self._memory = PeakMemory()

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._wall
        self.cpu_seconds += time.process_time() - self._cpu

    def settle(self) -> None:
        """Read the memory, before what comes next uses any."""
        self.peak_memory_bytes = self._memory.added()


class _Replicas:
    """The parts that hold a row of each node, as bits."""

    def __init__(self, num_nodes: int, parts: int) -> None:
        self.parts = parts
        self.bits: NDArray[np.uint8] = np.full((num_nodes, (parts + 7) // 8), 0, np.uint8)  # written: counted as used

    def add(self, nodes: Ids, parts: NodeParts) -> None:
        """Note that the part beside each of `nodes` holds a row of it."""
        flat = self.bits.reshape(-1)
        place = nodes * self.bits.shape[1] + (parts >> 3)
        np.bitwise_or.at(flat, place, np.left_shift(1, parts & 7).astype(np.uint8))

    def per_part(self) -> Ids:
        """How many rows each part holds: int64 [parts]."""
        total = np.zeros(self.parts, np.int64)
        for _, held in self._unpacked():
            total += held.sum(axis=0, dtype=np.int64)
        return total

    def masters(self) -> tuple[NodeParts, Ids]:
        """Choose one holder of each node by a keyed draw and take it out of the bits; a node without one gets any part.

        Returns the masters, int32 [num_nodes], and the number of holders, int64 [num_nodes]."""
        masters = np.empty(len(self.bits), np.int32)
        copies = np.empty(len(self.bits), np.int64)
        key = random.Key.root(0).fold(_MASTER)
        for first, held in self._unpacked():
            last = first + len(held)
            draws = random.bits(key, torch.arange(first, last)).numpy()
            count = held.sum(axis=1, dtype=np.int64)
            rank = draws % np.maximum(1, count)
            chosen = np.argmax(np.cumsum(held, axis=1, dtype=np.int32) > rank[:, None], axis=1).astype(np.int32)
            masters[first:last] = np.where(count > 0, chosen, draws % self.parts)
            copies[first:last] = count
            rows = np.flatnonzero(count)
            self.bits[first + rows, chosen[rows] >> 3] ^= np.left_shift(1, chosen[rows] & 7).astype(np.uint8)
        return masters, copies

    def _unpacked(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Chunks of nodes: the first node, and a 0 or 1 for each of its parts, uint8 [chunk, parts]."""
        rows = max(1, _NODE_CHUNK // self.parts)
        for first in range(0, len(self.bits), rows):
            packed = self.bits[first : first + rows]
            yield first, np.unpackbits(packed, axis=1, count=self.parts, bitorder="little")


_MASTER = 0x4D415354  # the purpose of the keyed draw of masters ("MAST")

"""The inner loops of partitioning: scanning a stream, sorting it into windows, and deciding node by node, edge by edge.

Assumptions: sources and targets are contiguous; that they are int64, as many, and nodes of the graph is checked here.
Every other array was made by the caller, has the type its function names, and is changed in place. A decision depends
on those before it, so these run in one thread and are the same on every machine. Each function calls C++ and has its
NumPy twin below it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from framework.errors import InputError
from framework.kernels import native

Longs = NDArray[np.int64]
Parts = NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass over a stream tells about each node, int64 [num_nodes] each, and about the whole graph."""

    out_degrees: Longs
    """Edges from the node, self-loops left out."""
    in_degrees: Longs
    """Edges to the node, self-loops left out."""
    loops: Longs
    """Self-loops."""
    asymmetry: NDArray[np.uint64]
    """[1]: the sum of a hash of every edge less that of its reverse, modulo 2**64; 0 if the graph is symmetric."""

    @classmethod
    def empty(cls, num_nodes: int) -> "Scan":
        """The scan of no edges. Its pages are written, so that what it takes is seen at once."""
        degrees = [np.full(num_nodes, 0, np.int64) for _ in range(3)]
        return cls(out_degrees=degrees[0], in_degrees=degrees[1], loops=degrees[2], asymmetry=np.zeros(1, np.uint64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """How `assign_window` scores a part: neighbours in it * multiplier + scale of the node * addend."""

    kind: Literal["ldg", "fennel", "spinner"]
    """ldg: multiplier 1 - load / capacity, addend 0. fennel: addend -strength (load / mean load)^exponent, scale
    weight / mean weight. spinner: addend -load / capacity, scale degree."""
    capacity: int
    """The load that no part is filled beyond."""
    mean_load: float = 1.0
    """Of the parts."""
    mean_weight: float = 1.0
    """Of the nodes."""
    strength: float = 0.0
    """Of fennel's addend."""
    exponent: float = 0.0
    """Of fennel's addend."""


def scan_edges(source: Longs, target: Longs, scan: Scan) -> None:
    """Add a batch of edges to `scan`. Raises InputError for an id that is no node, and for ends that do not fit."""
    num_nodes = len(scan.loops)
    _check_ends(source, target)
    if not native.available():
        _scan_edges_numpy(source, target, scan)
        return
    bad = native.call(
        "scan_edges", source, target, len(source), num_nodes,
        scan.out_degrees, scan.in_degrees, scan.loops, scan.asymmetry,
    )  # fmt: skip
    if bad:
        raise _unknown(source[bad - 1], target[bad - 1], num_nodes)


def _scan_edges_numpy(source: Longs, target: Longs, scan: Scan) -> None:
    num_nodes = len(scan.loops)
    _check(source, target, num_nodes)
    loop = source == target
    np.add.at(scan.loops, source[loop], 1)
    source, target = source[~loop], target[~loop]
    np.add.at(scan.out_degrees, source, 1)
    np.add.at(scan.in_degrees, target, 1)
    there = _mix(source.astype(np.uint64) * np.uint64(num_nodes) + target.astype(np.uint64))
    back = _mix(target.astype(np.uint64) * np.uint64(num_nodes) + source.astype(np.uint64))
    np.add(scan.asymmetry, (there - back).sum(dtype=np.uint64), out=scan.asymmetry)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def bucket_edges(source: Longs, target: Longs, window: Parts, windows: int, *, both: bool) -> tuple[Longs, Parts]:
    """(node, neighbour) pairs sorted by the window of the node, in stream order inside each; self-loops dropped.

    `window`: of every node, int32 [num_nodes]. `both`: an edge makes its target's pair too, not only its source's.
    Returns the end of each window's pairs, int64 [windows], and the pairs, int32 [pairs, 2]. Raises InputError as
    `scan_edges` does."""
    _check_ends(source, target)
    if not native.available():
        return _bucket_edges_numpy(source, target, window, windows, both)
    ends = np.empty(windows, np.int64)
    pairs = np.empty((len(source) * (2 if both else 1), 2), np.int32)
    bad = native.call("bucket_edges", source, target, len(source), len(window), int(both), window, windows, ends, pairs)
    if bad:
        raise _unknown(source[bad - 1], target[bad - 1], len(window))
    return ends, pairs[: ends[-1]]


def _bucket_edges_numpy(source: Longs, target: Longs, window: Parts, windows: int, both: bool) -> tuple[Longs, Parts]:
    _check(source, target, len(window))
    proper = source != target
    pairs = np.stack([source[proper], target[proper]], axis=1).astype(np.int32)
    if both:
        pairs = np.stack([pairs, pairs[:, ::-1]], axis=1).reshape(-1, 2)
    of = window[pairs[:, 0]]
    return np.cumsum(np.bincount(of, minlength=windows)), pairs[np.argsort(of, kind="stable")]


def fill_rows(pairs: Parts, first: int, following: Longs, ends: Longs, neighbors: Parts) -> int | None:
    """Put the second of each of `pairs`, int32 [pairs, 2], into the row of the first, at its next free entry.

    `following`: the next free entry of every row, `ends`: its end, int64 [rows] each, the first row being that of node
    `first`. Returns the position of the first pair whose row is full; None where all fit."""
    if native.available():
        bad = native.call("fill_rows_within", pairs, len(pairs), first, following, ends, neighbors)
        return bad - 1 if bad else None
    rows = pairs[:, 0] - first
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(following))
    before = np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(following, counts) + np.arange(len(pairs)) - before
    full = order[places >= np.repeat(ends, counts)]
    if len(full):
        return int(full.min())
    neighbors[places] = pairs[order, 1]
    following += counts
    return None


def assign_window(
    rule: Rule, first: int, indptr: Longs, neighbors: Parts, weights: Longs, owners: Parts, loads: Longs
) -> tuple[int, int]:
    """Take each node of a window out of its part and put it where `rule` scores highest; ties go to the lighter part.

    The window: the nodes from `first` on, `indptr` int64 [size + 1], `neighbors` int32. `weights`: of every node, int64
    [num_nodes]. `owners` int32 [num_nodes], -1 for none yet, and `loads` int64 [parts] are updated. A node that fits
    nowhere under the capacity goes to the lightest part. Returns how many nodes moved, and how many entries of the
    window had both ends in one part when they were looked at."""
    if not native.available():
        return _assign_window_numpy(rule, first, indptr, neighbors, weights, owners, loads)
    kept = np.zeros(1, np.int64)
    moved = native.call(
        "assign_window", ("ldg", "fennel", "spinner").index(rule.kind), float(rule.strength), float(rule.exponent),
        float(rule.mean_weight), float(rule.mean_load), int(rule.capacity), first, len(indptr) - 1, indptr,
        neighbors, weights, len(loads), owners, loads, kept,
    )  # fmt: skip
    return moved, int(kept[0])


def _assign_window_numpy(
    rule: Rule, first: int, indptr: Longs, neighbors: Parts, weights: Longs, owners: Parts, loads: Longs
) -> tuple[int, int]:
    parts = len(loads)
    terms = _terms(rule)
    multiplier, addend = np.array([terms(int(load)) for load in loads]).T.copy()
    moved = kept = 0
    for row in range(len(indptr) - 1):
        node, weight, degree = first + row, int(weights[first + row]), int(indptr[row + 1] - indptr[row])
        near = owners[neighbors[indptr[row] : indptr[row + 1]]]
        count = np.bincount(near[near >= 0], minlength=parts)
        before = int(owners[node])
        if before >= 0:
            loads[before] -= weight
            multiplier[before], addend[before] = terms(int(loads[before]))
        score = count * multiplier + (weight / rule.mean_weight if rule.kind == "fennel" else float(degree)) * addend
        lightest = int(np.argmin(loads))
        fits = loads + weight <= rule.capacity
        fits[lightest] = True
        best = _first_choice(np.where(fits, score, -np.inf), loads)
        kept += int(count[best])
        owners[node] = best
        loads[best] += weight
        multiplier[best], addend[best] = terms(int(loads[best]))
        moved += best != before
    return moved, kept


def _terms(rule: Rule) -> Callable[[int], tuple[float, float]]:
    """Multiplier and addend of a load."""
    if rule.kind == "ldg":
        return lambda load: (1.0 - load / rule.capacity, 0.0)
    if rule.kind == "fennel":
        return lambda load: (1.0, -rule.strength * math.pow(load / rule.mean_load, rule.exponent))
    return lambda load: (1.0, -(load / rule.capacity))


def _first_choice(score: NDArray[np.float64], loads: Longs) -> int:
    """The part of the highest score; of several the lightest; of several the first."""
    tied = np.flatnonzero(score == score.max())
    return int(tied[np.argmin(loads[tied])])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeState:
    """What a vertex-cut stream knows so far."""

    degrees: Longs
    """Of every node, int64 [num_nodes]."""
    replicas: NDArray[np.uint64]
    """The parts each node is on, as bits, the low word first: uint64 [num_nodes, words]."""
    loads: Longs
    """Edges of each part, int64 [parts]."""

    @classmethod
    def empty(cls, num_nodes: int, parts: int) -> "EdgeState":
        """Before the first edge."""
        return cls(
            degrees=np.full(num_nodes, 0, np.int64),
            replicas=np.full((num_nodes, (parts + 63) // 64), 0, np.uint64),
            loads=np.zeros(parts, np.int64),
        )


def assign_edges(source: Longs, target: Longs, state: EdgeState, *, balance: float, capacity: int) -> Parts:
    """The part of each edge by HDRF (Petroni et al., CIKM 2015), int32 [batch]; ties go to the lighter part.

    score(part) = sum over the ends that are on it of 2 - the end's share of both degrees,
    + `balance` (max load - load) / (1 + max load - min load). No part gets more than `capacity`
    edges. Raises InputError as `scan_edges` does."""
    _check_ends(source, target)
    if not native.available():
        return _assign_edges_numpy(source, target, state, balance, capacity)
    answers = np.empty(len(source), np.int32)
    bad = native.call(
        "assign_edges", float(balance), capacity, source, target, len(source), len(state.degrees), len(state.loads),
        state.degrees, state.replicas, state.loads, answers,
    )  # fmt: skip
    if bad:
        raise _unknown(source[bad - 1], target[bad - 1], len(state.degrees))
    return answers


def _assign_edges_numpy(source: Longs, target: Longs, state: EdgeState, balance: float, capacity: int) -> Parts:
    _check(source, target, len(state.degrees))
    loads, degrees = state.loads, state.degrees
    number = np.arange(len(loads))
    word, shift = number // 64, (number % 64).astype(np.uint64)
    answers = np.empty(len(source), np.int32)
    for position, (s, t) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        degrees[s] += 1
        degrees[t] += 1
        share = float(degrees[s]) / float(degrees[s] + degrees[t])
        on_source, on_target = (state.replicas[node][word] >> shift & np.uint64(1) for node in (s, t))
        scale = balance / (1.0 + float(loads.max() - loads.min()))
        score = on_source * (2.0 - share) + on_target * (1.0 + share) + scale * (loads.max() - loads)
        fits = loads < capacity
        fits[np.argmin(loads)] = True
        best = _first_choice(np.where(fits, score, -np.inf), loads)
        answers[position] = best
        loads[best] += 1
        state.replicas[[s, t], best // 64] |= np.uint64(1 << best % 64)
    return answers


def _check_ends(source: Longs, target: Longs) -> None:
    """Raises InputError unless both are int64 and as many."""
    if source.shape != target.shape or source.ndim != 1 or {source.dtype, target.dtype} != {np.dtype(np.int64)}:
        raise InputError(
            f"the stream has a batch of sources {source.dtype} {list(source.shape)} and targets {target.dtype} "
            f"{list(target.shape)}; expected int64, a source and a target an edge."
        )


def _check(source: Longs, target: Longs, num_nodes: int) -> None:
    bad = np.flatnonzero((source < 0) | (source >= num_nodes) | (target < 0) | (target >= num_nodes))
    if len(bad):
        raise _unknown(source[bad[0]], target[bad[0]], num_nodes)


def _unknown(source: np.int64, target: np.int64, num_nodes: int) -> InputError:
    return InputError(f"the stream has an edge {source} -> {target}; expected node ids from 0 to {num_nodes - 1}.")

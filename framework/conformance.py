"""The conformance suite of partitioners: what a plug-in must do on every graph, and how good it is.

Assumptions: a check is a small graph on which something often goes wrong; it passes if `place` accepts the answer and
the answer is what the check says. A plug-in that holds the whole graph says `in_memory: ClassVar[bool] = True`; of
every other, memory is measured in a process of its own while the stream grows tenfold. So a plug-in must be one that
another process can import.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework import config
from framework.data.generators import Planted
from framework.errors import InputError
from framework.graph.edges import ArrayEdges, EdgeBatch, EdgeStream, Ids
from framework.memory import PeakMemory
from framework.partition import EdgeCut, Placement, Quality, VertexCut, place
from framework.registry import PARTITIONERS

Partitioner = EdgeCut | VertexCut
Verdict = str | None
"""What went wrong; None if nothing did."""

_QUALITY_PARTS = 8
# glibc keeps what was freed unless an allocation is mapped by itself; kept memory would hide what a later run takes.
_EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
_BYTES_PER_EDGE = 3  # what memory may grow by with the stream: less than a part an edge, more than chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the suite."""

    name: str
    """What is asked."""
    passed: bool
    """Whether it holds."""
    detail: str
    """What went wrong; empty if nothing did."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rated:
    """One row of the quality table."""

    name: str
    """The partitioner."""
    kind: str
    """edge-cut or vertex-cut."""
    quality: Quality
    """On the planted graph of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `shardyard check partitioner` shows."""

    name: str
    """The partitioner."""
    checks: tuple[Check, ...]
    """In the order they were made."""
    qualities: tuple[Rated, ...]
    """The partitioner first, then the built-ins; empty where the partitioner failed a check."""

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def check_partitioner(partitioner: Partitioner) -> CheckReport:
    """Run every check on `partitioner` (an object, not a class), and rate it beside the built-ins if all hold.

    Raises InputError for one that no other process could import."""
    if type(partitioner).__module__ == "__main__":
        raise InputError(
            f"{type(partitioner).__qualname__} is defined in the script that runs, which no other process imports; "
            "move it into a file of its own and import it from there."
        )
    checks = tuple(run_check(name, partitioner) for name in CHECKS)
    passed = all(check.passed for check in checks)
    return CheckReport(
        name=PARTITIONERS.name_of(type(partitioner)),
        checks=checks,
        qualities=tuple(rate(partitioner)) if passed else (),
    )


def run_check(name: str, partitioner: Partitioner) -> Check:
    """The check `name` of CHECKS. What a plug-in raises is a finding about it, so that every check gets its turn."""
    try:
        verdict = CHECKS[name](partitioner)
    except InputError as error:
        verdict = str(error)
    except Exception as error:
        verdict = f"it raised {type(error).__name__}: {error}"
    return Check(name=name, passed=verdict is None, detail=verdict or "")


def rate(partitioner: Partitioner) -> Iterator[Rated]:
    """The quality of `partitioner`, then of every built-in as it comes, on one planted graph in 8 parts."""
    stream = Planted(nodes=20_000, edges=200_000, blocks=64, features=0).open().stream()
    ours = [entry.name for entry in PARTITIONERS.entries() if entry.module.partition(".")[0] == "partitioners"]
    others = [PARTITIONERS.get(name)() for name in ours]
    for candidate in [partitioner, *(other for other in others if type(other) is not type(partitioner))]:
        placement = place(candidate, stream, _QUALITY_PARTS)
        name = PARTITIONERS.name_of(type(candidate))
        yield Rated(name=name, kind=placement.kind, quality=placement.quality)


# --- The graphs -------------------------------------------------------------------------------------------------------


def _stream(pairs: list[tuple[int, int]], num_nodes: int) -> ArrayEdges:
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    return ArrayEdges(source=edges[:, 0].copy(), target=edges[:, 1].copy(), num_nodes=num_nodes)


def small_graph(count: int = 24, size: int = 8, *, batch_size: int = 1 << 20) -> ArrayEdges:
    """Cliques in a ring: a graph in which every part can be filled, and few edges need be cut."""
    node = np.arange(count * size)
    inside = [(a, b) for a in node for b in range(a // size * size, a // size * size + size) if a != b]
    ring = [(a, (a + size) % len(node)) for a in node[::size]]
    edges = np.array(inside + ring + [(b, a) for a, b in ring], np.int64)
    edges = edges[np.random.default_rng(0).permutation(len(edges))]
    weights = (node % 3 == 0).astype(np.int64)
    return ArrayEdges(
        source=edges[:, 0].copy(),
        target=edges[:, 1].copy(),
        num_nodes=len(node),
        node_weights=weights,
        batch_size=batch_size,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Endless:
    """Random edges that are drawn when they are read, so that nothing but a partitioner can hold them."""

    num_nodes: int
    num_edges: int
    node_weights: Ids | None = None

    def __iter__(self) -> Iterator[EdgeBatch]:
        batch = 1 << 15
        for number, start in enumerate(range(0, self.num_edges, batch)):
            draw = np.random.Generator(np.random.Philox(key=[7, number]))
            size = min(batch, self.num_edges - start)
            yield draw.integers(0, self.num_nodes, size), draw.integers(0, self.num_nodes, size)


# --- The checks -------------------------------------------------------------------------------------------------------


def _answer(placement: Placement, graph: EdgeStream) -> NDArray[np.int32]:
    """What the plug-in answered: a part for every node, or one for every edge."""
    if placement.kind == "edge-cut":
        return placement.owners
    return np.concatenate([np.empty(0, np.int32), *placement.edge_parts(graph)])


def _is_configuration(partitioner: Partitioner) -> Verdict:
    if not dataclasses.is_dataclass(partitioner) or not partitioner.__dataclass_params__.frozen:
        return "it is no frozen dataclass; expected @dataclasses.dataclass(frozen=True, kw_only=True)."
    again = config.decode(json.loads(json.dumps(config.encode(partitioner))))
    if again != partitioner:
        return f"written as JSON and read back it is {again}; expected {partitioner}: are all fields plain values?"
    return None


def _covers_everything_once(partitioner: Partitioner) -> Verdict:
    place(partitioner, small_graph(), 4)
    return None


def _respects_parts(partitioner: Partitioner) -> Verdict:
    graph = small_graph()
    for parts in (1, 2, 3, 8, 13):
        used = len(np.unique(_answer(place(partitioner, graph, parts), graph)))
        if used < parts:
            return f"asked for {parts} parts of {graph.num_nodes} nodes it used {used}; expected all of them."
    return None


def _is_deterministic(partitioner: Partitioner) -> Verdict:
    graph = small_graph()
    first, second = (_answer(place(partitioner, graph, 4), graph) for _ in range(2))
    if not np.array_equal(first, second):
        return f"a second run answered differently for {np.count_nonzero(first != second)} of {len(first)}."
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    elsewhere = np.array(_in_new_process("_answer_again", {}, partitioner, {"PYTHONHASHSEED": seed}), np.int32)
    if not np.array_equal(first, elsewhere):
        differing = np.count_nonzero(first != elsewhere)
        return (
            f"a run in another process answered differently for {differing} of {len(first)}; expected the same: use "
            "neither hash() of text nor the order of a set."
        )
    return None


def _ignores_batches(partitioner: Partitioner) -> Verdict:
    whole, pieces = small_graph(), small_graph(batch_size=7)
    first, second = (_answer(place(partitioner, graph, 4), graph) for graph in (whole, pieces))
    if not np.array_equal(first, second):
        return "the same edges in batches of 7 got another answer; expected that where a batch ends changes nothing."
    return None


def _leaves_the_stream_alone(partitioner: Partitioner) -> Verdict:
    graph, untouched = small_graph(), small_graph()
    place(partitioner, graph, 4)
    names = ("source", "target", "node_weights")
    if not all(np.array_equal(getattr(graph, name), getattr(untouched, name)) for name in names):
        return "it changed the arrays that the stream gave it; expected it to work on copies."
    return None


def _fits(graph: EdgeStream, parts: int) -> Callable[[Partitioner], Verdict]:
    """The check that an answer for `graph` is one that `place` accepts."""

    def check(partitioner: Partitioner) -> Verdict:
        place(partitioner, graph, parts)
        return None

    return check


def _bounds_memory(partitioner: Partitioner) -> Verdict:
    if getattr(partitioner, "in_memory", False):
        return None
    nodes, edges = 20_000, 200_000
    few, many = measure_growth(partitioner, num_nodes=nodes, num_edges=(edges, 10 * edges))
    allowed = few / 10 + 9 * edges * _BYTES_PER_EDGE
    if many - few > allowed:
        return (
            f"at {nodes} nodes it added {few >> 10} KiB with {edges} edges and {many >> 10} KiB with tenfold; expected "
            f"at most {int(allowed) >> 10} KiB more. One that holds the graph says in_memory: ClassVar[bool] = True."
        )
    return None


CHECKS: dict[str, Callable[[Partitioner], Verdict]] = {
    "is a frozen dataclass that survives JSON": _is_configuration,
    "covers every node or edge once": _covers_everything_once,
    "respects the number of parts, and uses them": _respects_parts,
    "is deterministic": _is_deterministic,
    "does not depend on where batches end": _ignores_batches,
    "leaves the stream's arrays alone": _leaves_the_stream_alone,
    "empty parts: more parts than nodes": _fits(_stream([(0, 1), (1, 2), (2, 0)], 3), 8),
    "isolated nodes": _fits(_stream([(2, 5), (5, 2)], 40), 4),
    "self-loops": _fits(_stream([(a, a) for a in range(9)] + [(0, 1), (1, 0)], 12), 3),
    "duplicate edges": _fits(_stream([(0, 1), (1, 2), (2, 3)] * 5, 8), 3),
    "one node": _fits(_stream([], 1), 1),
    "one node, several parts": _fits(_stream([(0, 0)], 1), 4),
    "no edges": _fits(_stream([], 30), 4),
    "memory stays as the stream grows tenfold": _bounds_memory,
}
"""Every check by what it asks, in the order they are made."""


# --- In processes of their own ----------------------------------------------------------------------------------------


def measure_growth(partitioner: Partitioner, *, num_nodes: int, num_edges: tuple[int, ...]) -> list[int]:
    """Bytes that `partitioner` adds at its peak on random graphs of each of `num_edges`, in 4 parts, in a new process.

    Raises InputError where that process fails, with the last line it said."""
    request = {"num_nodes": num_nodes, "num_edges": num_edges}
    added: list[int] = _in_new_process("_measure", request, partitioner, _EXACT_MEMORY)
    return added


def _in_new_process(
    function: str, request: Mapping[str, Any], partitioner: Partitioner, environment: Mapping[str, str]
) -> Any:
    """What a function of this file prints as JSON in a new process. Raises InputError where that process fails, with
    the last line it said."""
    process = subprocess.run(
        [sys.executable, "-c", f"from framework.conformance import {function}; {function}()"],
        input=json.dumps({**request, "partitioner": config.encode(partitioner)}),
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if process.returncode:
        said = process.stderr.strip().splitlines() or ["nothing"]
        raise InputError(f"the process that runs it anew ended with {process.returncode} and said: {said[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def _answer_again() -> None:
    """The other end of `_is_deterministic`."""
    partitioner, graph = config.decode(json.load(sys.stdin)["partitioner"], trusted=True), small_graph()
    print(json.dumps(_answer(place(partitioner, graph, 4), graph).tolist()))


def _measure() -> None:
    """The other end of `measure_growth`. A run before the others takes what is only taken once: libraries, threads."""
    request: dict[str, Any] = json.load(sys.stdin)
    partitioner = config.decode(request["partitioner"], trusted=True)
    added = []
    for num_edges in [request["num_edges"][0], *request["num_edges"]]:
        graph = _Endless(num_nodes=request["num_nodes"], num_edges=num_edges)
        memory = PeakMemory()
        if isinstance(partitioner, EdgeCut):
            partitioner.owners(graph, 4)
        else:
            for _ in partitioner.edge_owners(graph, 4):
                pass
        added.append(memory.added())
    print(json.dumps(added[1:]))

"""The conformance suite: every built-in passes it, and for every check there is a plug-in that it catches."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framework.conformance import CHECKS, check_partitioner, measure_growth, run_check
from framework.errors import InputError
from framework.graph.edges import EdgeStream, Ids
from framework.partition import EdgeParts, NodeParts
from framework.registry import PARTITIONERS

BUILTINS = ("dbh", "fennel", "hdrf", "ldg", "metis", "random", "range", "spinner")


@pytest.mark.parametrize("name", BUILTINS)
def test_a_builtin_passes(name: str) -> None:
    checks = [run_check(check, PARTITIONERS.get(name)()) for check in CHECKS]
    assert [check for check in checks if not check.passed] == []


def test_a_plugin_that_passes_is_rated_beside_the_builtins() -> None:
    report = check_partitioner(PARTITIONERS.get("ldg")())
    assert report.passed
    assert report.name == "ldg"
    assert [rated.name for rated in report.qualities] == ["ldg", *sorted({*BUILTINS} - {"ldg"})]
    cut = {rated.name: rated.quality.cut_ratio for rated in report.qualities if rated.kind == "edge-cut"}
    assert cut["metis"] < cut["fennel"] < cut["ldg"] < cut["random"]


def test_a_plugin_that_fails_is_not_rated() -> None:
    report = check_partitioner(OnePartForAll())
    assert not report.passed
    assert report.qualities == ()
    assert [check.name for check in report.checks] == list(CHECKS)


def modulo(graph: EdgeStream, parts: int) -> NodeParts:
    return (np.arange(graph.num_nodes) % parts).astype(np.int32)


@dataclasses.dataclass
class NotFrozen:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithArray:
    weights: Any = (1, [2])

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetsTheLastNode:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return modulo(graph, parts)[:-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetsTheLastBatch:
    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        for number, (source, _) in enumerate(graph):
            if number:
                yield np.zeros(len(source), np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountsFromOne:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return modulo(graph, parts) + np.int32(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnePartForAll:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return np.zeros(graph.num_nodes, np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unseeded:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return np.random.default_rng().permutation(modulo(graph, parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashesText:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return np.array([hash(str(node)) % parts for node in range(graph.num_nodes)], np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeesBatches:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        owners = modulo(graph, parts)
        for number, (source, _) in enumerate(graph):
            owners[source] = number % parts if number else owners[source]
        return owners


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scribbles:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        for source, _ in graph:
            source %= 2
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScribblesOnWeights:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        if graph.node_weights is not None:
            graph.node_weights[:] = 1
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedsNodesForAllParts:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        size = graph.num_nodes // parts
        return np.array([min(node // size, parts - 1) for node in range(graph.num_nodes)], np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountsNodesItSaw:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        highest = max((int(max(source.max(), target.max())) for source, target in graph if len(source)), default=-1)
        return (np.arange(highest + 1) % parts).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopsOnLoops:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        for source, target in graph:
            assert (source != target).all(), "a node is its own neighbour"
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedsDistinctEdges:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        seen: set[tuple[int, int]] = set()
        for source, target in graph:
            for edge in zip(source.tolist(), target.tolist(), strict=True):
                if edge in seen:
                    raise KeyError(edge)
                seen.add(edge)
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DividesByEdges:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        assert 1 // graph.num_edges >= 0
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedsTwoNodes:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        last = graph.num_nodes - 1
        return np.array([node * (parts - 1) // last for node in range(graph.num_nodes)], np.int32)


def held(graph: EdgeStream) -> list[tuple[Ids, Ids]]:
    return [(source.copy(), target.copy()) for source, target in graph]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldsAllEdges:
    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        assert sum(len(source) for source, _ in held(graph)) == graph.num_edges
        return modulo(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldsAllAnswers:
    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        answers: list[NDArray[np.int32]] = [(target % parts).astype(np.int32) for _, target in graph]
        yield from answers


DEFECTS = [
    (NotFrozen(), "is a frozen dataclass that survives JSON", "no frozen dataclass"),
    (WithArray(), "is a frozen dataclass that survives JSON", "read back it is"),
    (ForgetsTheLastNode(), "covers every node or edge once", r"shape \(191,\); expected .* \(192,\)"),
    (ForgetsTheLastBatch(), "covers every node or edge once", "batch 0 answered nothing"),
    (CountsFromOne(), "covers every node or edge once", "parts from 1 to 4; expected .* from 0 to 3"),
    (OnePartForAll(), "respects the number of parts, and uses them", "asked for 2 parts of 192 nodes it used 1"),
    (Unseeded(), "is deterministic", "a second run answered differently"),
    (HashesText(), "is deterministic", "in another process answered differently"),
    (SeesBatches(), "does not depend on where batches end", "in batches of 7"),
    (Scribbles(), "leaves the stream's arrays alone", "it changed the arrays"),
    (ScribblesOnWeights(), "leaves the stream's arrays alone", "it changed the arrays"),
    (NeedsNodesForAllParts(), "empty parts: more parts than nodes", "failed: ZeroDivisionError"),
    (CountsNodesItSaw(), "isolated nodes", r"shape \(6,\); expected .* \(40,\)"),
    (LoopsOnLoops(), "self-loops", "AssertionError: a node is its own neighbour"),
    (NeedsDistinctEdges(), "duplicate edges", r"KeyError: \(0, 1\)"),
    (NeedsTwoNodes(), "one node", "failed: ZeroDivisionError"),
    (NeedsTwoNodes(), "one node, several parts", "failed: ZeroDivisionError"),
    (DividesByEdges(), "no edges", "ZeroDivisionError"),
    (HoldsAllEdges(), "memory stays as the stream grows tenfold", "with tenfold; expected at most"),
    (HoldsAllAnswers(), "memory stays as the stream grows tenfold", "with tenfold; expected at most"),
]


@pytest.mark.parametrize(("plugin", "name", "words"), DEFECTS, ids=lambda value: type(value).__name__)
def test_a_defect_is_caught(plugin: Any, name: str, words: str) -> None:
    check = run_check(name, plugin)
    assert not check.passed
    assert re.search(words, check.detail), check.detail


def test_a_plugin_of_the_script_that_runs_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PARTITIONERS.get("range"), "__module__", "__main__")
    with pytest.raises(InputError, match="Range is defined in the script that runs.*move it into a file of its own"):
        check_partitioner(PARTITIONERS.get("range")())


def test_every_check_has_a_defect() -> None:
    assert {name for _, name, _ in DEFECTS} == set(CHECKS)


def test_a_plugin_that_says_it_holds_the_graph_is_believed() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SaysSo:
        in_memory = True

        def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
            raise AssertionError("not asked for memory")

    assert run_check(list(CHECKS)[-1], SaysSo()).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dbh", "fennel", "hdrf", "ldg", "spinner"])
def test_memory_does_not_grow_with_the_stream(name: str) -> None:
    few, many = measure_growth(PARTITIONERS.get(name)(), num_nodes=200_000, num_edges=(2_000_000, 20_000_000))
    assert many <= 1.1 * few

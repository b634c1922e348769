"""Placements and their quality against counts done one edge at a time."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from framework.errors import InputError
from framework.graph.edges import ArrayEdges, EdgeStream
from framework.partition import EdgeParts, NodeParts, balance, place

NODES, EDGES = 90, 600


def graph() -> ArrayEdges:
    draw = np.random.default_rng(0)
    return ArrayEdges(
        source=draw.integers(0, NODES - 9, EDGES),
        target=draw.integers(0, NODES - 9, EDGES),
        num_nodes=NODES,
        node_weights=(np.arange(NODES) % 4 == 0).astype(np.int64),
        batch_size=77,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnNodes:
    """Any owner for a node."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return np.random.default_rng(1).integers(0, parts, graph.num_nodes).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnEdges:
    """Any owner for an edge."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        draw = np.random.default_rng(1)
        for source, _ in graph:
            yield draw.integers(0, parts, len(source)).astype(np.int32)


@pytest.mark.parametrize("parts", [1, 3, 8, 11])
def test_edge_cut(parts: int) -> None:
    stream = graph()
    placement = place(DrawnNodes(), stream, parts, widths=(10, 6, 4))
    owners = placement.owners.tolist()
    edges = list(zip(stream.source.tolist(), stream.target.tolist(), strict=True))
    halo = [{s for s, t in edges if owners[t] == part != owners[s]} for part in range(parts)]
    volume = sum(map(len, halo))
    owned = [owners.count(part) for part in range(parts)]
    held = [sum(owners[t] == part for _, t in edges) for part in range(parts)]
    quality = placement.quality
    assert placement.kind == "edge-cut"
    assert quality.cut_ratio == sum(owners[s] != owners[t] for s, t in edges) / EDGES
    assert quality.communication_volume == volume
    assert quality.replication_factor == pytest.approx((NODES + volume) / NODES)
    assert quality.node_balance == pytest.approx(max(owned) * parts / NODES)
    assert quality.edge_balance == pytest.approx(max(held) * parts / EDGES)
    assert quality.halo_share == pytest.approx(max(len(h) / max(1, o) for h, o in zip(halo, owned, strict=True)))
    assert quality.bytes_per_layer == (volume * 40, volume * 24, volume * 16)
    assert quality.bytes_per_epoch == 2 * volume * (24 + 16)
    assert quality.training_balance is not None
    for part in range(parts):
        assert placement.replicated(part).tolist() == sorted(halo[part])
    assert np.concatenate(list(placement.edge_parts(stream))).tolist() == [owners[t] for _, t in edges]


@pytest.mark.parametrize("parts", [1, 3, 8, 11])
def test_vertex_cut(parts: int) -> None:
    stream = graph()
    placement = place(DrawnEdges(), stream, parts, widths=(10, 6))
    given = np.concatenate(list(placement.edge_parts(stream))).tolist()
    on: list[set[int]] = [set() for _ in range(NODES)]
    for s, t, part in zip(stream.source.tolist(), stream.target.tolist(), given, strict=True):
        on[s].add(part)
        on[t].add(part)
    owners = placement.owners.tolist()
    quality = placement.quality
    assert placement.kind == "vertex-cut"
    assert all(owner in holders for owner, holders in zip(owners, on, strict=True) if holders)
    for part in range(parts):
        mirrors = [node for node in range(NODES) if part in on[node] and owners[node] != part]
        assert placement.replicated(part).tolist() == mirrors
    volume = sum(max(0, len(holders) - 1) for holders in on)
    assert quality.communication_volume == volume
    assert quality.replication_factor == pytest.approx((NODES + volume) / NODES)
    assert quality.cut_ratio == pytest.approx(sum(len(holders) > 1 for holders in on) / NODES)
    assert quality.edge_balance == pytest.approx(max(map(given.count, range(parts))) * parts / EDGES)
    assert quality.bytes_per_layer == (2 * volume * 40, 2 * volume * 24)


def test_masters_are_shared_out() -> None:
    """Every node is on all parts: a draw of its master must not favour one."""
    nodes, parts = 3000, 5
    node = np.repeat(np.arange(nodes), parts)
    stream = ArrayEdges(source=node, target=node, num_nodes=nodes)

    class Everywhere:
        def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
            yield (np.arange(graph.num_edges) % parts).astype(np.int32)

    counts = np.bincount(place(Everywhere(), stream, parts).owners, minlength=parts)
    assert ((counts - nodes / parts) ** 2 / (nodes / parts)).sum() < 18.5  # chi-square, 4 degrees, p = .001


def test_parts_must_be_positive() -> None:
    for parts in (0, -2):
        with pytest.raises(InputError, match=f"parts is {parts}; expected at least 1"):
            place(DrawnNodes(), graph(), parts)


def answering(answer: Any) -> Any:
    class Answers:
        def owners(self, graph: EdgeStream, parts: int) -> Any:
            return answer

    return Answers()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "nothing"),
        ([0] * NODES, "a list"),
        (np.zeros(NODES, np.int64), r"int64 of shape \(90,\)"),
        (np.zeros(NODES - 1, np.int32), r"shape \(89,\); expected a NumPy int32 array of shape \(90,\)"),
        (np.full(NODES, 3, np.int32), "parts from 3 to 3; expected .* parts from 0 to 2"),
        (np.full(NODES, -1, np.int32), "parts from -1 to -1"),
    ],
)
def test_a_wrong_answer_is_named(answer: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"partitioner '.*Answers': owners answered .*{words}"):
        place(answering(answer), graph(), 3)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "batch 0 answered nothing"),
        ([np.zeros(77, np.int32)] * 9, r"batch 7 answered int32 of shape \(77,\); expected .* \(61,\)"),
        ([np.zeros(77, np.int32)] * 7 + [np.zeros(61, np.int32), np.zeros(5, np.int32)], "answered 5 edges after"),
    ],
)
def test_a_wrong_answer_for_edges_is_named(batches: list[EdgeParts], words: str) -> None:
    class Answers:
        def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
            return iter(batches)

    with pytest.raises(InputError, match=rf"partitioner '.*Answers': edge_owners,? ?{words}"):
        place(Answers(), graph(), 3)


def test_what_is_no_partitioner_is_named() -> None:
    with pytest.raises(InputError, match="is no partitioner; expected a method owners"):
        place(object(), graph(), 2)  # type: ignore[arg-type]


def test_balance_of_nothing_is_one() -> None:
    assert balance(np.zeros(4)) == 1.0
    assert balance(np.array([2.0, 0.0])) == 2.0

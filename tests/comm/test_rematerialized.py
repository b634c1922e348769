"""Rematerialised halo: results and gradients of the exact one; no more than some workers' rows are held at a time."""

import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from halo_workers import KEYS, assert_alike, node_rows, passes, topology
from stored_graph import stored
from torch import Tensor
from whole_graph import looped_graph
from worker_processes import together

from framework.comm.group import Group, Pending
from framework.comm.halo.exact import Exact
from framework.comm.halo.passes_by_turns import under_way
from framework.comm.halo.rematerialized import Rematerialized
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.halo.turns import InTurns
from framework.errors import InputError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(looped_graph(120, 900, isolated=3), 4, tmp_path_factory.mktemp("rematerialized")).path


def as_exact(group: Group, store: Path) -> None:
    exact = passes(topology(group, store))
    for ahead in (0, 1, 5):
        before, graph = group.snapshot(), topology(group, store, Rematerialized(ahead=ahead))
        assert_alike(passes(graph), exact)
        assert isinstance(graph.exact.exchange, InTurns), "evaluation does not hold the halo either"
        assert group.size == 1 or group.since(before)["halo/1/forward/again"] > 0


def test_results_are_exact(store: Path) -> None:
    together(3, as_exact, store)
    as_exact(Group.alone(), store)


def weighted_as_exact(group: Group, store: Path) -> None:
    blocks = [topology(group, store, strategy).whole(KEYS)[1] for strategy in (Rematerialized(), Exact())]
    assert all(block.weighted for block in blocks)
    sums = []
    for block in blocks:
        x = node_rows(block.targets.original, 4)
        out = block.sum(x)
        out.square().sum().backward()
        assert x.grad is not None
        sums.append({"sum": out.detach(), "gradient": x.grad})
    assert_alike(*sums)


def test_edges_with_weights(tmp_path: Path) -> None:
    graph = looped_graph(60, 400)
    weights = node_rows(graph.source * 60 + graph.target).detach().float()
    together(2, weighted_as_exact, stored(graph, 2, tmp_path, edge_weights=weights).path)


class Watched:
    """A group's exchanges towards halos, and how many of the rows that came were in memory at the worst moment."""

    def __init__(self, group: Group) -> None:
        self.most, self._held, self._exchange, self._number = (
            0,
            dict[int, int](),
            group.exchange_async,
            itertools.count(),
        )
        group.exchange_async = self.exchange_async  # type: ignore[method-assign]

    def exchange_async(self, rows: Tensor, send: list[int], receive: list[int], purpose: str) -> Pending:
        pending = self._exchange(rows, send, receive, purpose)
        if "forward" in purpose:
            number = next(self._number)
            self._held[number] = sum(receive)
            self.most = max(self.most, sum(self._held.values()))
            weakref.finalize(pending._received, self._held.pop, number)
        return pending


def rows_held(group: Group, store: Path, strategy: HaloStrategy, attention: bool) -> tuple[int, list[int]]:
    """Rows of the halo that were in memory in both passes of a layer at the worst moment; and rows of every turn."""
    graph = topology(group, store, strategy)
    block, nodes = graph.whole(KEYS)[1], graph.owned.original
    x, scores = node_rows(nodes, 2, 3), node_rows(nodes, 2)
    watched = Watched(group)
    if attention:
        block.attend(x, scores, scores, negative_slope=0.2, dropout=0.0).sum().backward()
    else:
        block.sum(x.flatten(1)).sum().backward()
    del group.exchange_async  # type: ignore[attr-defined]
    turns = [graph.plan.received[(group.rank - step) % group.size] for step in range(1, group.size)]
    return watched.most, turns


def all_rows_held(group: Group, store: Path) -> list[tuple[int, list[int]]]:
    strategies = (Exact(), Rematerialized(), Rematerialized(ahead=1))
    return [rows_held(group, store, strategy, attention) for attention in (False, True) for strategy in strategies]


def test_no_worker_holds_its_halo(store: Path) -> None:
    for found in together(4, all_rows_held, store):
        for exact, one, two in (found[:3], found[3:]):
            turns = exact[1]
            assert exact[0] == sum(turns)
            assert one[0] == max(turns) < sum(turns)
            assert two[0] == max(first + second for first, second in itertools.pairwise(turns)) < sum(turns)


def test_things_are_started_ahead() -> None:
    events: list[str] = []

    def started() -> Iterator[int]:
        for i in range(4):
            events.append(f"start {i}")
            yield i

    coming = under_way(started(), 1)
    assert events == ["start 0", "start 1"]
    events.extend(f"use {i}" for i in coming)
    assert events == ["start 0", "start 1", "use 0", "start 2", "use 1", "start 3", "use 2", "use 3"]


def test_ahead_is_a_number_of_workers() -> None:
    with pytest.raises(InputError, match=r"--halo.ahead is -1"):
        Rematerialized(ahead=-1)

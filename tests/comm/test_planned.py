"""Planned exchange: trees bring every row once to all who want it; busiest links are no busier; results are exact."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from halo_workers import assert_alike, passes, topology
from stored_graph import stored
from whole_graph import looped_graph
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.planned import Planned
from framework.comm.halo.relay import RelayedExchange
from framework.comm.halo.spanning import Heap, Links, Tree, spanning_trees
from framework.errors import InputError

RING = tuple(1.0 if (j - i) % 4 == 1 else 50.0 for i in range(4) for j in range(4))
"""A row to the next worker takes 1, to any other 50."""


def assert_a_tree(tree: Tree, heap: Heap, stages: int) -> None:
    held = {heap.owner: 0}
    for stage, sender, receiver in sorted(tree):
        assert 0 <= stage < stages
        assert held[sender] <= stage
        assert receiver not in held
        held[receiver] = stage + 1
    assert set(heap.wanting) <= held.keys()
    leaves = held.keys() - {sender for _, sender, _ in tree} - {heap.owner}
    assert leaves <= set(heap.wanting), "a worker that passes nothing on wants the rows itself"


def heaps_of(workers: int, seed: int) -> list[Heap]:
    """Some rows of every owner for every set of others."""
    numbers = np.random.default_rng(seed)
    sets = [(owner, wanting) for owner in range(workers) for size in range(1, workers)
            for wanting in itertools.combinations([i for i in range(workers) if i != owner], size)]  # fmt: skip
    return [Heap(owner=owner, wanting=wanting, rows=int(numbers.integers(1, 50))) for owner, wanting in sets]


def counted(heaps: list[Heap], trees: list[Tree], workers: int, stages: int) -> np.ndarray[Any, Any]:
    """Rows by stage, sender and receiver."""
    rows = np.zeros((stages, workers, workers), np.int64)
    for heap, tree in zip(heaps, trees, strict=True):
        for transfer in tree:
            rows[transfer] += heap.rows
    return rows


def direct(heaps: list[Heap], workers: int) -> np.ndarray[Any, Any]:
    return counted(heaps, [[(0, heap.owner, worker) for worker in heap.wanting] for heap in heaps], workers, 1)[0]


HOSTS = [("a", "a", "b", "b"), ("a", "b", "c", "d"), ("a", "b", "a", "b", "b"), ("a", "a", "a", "a")]


@pytest.mark.parametrize("hosts", HOSTS, ids="".join)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_trees_over_hosts(hosts: tuple[str, ...], stages: int) -> None:
    links, workers, heaps = Links.of_hosts(hosts, 0.1, 1.0), len(hosts), heaps_of(len(hosts), 1)
    trees = spanning_trees(heaps, links, stages, np.zeros((workers, workers), np.int64))
    for heap, tree in zip(heaps, trees, strict=True):
        assert_a_tree(tree, heap, stages)
    rows = counted(heaps, trees, workers, stages)
    took, alone = sum(links.busy(each).max() for each in rows), links.busy(direct(heaps, workers)).max()
    assert took <= alone
    if len(set(hosts)) == 2 and stages > 1:
        assert took < 0.9 * alone
        # No plan lets fewer rows into a host than are wanted there, each once.
        wanted = [
            sum(heap.rows for heap in heaps if hosts[heap.owner] != host and host in [hosts[i] for i in heap.wanting])
            for host in set(hosts)
        ]
        assert max(wanted) <= took < 1.15 * max(wanted)


def test_one_switch_leaves_nothing_to_plan() -> None:
    """With equal halos every worker has to receive what the direct exchange has it receive."""
    links, none = Links.of_hosts("abcd", 0.1, 1.0), np.zeros((4, 4), np.int64)
    heaps = [Heap(owner=owner, wanting=tuple({*range(4)} - {owner}), rows=10) for owner in range(4)]
    assert spanning_trees(heaps, links, 3, none) == [[(0, heap.owner, i) for i in heap.wanting] for heap in heaps]
    assert links.busy(direct(heaps, 4)).max() == 30


def test_rows_pass_workers_that_do_not_want_them() -> None:
    heap, none = Heap(owner=0, wanting=(2,), rows=3), np.zeros((4, 4), np.int64)
    links = Links.of_pairs(RING, 4)
    assert spanning_trees([heap], links, 3, none) == [[(0, 0, 1), (1, 1, 2)]]
    assert spanning_trees([heap], links, 1, none) == [[(0, 0, 2)]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(looped_graph(120, 900, isolated=3), 4, tmp_path_factory.mktemp("planned")).path


def as_exact(group: Group, store: Path) -> list[float]:
    exact, times, spare = passes(topology(group, store)), [], 0
    hosts, ring = ("a", "b", "a", "b")[: group.size], RING if group.size == 4 else (1.0,) * group.size**2
    group.hosts = hosts
    for strategy in (
        Planned(),
        Planned(stages=1),
        Planned(stages=3, heaps=1),
        Planned(stages=3, seconds=ring),
        Planned(heaps=100_000),
        Planned(sets=8),
    ):
        graph = topology(group, store, strategy)
        assert_alike(passes(graph), exact)
        exchange = graph.wire.exchange
        assert isinstance(exchange, RelayedExchange)
        links = strategy.links(hosts)
        rows = [np.array(group.gather_json(leg.outward.sent)) for leg in exchange.relay.legs]
        times += [sum(links.busy(each).max() for each in rows)]
        if strategy.seconds:
            spare = exchange.relay.rows - exchange.relay.copies - graph.plan.num_halo
    return [*times, spare]


def test_results_are_exact(store: Path) -> None:
    for planned, straight, coarse, _, fine, some, passed_on in together(4, as_exact, store):
        assert planned < straight
        assert coarse <= straight
        assert fine < some < straight, "rows of rare sets go straight"
        assert passed_on > 0, "some worker passes on what it does not want"


def test_one_worker(tmp_path: Path) -> None:
    as_exact(Group.alone(), stored(looped_graph(30, 90), 3, tmp_path).path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"within": 0.0}, "--halo.within is 0.0"),
        ({"seconds": (1.0, float("inf"))}, "--halo.seconds is"),
        ({"stages": 0}, "--halo.stages is 0"),
        ({"heaps": 0}, "--halo.heaps is 0"),
    ],
)
def test_what_has_no_meaning(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Planned(**fields)


def test_times_of_other_pairs() -> None:
    with pytest.raises(InputError, match="--halo.seconds has 9 times; expected 16"):
        Planned(seconds=(1.0,) * 9).links(("a",) * 4)
    assert torch.tensor(Planned(seconds=(1.0,) * 16).links(("a",) * 4).seconds).sum() == 16

"""Hierarchical exchange over hosts that are made up: rows and gradients of the exact one, fewer bytes between hosts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from halo_workers import assert_alike, passes, topology
from stored_graph import stored
from whole_graph import looped_graph
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.hierarchical import Hierarchical
from framework.comm.halo.link import Lane
from framework.comm.halo.plan import HaloPlan

WIDTH = 5
HOSTS = {
    "two by two": ("a", "a", "b", "b"),
    "interleaved": ("a", "b", "a", "b"),
    "uneven": ("a", "b", "b", "b"),
    "one": ("a", "a", "a", "a"),
    "apart": ("a", "b", "c", "d"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(looped_graph(120, 900, isolated=3), 4, tmp_path_factory.mktemp("hierarchical")).path


def between_hosts(plan: HaloPlan, hosts: tuple[str, ...]) -> int:
    """Distinct (row, other host) pairs of this worker's rows."""
    receiver = torch.repeat_interleave(torch.arange(len(hosts)), torch.tensor(plan.sent)).tolist()
    pairs = set(zip(plan.wanted_original.tolist(), (hosts[worker] for worker in receiver), strict=True))
    return sum(host != hosts[plan.group.rank] for _, host in pairs)


def as_exact(group: Group, store: Path) -> list[dict[str, Any]]:
    """Under every arrangement of hosts: results as exact, and rows counted."""
    exact = passes(topology(group, store))
    found = []
    for hosts in HOSTS.values():
        group.hosts = hosts
        graph = topology(group, store, Hierarchical())
        assert_alike(passes(graph), exact)
        training, evaluation = graph.wire.exchange, graph.exact.exchange
        copies, halo = (
            graph.plan.copies(torch.rand(graph.plan.num_owned, WIDTH)),
            torch.rand(graph.plan.num_halo, WIDTH),
        )
        before, lane = group.snapshot(), Lane(layer=1, towards="halo", backward=False)
        assert torch.equal(training.to_halo(copies, lane).wait(), evaluation.to_halo(copies, lane).wait())
        training.to_owners(halo, Lane(layer=1, towards="owners", backward=True)).wait()
        sent = {purpose: count // (4 * WIDTH) for purpose, count in group.since(before).items() if count}
        found.append({"sent": sent, "pairs": between_hosts(graph.plan, hosts), "copies": sum(graph.plan.sent)})
    return found


def test_rows_cross_once_and_results_are_exact(store: Path) -> None:
    workers = together(4, as_exact, store)
    for number, name in enumerate(HOSTS):
        answers = [worker[number] for worker in workers]
        sent = {
            purpose: sum(answer["sent"].get(purpose, 0) for answer in answers)
            for answer in answers
            for purpose in answer["sent"]
        }
        pairs, copies = sum(answer["pairs"] for answer in answers), sum(answer["copies"] for answer in answers)
        for lane in ("halo/1/forward", "halo/1/backward", "evaluation/1/forward"):
            assert sent.pop(f"{lane}/between", 0) == pairs, name
            assert sent.pop(f"{lane}/within", 0) == copies - pairs, name
        assert not sent


def lanes_apart(group: Group, store: Path) -> None:
    """Copies that differ all arrive."""
    group.hosts = HOSTS["two by two"]
    graph, exact = topology(group, store, Hierarchical()), topology(group, store)
    halo = torch.rand(graph.plan.num_halo, WIDTH, generator=torch.Generator().manual_seed(group.rank))
    lane = Lane(layer=1, towards="owners", backward=False, apart=True)
    found, expected = (each.wire.exchange.to_owners(halo, lane).wait() for each in (graph, exact))
    assert torch.equal(found, expected)
    back = Lane(layer=1, towards="halo", backward=True, apart=True)
    found, expected = (each.wire.exchange.to_halo(found, back).wait() for each in (graph, exact))
    assert torch.equal(found, expected)
    assert torch.equal(found, halo)


def test_rows_that_are_apart_go_straight(store: Path) -> None:
    together(4, lanes_apart, store)


def test_one_worker(tmp_path: Path) -> None:
    group, store = Group.alone(), stored(looped_graph(30, 90), 3, tmp_path).path
    assert_alike(passes(topology(group, store, Hierarchical())), passes(topology(group, store)))

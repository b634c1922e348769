"""What each built-in claims: its balance, its quality beside METIS, its limits, and the errors of its settings."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from framework import random
from framework.conformance import small_graph
from framework.data.generators import Planted, RecursiveMatrix
from framework.errors import InputError
from framework.graph.edges import ArrayEdges, EdgeStream
from framework.kernels.partition import assign_window
from framework.partition import Placement, place
from framework.registry import PARTITIONERS
from partitioners import sweep
from partitioners.fennel import Fennel
from partitioners.hdrf import HighDegreeReplicatedFirst
from partitioners.ldg import LinearDeterministicGreedy
from partitioners.metis import Metis
from partitioners.range import Range
from partitioners.spinner import Spinner


@pytest.fixture(scope="module")
def planted() -> EdgeStream:
    return Planted(nodes=10_000, edges=160_000, blocks=64, features=0).open().stream()


@pytest.fixture(scope="module")
def skewed() -> EdgeStream:
    return RecursiveMatrix(scale=13, edges=120_000, features=0, classes=2).open().stream()


def directed(stream: EdgeStream) -> ArrayEdges:
    """Half of the edges of a symmetric stream: a directed graph."""
    source, target = (np.concatenate(side) for side in zip(*stream, strict=True))
    keep = source < target
    return ArrayEdges(source=source[keep], target=target[keep], num_nodes=stream.num_nodes)


@pytest.mark.parametrize("parts", [4, 16])
@pytest.mark.parametrize("plugin", [LinearDeterministicGreedy, Fennel, Spinner])
@pytest.mark.parametrize("direction", ["both", "one"])
def test_edges_are_balanced_where_asked(
    plugin: Any, parts: int, direction: str, planted: EdgeStream, skewed: EdgeStream
) -> None:
    for stream in (planted, skewed):
        chosen = stream if direction == "both" else directed(stream)
        assert place(plugin(balance="edges"), chosen, parts).quality.edge_balance <= 1.1


@pytest.mark.parametrize("plugin", [LinearDeterministicGreedy, Fennel, Spinner])
def test_nodes_are_balanced_where_asked(plugin: Any, planted: EdgeStream, skewed: EdgeStream) -> None:
    for stream in (planted, skewed):
        assert place(plugin(balance="nodes", slack=1.02), stream, 8).quality.node_balance <= 1.021


@pytest.mark.parametrize("plugin", [LinearDeterministicGreedy(), Fennel(), Spinner()])
def test_nodes_without_in_edges_are_a_load(plugin: Any) -> None:
    star = ArrayEdges(source=np.arange(1, 4001), target=np.zeros(4000, np.int64), num_nodes=4001)
    assert place(plugin, star, 4).quality.node_balance < 1.5  # the hub's part has its edges, the leaves share the rest


def test_isolated_nodes_level_the_parts_out(skewed: EdgeStream) -> None:
    """A third of the nodes has no edge: wherever the others are, those fill up."""
    assert place(Spinner(), skewed, 4).quality.node_balance < 1.01


@pytest.mark.parametrize("parts", [4, 16])
def test_streaming_comes_near_metis(parts: int, planted: EdgeStream) -> None:
    best = place(Metis(balance=("nodes",)), planted, parts).quality.cut_ratio
    assert place(Spinner(), planted, parts).quality.cut_ratio < 1.1 * best
    whole = place(Fennel(gamma=2), planted, parts)  # a whole number is a number: a kernel takes it for a pointer else
    assert np.array_equal(whole.owners, place(Fennel(gamma=2.0), planted, parts).owners)
    assert place(Fennel(passes=5), planted, parts).quality.cut_ratio < 1.25 * best


def test_streaming_again_is_better(planted: EdgeStream) -> None:
    cuts = [place(Fennel(passes=passes), planted, 8).quality.cut_ratio for passes in (1, 2, 3)]
    assert cuts[0] > cuts[1] > cuts[2]


def test_every_pass_is_taken(skewed: EdgeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that makes the cut worse is no reason to stop: Fennel's passes are as many as were asked for."""
    calls = []

    def counted(*arguments: Any) -> tuple[int, int]:
        calls.append(arguments)
        return assign_window(*arguments)

    monkeypatch.setattr(sweep, "assign_window", counted)
    for passes in (1, 4, 9):
        calls.clear()
        place(Fennel(passes=passes), skewed, 4)
        assert len(calls) == passes  # one window a pass


def test_metis_says_nothing_of_parts_that_it_cannot_halve(capfd: pytest.CaptureFixture[str]) -> None:
    draw = np.random.Generator(np.random.Philox(0))
    for parts in range(12, 24):
        source, target = draw.integers(0, 28, (2, 110))
        Metis().owners(ArrayEdges(source=source, target=target, num_nodes=28), parts)
    assert capfd.readouterr().out == ""


def test_calls_of_metis_at_once_give_stdout_back(planted: EdgeStream) -> None:
    before = os.fstat(1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: Metis().owners(planted, 8), range(8)))
    assert os.path.samestat(os.fstat(1), before)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_metis_needs_no_stdout() -> None:
    kept = os.dup(1)
    os.close(1)
    try:
        owners = Metis().owners(small_graph(), 4)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert np.unique(owners).tolist() == [0, 1, 2, 3]


def test_metis_keeps_several_balances_at_once(planted: EdgeStream) -> None:
    quality = place(Metis(), planted, 8).quality
    assert quality.training_balance is not None
    assert max(quality.node_balance, quality.edge_balance, quality.training_balance) < 1.06
    alone = place(Metis(balance=("nodes",)), planted, 8).quality
    assert alone.edge_balance > quality.edge_balance


def test_metis_minimises_volume_where_asked(skewed: EdgeStream) -> None:
    cut = place(Metis(balance=("nodes",)), skewed, 8).quality
    volume = place(Metis(balance=("nodes",), objective="volume"), skewed, 8).quality
    assert volume.communication_volume < place(PARTITIONERS.get("random")(), skewed, 8).quality.communication_volume
    assert cut.cut_ratio < volume.cut_ratio


def test_metis_sees_weights_of_duplicates() -> None:
    """Two pairs of nodes bound by many edges, and single edges across: the cut must take the single ones."""
    pairs = [(0, 1)] * 9 + [(2, 3)] * 9 + [(0, 2), (1, 3)]
    edges = np.array(pairs + [(b, a) for a, b in pairs])
    stream = ArrayEdges(source=edges[:, 0].copy(), target=edges[:, 1].copy(), num_nodes=4)
    owners = place(Metis(balance=("nodes",)), stream, 2).owners
    assert owners[0] == owners[1] != owners[2] == owners[3]


def test_random_is_uniform() -> None:
    empty = np.empty(0, np.int64)
    stream = ArrayEdges(source=empty, target=empty, num_nodes=100_000)
    owners = place(PARTITIONERS.get("random")(seed=3), stream, 11).owners
    counts = np.bincount(owners, minlength=11)
    assert ((counts - 100_000 / 11) ** 2 / (100_000 / 11)).sum() < 29.6  # chi-square, 10 degrees, p = .001
    draws = random.bits(random.Key.root(3), torch.arange(5))
    assert owners[:5].tolist() == [int(draw >> 32) * 11 >> 31 for draw in draws]
    assert not np.array_equal(owners, place(PARTITIONERS.get("random")(seed=4), stream, 11).owners)


def test_range_is_contiguous() -> None:
    empty = np.empty(0, np.int64)
    owners = place(Range(), ArrayEdges(source=empty, target=empty, num_nodes=10), 4).owners
    assert owners.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_dbh_hashes_the_end_of_lower_degree(skewed: EdgeStream) -> None:
    source, target = (np.concatenate(side) for side in zip(*skewed, strict=True))
    degrees = np.bincount(source, minlength=skewed.num_nodes) + np.bincount(target, minlength=skewed.num_nodes)
    hashed = PARTITIONERS.get("random")(seed=2).owners(skewed, 6)
    lower = [s if (degrees[s], s) < (degrees[t], t) else t for s, t in zip(source, target, strict=True)]
    found = np.concatenate(list(PARTITIONERS.get("dbh")(seed=2).edge_owners(skewed, 6)))
    assert np.array_equal(found, hashed[lower])


@pytest.mark.parametrize("parts", [4, 16])
def test_hdrf_replicates_less_than_dbh_and_balances(parts: int, skewed: EdgeStream, planted: EdgeStream) -> None:
    for stream in (skewed, planted):
        hdrf, dbh = (place(PARTITIONERS.get(name)(), stream, parts).quality for name in ("hdrf", "dbh"))
        assert hdrf.replication_factor < dbh.replication_factor
        assert hdrf.edge_balance <= 1.05


def test_without_a_compiler_the_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Planted(nodes=400, edges=4_000, blocks=8, classes=4, features=0).open().stream()
    plugins = [LinearDeterministicGreedy(), Fennel(), Spinner(), HighDegreeReplicatedFirst()]

    def answers() -> list[Placement]:
        return [place(plugin, stream, 4) for plugin in plugins]

    native = answers()
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    for ours, twin in zip(native, answers(), strict=True):
        assert np.array_equal(ours.owners, twin.owners)
        assert np.array_equal(ours.replicas, twin.replicas)


@pytest.mark.parametrize("name", ["dbh", "fennel", "hdrf", "ldg", "metis", "random", "range", "spinner"])
def test_nothing_and_many_parts_are_no_limit(name: str) -> None:
    empty = np.empty(0, np.int64)
    nothing = place(PARTITIONERS.get(name)(), ArrayEdges(source=empty, target=empty, num_nodes=0), 3)
    assert nothing.owners.shape == (0,)
    stream = Planted(nodes=3_000, edges=40_000, blocks=16, classes=4, features=0).open().stream()
    placement = place(PARTITIONERS.get(name)(), stream, 130)
    assert len(np.unique(placement.owners)) == 130
    rows = sum(len(placement.replicated(part)) for part in range(130))
    assert rows == placement.quality.communication_volume > 0


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Fennel(gamma=1.0), "gamma is 1.0; expected more than 1"),
        (Fennel(passes=0), "passes are 0"),
        (Spinner(slack=0.9), "slack is 0.9"),
        (Spinner(balance="heads"), "balance is 'heads'"),  # type: ignore[arg-type]
        (LinearDeterministicGreedy(slack=0.5), "expected a slack of at least 1"),
        (HighDegreeReplicatedFirst(slack=0.5), "hdrf's slack is 0.5"),
        (Metis(balance=()), "expected some of nodes, edges, training"),
        (Metis(slack=1.0), "slack 1.0"),
        (Metis(objective="cost"), "cut or volume"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be_are_refused(plugin: Any, words: str, planted: EdgeStream) -> None:
    with pytest.raises(InputError, match=words):
        place(plugin, planted, 4)


def test_every_field_says_what_it_is() -> None:
    for name in PARTITIONERS.names():
        entry = next(entry for entry in PARTITIONERS.entries() if entry.name == name)
        assert entry.summary.endswith(".")
        assert dataclasses.is_dataclass(PARTITIONERS.get(name))

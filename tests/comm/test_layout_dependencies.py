"""Which rows a worker computes itself: whatever it computes, it has the inputs of; and cost and memory decide."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from whole_graph import WholeGraph, looped_graph

from framework.comm.layout.dependencies import Dependencies, Prices
from framework.comm.layout.surroundings import Rows, Surroundings
from framework.graph.block import Nodes

OWNED, LEVELS = 20, 3  # the first nodes are a worker's own
PRICES = Prices(columns=10, width=8, bandwidth=1e6, flops=1e6)


@pytest.fixture(scope="module")
def graph() -> WholeGraph:
    return looped_graph(200, 700, seed=2)


@pytest.fixture(scope="module")
def around(graph: WholeGraph) -> Surroundings:
    """What `Surroundings.open` would find, by going through the edges."""
    hops = [sources_of(graph, range(OWNED)) - set(range(OWNED))]
    for _ in range(LEVELS):
        hops.append(sources_of(graph, hops[-1]) - set(range(OWNED)).union(*hops))
    order = [node for hop in hops for node in sorted(hop)]
    rows = [graph.csr.indices[graph.csr.indptr[node] : graph.csr.indptr[node + 1]].long() for node in order]
    expanded = sum(len(hop) for hop in hops[:-1])
    counts = torch.tensor([len(row) for row in rows[:expanded]])
    return Surroundings(
        nodes=graph.nodes[torch.tensor(order)],
        halo=len(hops[0]),
        rows=Rows(counts=counts, ids=torch.cat(rows[:expanded]), weights=None),
    )


def sources_of(graph: WholeGraph, targets: set[int] | range) -> set[int]:
    """The sources of the in-edges of some nodes."""
    return set(graph.source[torch.isin(graph.target, torch.tensor(sorted(targets)))].tolist())


def chosen(around: Surroundings, memory: float = math.inf, **prices: float) -> Dependencies:
    """The choice by cost."""
    dependencies = Dependencies(around, LEVELS)
    dependencies.compute_what_pays(dataclasses.replace(PRICES, **prices), memory)
    return dependencies


def everything(around: Surroundings) -> Dependencies:
    """All rows of the halo."""
    dependencies = Dependencies(around, LEVELS)
    dependencies.compute_all()
    return dependencies


def check_inputs(graph: WholeGraph, around: Surroundings, computed: np.ndarray) -> None:
    """A row that is computed has its node's and all its in-neighbours' rows one level below, computed or owned."""
    ids = around.nodes.ids.tolist()
    for level in range(2, LEVELS + 1):
        below = {ids[place] for place in np.flatnonzero(computed[level - 1])} | set(range(OWNED))
        here = {ids[place] for place in np.flatnonzero(computed[level])}
        assert here | sources_of(graph, here) <= below


def test_all_rows_take_all_their_inputs_and_no_more(graph: WholeGraph, around: Surroundings) -> None:
    computed = everything(around).computed
    check_inputs(graph, around, computed)
    ids, hop = around.nodes.ids, set(around.nodes.ids[: around.halo].tolist())
    for level in range(LEVELS, 0, -1):
        assert set(ids[torch.from_numpy(computed[level])].tolist()) == hop
        hop |= sources_of(graph, hop) - set(range(OWNED))


def test_free_arithmetic_computes_all_and_a_free_wire_fetches_all(around: Surroundings) -> None:
    assert (chosen(around, flops=math.inf).computed == everything(around).computed).all()
    assert not chosen(around, bandwidth=math.inf).computed.any()
    assert not chosen(around, memory=0).computed.any()


def test_cost_chooses_some_and_memory_fewer(graph: WholeGraph, around: Surroundings) -> None:
    rich, poor = chosen(around, bandwidth=2e5).computed, chosen(around, memory=3e3, bandwidth=2e5).computed
    check_inputs(graph, around, rich)
    check_inputs(graph, around, poor)
    assert 0 < poor.sum() < rich.sum() < everything(around).computed.sum()
    assert rich[1].sum() > rich[LEVELS].sum() > 0


def test_of_one_level_exactly_the_rows_that_pay_are_computed(around: Surroundings) -> None:
    dependencies = Dependencies(around, 1)
    prices = dataclasses.replace(PRICES, bandwidth=7e5)
    dependencies.compute_what_pays(prices, math.inf)
    degree = around.nodes.degree[: around.halo]
    pays = [prices.computing(1, 1, each) < prices.fetching for each in degree.tolist()]
    assert dependencies.computed[1, : around.halo].tolist() == pays
    assert 0 < sum(pays) < len(pays)


def test_rows_are_picked_with_their_edges() -> None:
    rows = Rows(counts=torch.tensor([2, 0, 3]), ids=torch.arange(5), weights=torch.arange(5.0))
    picked = rows.of(torch.tensor([2, 1, 0]))
    assert picked.counts.tolist() == [3, 0, 2]
    assert picked.ids.tolist() == [2, 3, 4, 0, 1]
    assert picked.weights is not None
    assert picked.weights.tolist() == picked.ids.tolist()
    assert picked.first(2).ids.tolist() == [2, 3, 4]


def test_a_worker_without_a_halo_has_no_surroundings() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    alone = Surroundings(nodes=Nodes.none(), halo=0, rows=Rows(counts=nothing, ids=nothing, weights=None))
    assert alone.places(torch.arange(3)).tolist() == [-1] * 3
    assert not everything(alone).computed.any()

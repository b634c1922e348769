"""Draws that nodes share: the same neighbours where they have the same, fewer different ones, and the same variance."""

import numpy as np
import pytest
import torch
from whole_graph import WholeGraph, random_graph

from framework.graph.block import Block
from framework.random import Key
from framework.sample.labor import Labor
from framework.sample.neighbor import Neighbor

TARGETS, COMMON = 40, 60


def bipartite() -> WholeGraph:
    """Every one of the first nodes has the same neighbours: all the others."""
    source, target = torch.meshgrid(torch.arange(TARGETS, TARGETS + COMMON), torch.arange(TARGETS), indexing="ij")
    return WholeGraph(source=source.flatten(), target=target.flatten(), num_nodes=TARGETS + COMMON)


def means(sampler: Neighbor | Labor, graph: WholeGraph, draws: int) -> torch.Tensor:
    """The mean of a number of each node over the sampled neighbours of the first nodes: [draws, targets]."""
    values = torch.arange(graph.num_nodes, dtype=torch.float64)[:, None]
    found = []
    for draw in range(draws):
        (block,) = sampler.sample(graph, graph.nodes[:TARGETS], Key.root(draw))
        found.append(block.sum(values[block.sources.ids], mean=True).flatten())
    return torch.stack(found)


def test_nodes_with_the_same_neighbours_choose_the_same() -> None:
    graph = bipartite()
    (block,) = Labor(fanouts=(7,)).sample(graph, graph.nodes[:TARGETS], Key.root(5))
    assert len(block.sources) == TARGETS + 7
    (each,) = Neighbor(fanouts=(7,)).sample(graph, graph.nodes[:TARGETS], Key.root(5))
    assert len(each.sources) > TARGETS + 50


def test_a_larger_fanout_takes_what_a_smaller_one_does_and_more() -> None:
    graph = random_graph(200, 6000)
    (few,), (many,) = (Labor(fanouts=(fanout,)).sample(graph, graph.nodes, Key.root(1)) for fanout in (4, 9))
    for row in range(graph.num_nodes):
        some = few.indices[few.indptr[row] : few.indptr[row + 1]].tolist()
        assert set(some) <= set(many.indices[many.indptr[row] : many.indptr[row + 1]].tolist())


def test_means_are_as_good_as_those_of_single_draws() -> None:
    """No bias, and the variance of a sample without replacement: s^2 / k * (1 - k / d)."""
    graph, draws = bipartite(), 800
    values = np.arange(TARGETS, TARGETS + COMMON)
    variance = values.var(ddof=1) / 7 * (1 - 7 / COMMON)
    for sampler in (Labor(fanouts=(7,)), Neighbor(fanouts=(7,))):
        found = means(sampler, graph, draws)[:, 0]
        assert abs(float(found.mean()) - values.mean()) < 4 * np.sqrt(variance / draws)
        assert float(found.var()) == pytest.approx(variance, rel=0.2)


def test_hops_share_draws_where_asked() -> None:
    graph = random_graph(2000, 60_000)
    seeds = graph.nodes[:100]
    apart, shared = (
        Labor(fanouts=(5, 5, 5), layer_dependent=dependent).sample(graph, seeds, Key.root(2))
        for dependent in (False, True)
    )
    assert len(shared[0].sources) < len(apart[0].sources)
    again = {target: row for block in shared for target, row in _rows(block).items()}
    for block in shared:
        assert all(again[target] == row for target, row in _rows(block).items())


def test_a_step_has_fewer_rows() -> None:
    graph = random_graph(2000, 60_000)
    ours, theirs = (
        len(sampler.sample(graph, graph.nodes[:300], Key.root(3))[0].sources)
        for sampler in (Labor(fanouts=(5, 5)), Neighbor(fanouts=(5, 5)))
    )
    assert ours < 0.9 * theirs


def _rows(block: Block) -> dict[int, list[int]]:
    original, ends = block.sources.original[block.indices.long()].tolist(), block.indptr.tolist()
    return {
        target: original[begin:end]
        for target, begin, end in zip(block.targets.original.tolist(), ends, ends[1:], strict=False)
    }

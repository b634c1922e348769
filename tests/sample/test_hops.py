"""Blocks hop by hop: consistent, drawn without replacement, the same however the graph is partitioned."""

import itertools
from pathlib import Path

import pytest
import torch
from stored_graph import stored
from whole_graph import random_graph

from framework.comm.group import Group
from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.random import Key
from framework.sample.labor import Labor
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler

GRAPH = random_graph(80, 900, isolated=4)
EDGES = set(zip(GRAPH.source.tolist(), GRAPH.target.tolist(), strict=True))
FANOUTS = (4, 3, 2)
DRAWING = [Neighbor, Labor]
SEEDS = torch.tensor([7, 79, 0, 33, 41])


def rows(block: Block) -> dict[int, list[int]]:
    """Original id of every target -> those of its sources, in the block's order."""
    counts = zip(block.targets.original.tolist(), block.indptr.diff().tolist(), strict=True)
    sources = iter(block.sources.original[block.indices.long()].tolist())
    return {target: [next(sources) for _ in range(count)] for target, count in counts}


@pytest.mark.parametrize("sampler", DRAWING)
def test_blocks_are_consistent(sampler: type[Neighbor | Labor]) -> None:
    blocks = sampler(fanouts=FANOUTS).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(1))
    assert len(blocks) == len(FANOUTS)
    assert torch.equal(blocks[-1].targets.ids, SEEDS)
    for inner, outer in itertools.pairwise(blocks):
        assert torch.equal(inner.targets.ids, outer.sources.ids)
    for block, fanout in zip(blocks, reversed(FANOUTS), strict=True):
        assert len(block.sources.ids.unique()) == len(block.sources)
        assert torch.equal(block.sources.degree, GRAPH.nodes.degree[block.sources.original])
        for target, sources in rows(block).items():
            assert len(sources) == min(fanout, int(GRAPH.nodes.degree[target]))
            assert sources == sorted(set(sources))  # without replacement, by original id
            assert all((source, target) in EDGES for source in sources)


@pytest.mark.parametrize("sampler", DRAWING)
def test_a_node_draws_the_same_neighbours_whatever_it_is_drawn_with(sampler: type[Neighbor | Labor]) -> None:
    drawing, key = sampler(fanouts=(3,)), Key.root(2)
    (alone,) = drawing.sample(GRAPH, GRAPH.nodes[torch.tensor([33])], key)
    (together,) = drawing.sample(GRAPH, GRAPH.nodes[SEEDS], key)
    assert rows(alone)[33] == rows(together)[33]
    (other,) = drawing.sample(GRAPH, GRAPH.nodes, key.fold(1))
    assert rows(other) != rows(drawing.sample(GRAPH, GRAPH.nodes, key)[0])


@pytest.mark.parametrize("sampler", DRAWING)
def test_every_hop_has_draws_of_its_own(sampler: type[Neighbor | Labor]) -> None:
    """A node that is in the frontier of two hops does not gather from the same few in both."""
    blocks = sampler(fanouts=(3, 3)).sample(GRAPH, GRAPH.nodes, Key.root(3))
    assert rows(blocks[0]) != rows(blocks[1])
    assert blocks[0].key != blocks[1].key


@pytest.mark.parametrize("sampler", DRAWING)
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_the_partition_does_not_show(parts: int, sampler: type[Neighbor | Labor], tmp_path: Path) -> None:
    shards = Shards.open(stored(GRAPH, parts, tmp_path), Group.alone(), "owned")
    everywhere = Nodes.concatenate(
        [Nodes.of_shard(shard, torch.arange(shard.num_owned)) for shard in shards.mapped.values()]
    )
    place = torch.argsort(everywhere.original)  # the node of every original id
    drawing, key = sampler(fanouts=FANOUTS), Key.root(1)
    found = drawing.sample(Topology(shards), everywhere[place[SEEDS]], key)
    expected = drawing.sample(GRAPH, GRAPH.nodes[SEEDS], key)
    for block, same in zip(found, expected, strict=True):
        assert torch.equal(block.sources.original, same.sources.original)
        assert torch.equal(block.sources.degree, same.sources.degree)
        assert torch.equal(block.indptr, same.indptr)
        assert torch.equal(block.indices, same.indices)
        assert torch.equal(everywhere.original[block.sources.ids], block.sources.original)
        assert block.key == same.key


@pytest.mark.parametrize("sampler", DRAWING)
def test_minus_one_takes_the_whole_neighbourhood(sampler: type[Neighbor | Labor]) -> None:
    (block,) = sampler(fanouts=(-1,)).sample(GRAPH, GRAPH.nodes, Key.root(0))
    assert torch.equal(block.indices, GRAPH.csr.indices)
    assert torch.equal(block.indptr, GRAPH.csr.indptr)


@pytest.mark.parametrize("sampler", DRAWING)
def test_no_seeds_make_empty_blocks(sampler: type[Neighbor | Labor]) -> None:
    blocks = sampler(fanouts=(2, 2)).sample(GRAPH, Nodes.none(), Key.root(0))
    assert [len(block.sources) for block in blocks] == [0, 0]


@pytest.mark.parametrize("sampler", DRAWING)
@pytest.mark.parametrize("fanouts", [(), (0,), (5, -2)])
def test_fanouts_that_mean_nothing_are_refused(fanouts: tuple[int, ...], sampler: type[Neighbor | Labor]) -> None:
    with pytest.raises(InputError, match=r"--sampler\.fanouts"):
        sampler(fanouts=fanouts)


@pytest.mark.parametrize("sampler", DRAWING)
def test_it_is_a_sampler(sampler: type[Neighbor | Labor]) -> None:
    assert isinstance(sampler(), Sampler)

"""Several shards joined into one block: the same graph as one shard holds, and as was put in."""

import collections
from pathlib import Path

import pytest
import torch
from stored_graph import stored
from torch import Tensor
from whole_graph import looped_graph

from framework.graph.block import Block
from framework.graph.local import LocalGraph
from framework.graph.store import ShardStore

GRAPH = looped_graph(60, 400, isolated=5)


def edges(block: Block) -> dict[int, list[int]]:
    """Original id of every target -> those of its sources, in the block's order."""
    rows = zip(block.targets.original.tolist(), block.indptr.diff().tolist(), strict=True)
    sources = iter(block.sources.original[block.indices.long()].tolist())
    return {target: [next(sources) for _ in range(count)] for target, count in rows}


def joined(store: ShardStore, parts: range) -> LocalGraph:
    return LocalGraph.join([store.shard(part) for part in parts])


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_all_shards_joined_are_the_whole_graph(parts: int, tmp_path: Path) -> None:
    local = joined(stored(GRAPH, parts, tmp_path), range(parts))
    assert len(local.halo) == 0
    assert len(local.owned) == GRAPH.num_nodes
    assert edges(local.block) == edges(GRAPH.block)
    assert torch.equal(local.block.sources.ids, torch.arange(GRAPH.num_nodes))
    assert torch.equal(by_original(local.block.sources.original, local.block.sources.degree), GRAPH.nodes.degree)


def by_original(original: Tensor, values: Tensor) -> Tensor:
    """`values` in the order of original ids."""
    return values[torch.argsort(original)]


@pytest.mark.parametrize("chosen", [range(0, 2), range(1, 4), range(3, 6)])
def test_some_shards_joined_hold_the_in_edges_of_their_nodes(chosen: range, tmp_path: Path) -> None:
    store = stored(GRAPH, 6, tmp_path)
    local, whole = joined(store, chosen), edges(GRAPH.block)
    found = edges(local.block)
    assert found == {target: whole[target] for target in found}
    first, last = store.offsets[chosen.start], store.offsets[chosen.stop]
    assert torch.equal(local.owned.ids, torch.arange(int(first), int(last)))
    halo = local.halo
    assert bool((halo.ids.diff() > 0).all())
    assert not bool(((halo.ids >= first) & (halo.ids < last)).any())
    assert {int(node) for node in halo.original} == {node for row in found.values() for node in row} - set(found)
    assert torch.equal(halo.degree, GRAPH.nodes.degree[halo.original])


def test_edge_weights_stay_with_their_edges(tmp_path: Path) -> None:
    weights = torch.arange(len(GRAPH.source), dtype=torch.float32)
    wanted = collections.defaultdict(list)  # of duplicates, in the order of the input
    for source, target, weight in zip(GRAPH.source.tolist(), GRAPH.target.tolist(), weights.tolist(), strict=True):
        wanted[source, target].append(weight)
    block = joined(stored(GRAPH, 4, tmp_path, edge_weights=weights), range(1, 3)).block
    assert block.edge_weights is not None
    targets = torch.repeat_interleave(block.targets.original, block.indptr.diff())
    sources = block.sources.original[block.indices.long()]
    for source, target, weight in zip(sources.tolist(), targets.tolist(), block.edge_weights.tolist(), strict=True):
        assert weight == wanted[source, target].pop(0)


def test_no_shard_gives_no_nodes() -> None:
    local = LocalGraph.join([])
    assert len(local.owned) == len(local.halo) == 0

"""Shards of a vertex-cut, alone and joined: every edge where it was given, masters and mirrors, counts of the whole."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cuts import GivenEdgeOwners
from numpy.typing import NDArray
from oracle_store import random_edges
from stored_graph import stored
from torch import Tensor
from whole_graph import looped_graph

from framework.data.files import Files
from framework.errors import PluginError
from framework.graph.block import Block, Nodes
from framework.graph.edges import EdgeStream
from framework.graph.local import LocalGraph
from framework.graph.store import VERSIONS, ShardStore
from framework.prepare import prepare
from framework.store.manifest import MANIFEST
from partitioners.dbh import DegreeBasedHashing
from partitioners.hdrf import HighDegreeReplicatedFirst
from partitioners.random import Random

GRAPH = looped_graph(60, 400, isolated=5)
EDGES = len(GRAPH.source)
PARTS = 6
SOME = tuple(part for part in range(PARTS) if part != 3)  # one part gets no edge
GIVEN = torch.tensor([SOME[draw] for draw in np.random.Generator(np.random.Philox(4)).integers(0, 5, EDGES)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fickle:
    """A vertex-cut that answers otherwise the second time it is asked."""

    asked: str
    """A file that is there from the first time on."""
    then: str
    """What it answers then: `fewer` edges, part 1 for `all`, or for `some` more."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[NDArray[np.int32]]:
        """Part 1 for every other edge."""
        again = Path(self.asked).exists()
        Path(self.asked).touch()
        answer = np.arange(graph.num_edges, dtype=np.int32) % 2
        if again and self.then == "some":
            answer[:4] = 1
        if again and self.then == "all":
            answer[:] = 1
        yield answer[: graph.num_edges - (again and self.then == "fewer")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """GRAPH cut as GIVEN; an edge's weight is its number."""
    cut = GivenEdgeOwners(parts_of=tuple(GIVEN.tolist()))
    weights = torch.arange(EDGES, dtype=torch.float32)
    return stored(GRAPH, PARTS, tmp_path_factory.mktemp("store"), partitioner=cut, edge_weights=weights)


def test_a_part_may_have_edges_and_own_no_node(tmp_path: Path) -> None:
    graph = looped_graph(10, 30, isolated=0)
    store = stored(graph, 8, tmp_path, partitioner=HighDegreeReplicatedFirst())
    shards = [store.shard(part) for part in range(8)]
    assert any(shard.num_owned == 0 and len(shard.halo) for shard in shards)
    for shard in shards:
        nodes = Nodes.of_shard(shard, torch.arange(shard.num_owned + len(shard.halo)))
        assert nodes.ids.tolist() == [*range(shard.first, shard.first + shard.num_owned), *shard.halo.tolist()]
        assert torch.equal(nodes.original, torch.cat([shard.original, shard.halo_original]))
        assert torch.equal(nodes.degree, torch.cat([shard.degree, shard.halo_degree]))


def test_a_graph_without_edges_is_cut(tmp_path: Path) -> None:
    store = stored(looped_graph(4, 0, isolated=0), 2, tmp_path, partitioner=HighDegreeReplicatedFirst())
    assert sum(store.shard(part).num_owned for part in range(2)) == 4


def weighted_edges(block: Block) -> dict[int, list[tuple[int, float]]]:
    """Original id of every target with edges -> sources and weights, in the block's order."""
    assert block.edge_weights is not None
    sources = block.sources.original[block.indices.long()].tolist()
    ends = iter(zip(sources, block.edge_weights.tolist(), strict=True))
    rows = zip(block.targets.original.tolist(), block.indptr.diff().tolist(), strict=True)
    return {target: [next(ends) for _ in range(count)] for target, count in rows if count}


def given_edges(parts: Iterable[int]) -> dict[int, list[tuple[int, float]]]:
    """The same of GRAPH's edges that some parts were given: by source, duplicates by number."""
    rows: dict[int, list[tuple[int, float]]] = {}
    numbers = torch.nonzero(torch.isin(GIVEN, torch.tensor(list(parts)))).squeeze(1)
    ends = torch.stack([GRAPH.source[numbers], GRAPH.target[numbers], numbers], dim=1)
    for source, target, number in sorted(ends.tolist()):
        rows.setdefault(target, []).append((source, float(number)))
    return rows


def ends_of(rows: dict[int, list[tuple[int, float]]]) -> set[int]:
    return set(rows) | {source for row in rows.values() for source, _ in row}


def joined(store: ShardStore, parts: range) -> LocalGraph:
    return LocalGraph.join([store.shard(part) for part in parts], store.kind)


def by_source(rows: dict[int, list[tuple[int, float]]]) -> dict[int, list[tuple[int, float]]]:
    """Duplicates on several parts stand part by part: put in the order of their numbers."""
    assert all([source for source, _ in row] == sorted(source for source, _ in row) for row in rows.values())
    return {target: sorted(row) for target, row in rows.items()}


@pytest.mark.parametrize(
    "parts", [*(range(part, part + 1) for part in range(PARTS)), range(0, 2), range(2, 5), range(PARTS)], ids=str
)
def test_shards_have_the_edges_they_were_given(store: ShardStore, parts: range) -> None:
    local, wanted = joined(store, parts), given_edges(parts)
    block = local.block
    assert by_source(weighted_edges(block)) == wanted
    first, last = store.offsets[parts.start], store.offsets[parts.stop]
    assert torch.equal(local.owned.ids, torch.arange(int(first), int(last)))
    assert bool((local.halo.ids.diff() > 0).all())
    assert set(local.halo.original.tolist()) == ends_of(wanted) - set(local.owned.original.tolist())
    assert len(block.targets) == len(block.sources) == len(local.owned) + len(local.halo)
    assert torch.equal(block.sources.degree, GRAPH.nodes.degree[block.sources.original])


def test_every_node_has_its_master_where_it_has_an_edge(store: ShardStore) -> None:
    owned = [store.shard(part).original for part in range(PARTS)]
    assert torch.equal(torch.cat(owned).sort().values, torch.arange(GRAPH.num_nodes))
    connected = ends_of(given_edges(range(PARTS)))
    for part in range(PARTS):
        assert set(owned[part].tolist()) & connected <= ends_of(given_edges([part]))


def test_loops_that_a_layer_adds_are_the_owned_nodes(store: ShardStore) -> None:
    block = joined(store, range(2, 5)).block
    others, looped = block.without_self_loops, block.with_self_loops
    owned = block.num_owned
    assert 0 < owned < block.num_targets
    added = torch.cat([torch.ones(owned), torch.zeros(block.num_targets - owned)]).long()
    assert torch.equal(looped.indptr.diff(), others.indptr.diff() + added)
    for target in range(block.num_targets):
        own = [target] if target < owned else []
        assert row_of(looped, target).tolist() == [*row_of(others, target).tolist(), *own]


def row_of(block: Block, target: int) -> Tensor:
    return block.indices[int(block.indptr[target]) : int(block.indptr[target + 1])]


def test_the_manifest_says_what_was_cut(store: ShardStore, tmp_path: Path) -> None:
    assert store.kind == "vertex-cut"
    assert json.loads((store.path / MANIFEST).read_text())["version"] == VERSIONS["vertex-cut"]
    edge_cut = stored(GRAPH, PARTS, tmp_path)
    assert edge_cut.kind == "edge-cut"
    content = json.loads((edge_cut.path / MANIFEST).read_text())
    assert content["version"] == VERSIONS["edge-cut"]
    assert "kind" not in content


def test_edges_in_several_files_follow_their_parts(tmp_path: Path) -> None:
    """Files are bucketed one by one, and weights with them."""
    source, target = random_edges(50, 300)
    for piece in range(3):
        rows = slice(piece * 100, piece * 100 + 100)
        table = np.stack([source[rows], target[rows], np.arange(300)[rows]], axis=1)
        np.savetxt(
            tmp_path / f"{piece}.csv", table, fmt="%d", delimiter=",", header="source,target,weight", comments=""
        )
    data = Files(edges=(str(tmp_path / "*.csv"),), weight="weight")
    cut = GivenEdgeOwners(parts_of=tuple(number % 4 for number in range(300)))
    store = ShardStore.open(prepare(data, cut, 4, tmp_path / "stores").path)
    for part in range(4):
        numbers = [
            int(weight)
            for row in weighted_edges(joined(store, range(part, part + 1)).block).values()
            for _, weight in row
        ]
        assert sorted(numbers) == list(range(part, 300, 4))


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("fewer", rf"Fickle.*edge_owners, batch 0 answered int32 of shape \({EDGES - 1},\)"),
        ("all", r"Fickle' answered otherwise the second time: \d+ mirrors and an edge balance of 2, after \d+ and 1.0"),
        ("some", "Fickle' answered otherwise the second time"),
    ],
)
def test_a_partitioner_that_changes_its_mind_is_named(tmp_path: Path, then: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        stored(GRAPH, 2, tmp_path / "stores", partitioner=Fickle(asked=str(tmp_path / "asked"), then=then))
    assert list((tmp_path / "stores").iterdir()) == []


def test_prepared_again_it_is_found(tmp_path: Path) -> None:
    first = stored(GRAPH, 3, tmp_path, partitioner=DegreeBasedHashing())
    again = stored(GRAPH, 3, tmp_path, partitioner=DegreeBasedHashing())
    assert again.path == first.path
    assert stored(GRAPH, 3, tmp_path, partitioner=Random()).path != first.path
    first.verify()

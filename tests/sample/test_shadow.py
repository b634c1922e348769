"""Ego-nets: what networkx and a walk from one seed at a time say, and networks on them as on graphs of their own."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from stored_graph import stored
from torch import Tensor, nn
from whole_graph import WholeGraph, looped_graph, random_rows

from framework.comm.group import Group
from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.csr import row_of_entries
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import SAMPLING, Sampler, Scoped
from framework.sample.shadow import Shadow

GRAPH = looped_graph(60, 220, isolated=6)
SEEDS = torch.tensor([41, 58, 0, 17, 33])  # 58 has no edge but two loops to itself
KEY = Key.root(5)
WHOLE = [(-1,), (-1, -1), (-1, -1, -1)]
DRAWN = [(2,), (3, 2), (1, 2, 2)]
MODELS = [
    SAGE(hidden=6, dropout=0.3, input_dropout=0.2),
    GCN(hidden=6, dropout=0.3, input_dropout=0.2),
    GAT(hidden=3, heads=2, dropout=0.3, attention_dropout=0.3),
]
named = pytest.mark.parametrize("model", MODELS, ids=["sage", "gcn", "gat"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Net:
    """One seed's net, as a block has it: pairs by their places in it."""

    pairs: list[int]
    edges: "Counter[tuple[int, int]]"
    """Original ids of source and target."""


def all_of(fanouts: tuple[int, ...], seeds: Tensor = SEEDS) -> Block:
    """A layer over all pairs of the nets: one that is far enough from the last for everybody to reach it."""
    return Shadow(fanouts=fanouts, layers=len(fanouts) + 1).sample(GRAPH, GRAPH.nodes[seeds], KEY)[0]


def nets(block: Block, seeds: int) -> Iterator[Net]:
    """Each net is one piece of the block's graph, for everyone in it reaches its seed."""
    targets, sources = row_of_entries(block.indptr, len(block.indices)), block.indices.long()
    ones = torch.ones(len(sources))
    matrix = csr_array((ones, (targets, sources)), shape=(block.num_targets, len(block.sources)))
    count, piece = connected_components(matrix, directed=False)
    assert count == seeds
    assert len(set(piece[:seeds])) == seeds, "the first pairs are the seeds' own"
    original = block.sources.original
    for seed in range(seeds):
        inside = torch.from_numpy(piece == piece[seed])
        here = inside[targets]
        ends = zip(original[sources[here]].tolist(), original[targets[here]].tolist(), strict=True)
        yield Net(pairs=inside.nonzero().flatten().tolist(), edges=Counter(ends))


def induced(nodes: "set[int]") -> "Counter[tuple[int, int]]":
    """All edges of the graph among some of its nodes, by networkx."""
    return Counter(whole().subgraph(nodes).edges())


def whole() -> networkx.MultiDiGraph:
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(GRAPH.num_nodes))
    graph.add_edges_from(zip(GRAPH.source.tolist(), GRAPH.target.tolist(), strict=True))
    return graph


@pytest.mark.parametrize("fanouts", WHOLE, ids=str)
def test_with_all_neighbours_a_net_is_networkx_s_ego_graph(fanouts: tuple[int, ...]) -> None:
    block = all_of(fanouts)
    for seed, net in zip(SEEDS.tolist(), nets(block, len(SEEDS)), strict=True):
        around = set(networkx.ego_graph(whole().reverse(), seed, radius=len(fanouts)))
        original = block.sources.original[net.pairs].tolist()
        assert sorted(original) == sorted(around), "each node once"
        assert net.edges == induced(around)


@pytest.mark.parametrize("fanouts", DRAWN, ids=str)
def test_a_net_is_what_a_walk_from_its_seed_draws(fanouts: tuple[int, ...]) -> None:
    """One seed at a time, a node at a time: so what else is in a batch does not show."""
    block = all_of(fanouts)
    for seed, net in zip(SEEDS.tolist(), nets(block, len(SEEDS)), strict=True):
        around, frontier = {seed}, {seed}
        for hop, fanout in enumerate(fanouts):
            asked = [
                GRAPH.neighbors(GRAPH.nodes[node : node + 1], fanout, KEY.fold(SAMPLING, hop)) for node in frontier
            ]
            assert all(len(found.sources) <= fanout for found in asked)
            frontier = {node for found in asked for node in found.sources.original.tolist()} - around
            around |= frontier
        assert sorted(block.sources.original[net.pairs].tolist()) == sorted(around)
        assert net.edges == induced(around)


@pytest.mark.parametrize("fanouts", [(-1, -1), (3, 2)], ids=str)
def test_rows_are_in_order_and_degrees_are_those_inside(fanouts: tuple[int, ...]) -> None:
    block = all_of(fanouts)
    assert torch.equal(block.sources.original[: len(SEEDS)], SEEDS)
    assert torch.equal(block.sources.ids, block.sources.original)
    rows = row_of_entries(block.indptr, len(block.indices))
    in_order = block.sources.original[block.indices.long()].diff() >= 0
    assert bool(in_order[rows.diff() == 0].all())
    others = torch.bincount(rows[block.indices != rows], minlength=block.num_targets)
    assert torch.equal(block.sources.degree, others)
    assert torch.equal(block.without_self_loops.drawn, others)


@pytest.mark.parametrize(("fanouts", "layers"), [((-1, -1, -1), 2), ((-1, -1), 5), ((3, 2), 3), ((2,), 1)], ids=str)
def test_layers_fit_and_have_what_can_reach_a_seed(fanouts: tuple[int, ...], layers: int) -> None:
    sampler, block = Shadow(fanouts=fanouts, layers=layers), all_of(fanouts)
    blocks = sampler.sample(GRAPH, GRAPH.nodes[SEEDS], KEY)
    assert len(blocks) == layers == sampler.depth
    assert torch.equal(blocks[-1].targets.original, SEEDS)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(block.sources)))
    targets = row_of_entries(block.indptr, len(block.indices)).tolist()
    graph.add_edges_from(zip(targets, block.indices.tolist(), strict=True))
    distance = networkx.multi_source_dijkstra_path_length(graph, set(range(len(SEEDS))))
    for left, each in enumerate(reversed(blocks)):
        assert len(each.sources) == sum(length <= left + 1 for length in distance.values())
        assert each.num_targets == sum(length <= left for length in distance.values())
        assert torch.equal(each.sources.original, block.sources.original[: len(each.sources)])
        assert torch.equal(each.sources.degree, block.sources.degree[: len(each.sources)]), "trimmed or not"
        assert each.key == KEY.fold(2, layers - 1 - left)


def learned(network: nn.Module, blocks: list[Block], x: Tensor) -> list[Tensor]:
    """What a network answers, in training, and the gradients of a sum of it."""
    out: Tensor = network(blocks, x[blocks[0].sources.original])
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *network.parameters()])]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def network_of(model: NodeModel, layers: int) -> nn.Module:
    torch.manual_seed(3)
    return model.build(4, 3, layers).double()


@named
@pytest.mark.parametrize("layers", [1, 3])
def test_all_neighbours_of_as_many_hops_as_layers_are_the_whole_graph(model: NodeModel, layers: int) -> None:
    """With duplicates, loops and dropout. A graph convolution's outermost nodes lack edges that count in their degrees:
    it takes a hop more."""
    network, x = network_of(model, layers), random_rows(GRAPH.num_nodes, 4)
    hops = layers + isinstance(model, GCN)
    nodes = GRAPH.nodes[SEEDS]
    expected = learned(network, Neighbor(fanouts=(-1,) * layers).sample(GRAPH, nodes, KEY), x)
    assert_alike(learned(network, Shadow(fanouts=(-1,) * hops, layers=layers).sample(GRAPH, nodes, KEY), x), expected)
    if isinstance(model, GCN):
        found = learned(network, Shadow(fanouts=(-1,) * layers, layers=layers).sample(GRAPH, nodes, KEY), x)
        assert not torch.allclose(found[0], expected[0])


@named
def test_a_deep_network_sees_each_net_as_a_graph_of_its_own(model: NodeModel) -> None:
    layers, fanouts = 5, (3, 2)
    network, x = network_of(model, layers), random_rows(GRAPH.num_nodes, 4)
    found = learned(network, Shadow(fanouts=fanouts, layers=layers).sample(GRAPH, GRAPH.nodes[SEEDS], KEY), x)
    block, expected = all_of(fanouts), []
    for seed, net in zip(SEEDS.tolist(), nets(block, len(SEEDS)), strict=True):
        inside = block.sources.original[net.pairs].sort().values
        ends = torch.tensor(sorted(net.edges.elements()), dtype=torch.int64).view(-1, 2)
        source, target = (torch.searchsorted(inside, column.contiguous()) for column in ends.unbind(1))
        own = WholeGraph(source=source, target=target, num_nodes=len(inside))
        nodes = dataclasses.replace(own.nodes, original=inside)  # what dropout is keyed by
        steps = [dataclasses.replace(own.block, sources=nodes, key=KEY.fold(2, layer)) for layer in range(layers)]
        expected.append(network(steps, x[inside])[int((inside < seed).sum())])
    torch.testing.assert_close(found[0], torch.stack(expected), rtol=1e-12, atol=1e-12)


@named
@pytest.mark.parametrize(("fanouts", "layers"), [((-1, -1, -1), 2), ((4, 3), 4)], ids=str)
def test_rows_that_reach_no_seed_are_not_missed(model: NodeModel, fanouts: tuple[int, ...], layers: int) -> None:
    network, x = network_of(model, layers), random_rows(GRAPH.num_nodes, 4)
    trimmed = Shadow(fanouts=fanouts, layers=layers).sample(GRAPH, GRAPH.nodes[SEEDS], KEY)
    block = all_of(fanouts)
    untrimmed = [dataclasses.replace(block, key=KEY.fold(2, layer)) for layer in range(layers)]
    assert sum(len(each.indices) for each in trimmed) < sum(len(each.indices) for each in untrimmed)
    everything = network(untrimmed, x[block.sources.original])
    torch.testing.assert_close(
        network(trimmed, x[trimmed[0].sources.original]), everything[: len(SEEDS)], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_the_partition_does_not_show(parts: int, tmp_path: Path) -> None:
    shards = Shards.open(stored(GRAPH, parts, tmp_path), Group.alone(), "owned")
    everywhere = Nodes.owned_by(list(shards.mapped.values()))
    place = torch.argsort(everywhere.original)
    sampler = Shadow(fanouts=(4, 3), layers=3)
    found = sampler.sample(Topology(shards), everywhere[place[SEEDS]], KEY)
    for block, same in zip(found, sampler.sample(GRAPH, GRAPH.nodes[SEEDS], KEY), strict=True):
        assert torch.equal(block.sources.original, same.sources.original)
        assert torch.equal(block.sources.degree, same.sources.degree)
        assert torch.equal(block.indptr, same.indptr)
        assert torch.equal(block.indices, same.indices)
        assert torch.equal(everywhere.original[block.sources.ids], block.sources.original)


def test_weights_of_edges_come_along(tmp_path: Path) -> None:
    """Those of parallel edges, too: in the limit of all neighbours, the whole graph's answer."""
    weights = torch.arange(1.0, len(GRAPH.source) + 1)
    topology = Topology(Shards.open(stored(GRAPH, 3, tmp_path, edge_weights=weights), Group.alone(), "owned"))
    place = torch.argsort(topology.owned.original)
    nodes = topology.owned[place[SEEDS]]
    network, x = network_of(MODELS[0], 2), random_rows(GRAPH.num_nodes, 4)
    blocks = Shadow(fanouts=(-1, -1), layers=2).sample(topology, nodes, KEY)
    assert all(block.weighted for block in blocks)
    expected = learned(network, Neighbor(fanouts=(-1, -1)).sample(topology, nodes, KEY), x)
    assert_alike(learned(network, blocks, x), expected)


def test_neighbours_in_no_net_are_left_out_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = all_of((3, 2))
    monkeypatch.setattr("framework.kernels.segments._ENTRIES_AT_ONCE", 5)
    found = all_of((3, 2))
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.indptr, expected.indptr)


def test_an_isolated_seed_is_a_net_of_its_own() -> None:
    loop_free = WholeGraph(source=torch.tensor([0]), target=torch.tensor([1]), num_nodes=3)
    blocks = Shadow(layers=4).sample(loop_free, loop_free.nodes[torch.tensor([2, 1])], KEY)
    assert [len(block.sources) for block in blocks] == [3, 3, 3, 3]
    assert blocks[0].indptr.diff().tolist() == [0, 1, 0]
    assert blocks[0].sources.degree.tolist() == [0, 1, 0]


def test_no_seeds_make_empty_blocks() -> None:
    blocks = Shadow(fanouts=(2, 2), layers=3).sample(GRAPH, Nodes.none(), KEY)
    assert [(len(block.sources), len(block.indices)) for block in blocks] == [(0, 0)] * 3
    assert network_of(MODELS[1], 3)(blocks, torch.empty(0, 4, dtype=torch.float64)).shape == (0, 3)


@pytest.mark.parametrize("fanouts", [(), (0,), (5, -2)])
def test_fanouts_that_mean_nothing_are_refused(fanouts: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"--sampler\.fanouts"):
        Shadow(fanouts=fanouts)


def test_layers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"--sampler\.layers is 0; expected at least 1"):
        Shadow(layers=0)


def test_it_is_a_sampler_that_sees_so_far() -> None:
    assert isinstance(Shadow(), Sampler)
    assert isinstance(Shadow(), Scoped)
    assert Shadow(fanouts=(4, 3, 2), layers=1).scope == 3
    assert not isinstance(Neighbor(), Scoped)

"""PyG layers on blocks: the same as on PyG's whole graph, and as ours."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn
from whole_graph import looped_graph, of_unequal_importance, random_graph, random_rows

from framework.errors import InputError
from framework.graph.block import Block
from framework.models.layers import GCNConv
from framework.models.nodes import GCN, NodeNetwork
from framework.random import Key
from framework.sample.neighbor import Neighbor

pyg = pytest.importorskip("torch_geometric.nn", reason="needs the extra `pyg`")
from framework.interop.pyg import PygLayer  # noqa: E402  # it refuses to be imported without PyG

COLUMNS, OUT, DEPTH = 6, 4, 2
GRAPH = looped_graph(50, 300, isolated=4)
SEEDS = torch.tensor([3, 49, 17, 0])
WHOLE = Neighbor(fanouts=(-1,) * DEPTH)

LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "SAGEConv": pyg.SAGEConv,
    "SAGEConv, max": lambda before, after: pyg.SAGEConv(before, after, aggr="max"),
    "GCNConv": pyg.GCNConv,
    "GCNConv, not normalised": lambda before, after: pyg.GCNConv(before, after, normalize=False),
    "GATConv": lambda before, after: pyg.GATConv(before, after, heads=2, concat=False),
    "GATv2Conv": pyg.GATv2Conv,
    "GraphConv": pyg.GraphConv,
    "GINConv": lambda before, after: pyg.GINConv(nn.Linear(before, after), train_eps=True),
    "TransformerConv": pyg.TransformerConv,
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def network(make: Callable[[int, int], nn.Module]) -> tuple[NodeNetwork, list[nn.Module]]:
    """Two layers as a network of ours, and the bare layers."""
    torch.manual_seed(0)
    layers = [make(COLUMNS, 8), make(8, OUT)]
    wrapped = NodeNetwork([PygLayer(layer) for layer in layers], input_dropout=0.0, dropout=0.5, elu=False)
    return wrapped.double(), layers


@every_layer
def test_whole_neighbourhoods_give_what_pyg_gives_on_the_whole_graph(make: Callable[[int, int], nn.Module]) -> None:
    ours, (first, second) = network(make)
    ours.eval()
    x, again = random_rows(GRAPH.num_nodes, COLUMNS), random_rows(GRAPH.num_nodes, COLUMNS)
    blocks = WHOLE.sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    found = ours(blocks, x[blocks[0].sources.ids])
    found.sum().backward()
    mine = [parameter.grad.clone() for parameter in ours.parameters() if parameter.grad is not None]
    ours.zero_grad()
    expected = second(first(again, GRAPH.edge_index).relu(), GRAPH.edge_index)[SEEDS]
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-10, atol=1e-12)
    theirs = [parameter.grad for parameter in ours.parameters() if parameter.grad is not None]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_sampled_gcn_is_ours() -> None:
    """Degrees of sources and targets come from the whole graph, in training as in evaluation."""
    theirs, _ = network(pyg.GCNConv)
    ours = GCN(hidden=8, dropout=0.5).build(COLUMNS, OUT, DEPTH).double()
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        layer.linear.weight.data, layer.bias.data = other.layer.lin.weight.data, other.layer.bias.data
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    blocks = Neighbor(fanouts=(3, 2)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    rows = x[blocks[0].sources.ids]
    torch.testing.assert_close(theirs(blocks, rows), ours(blocks, rows), rtol=1e-10, atol=1e-12)


def test_an_improved_gcn_has_loops_of_weight_two() -> None:
    """The reference is given weights of 1: without any, PyG 2.8 forgets what `improved` asks for."""
    graph, layer = random_graph(50, 300, isolated=4), pyg.GCNConv(COLUMNS, OUT, improved=True).double()
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    expected = layer(x, graph.edge_index, x.new_ones(len(graph.source)))
    torch.testing.assert_close(PygLayer(layer)(graph.block, x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("setting", ["improved=True", "add_self_loops=False"])
def test_settings_that_count_the_graphs_own_loops_are_refused_where_there_are_some(setting: str) -> None:
    name, _, value = setting.partition("=")
    layer = PygLayer(pyg.GCNConv(COLUMNS, OUT, **{name: value == "True"})).double()
    with pytest.raises(InputError, match=rf"GCNConv\({setting}\) treats the graph's own self-loops"):
        layer(GRAPH.block, random_rows(GRAPH.num_nodes, COLUMNS))
    graph = random_graph(50, 300)
    assert layer(graph.block, random_rows(50, COLUMNS)).shape == (50, OUT)


@every_layer
def test_layers_one_by_one_over_the_whole_graph_are_the_network(make: Callable[[int, int], nn.Module]) -> None:
    ours, _ = network(make)
    ours.eval()
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    rows = x
    for depth in range(DEPTH):
        rows = ours.forward_layer(depth, GRAPH.block, rows)
    blocks = WHOLE.sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    torch.testing.assert_close(ours(blocks, x[blocks[0].sources.ids]), rows[SEEDS], rtol=1e-10, atol=1e-12)


def weighted() -> Block:
    """The whole graph with edge weights of a store's type."""
    return dataclasses.replace(GRAPH.block, edge_weights=random_rows(len(GRAPH.source), 1).detach().flatten().float())


def test_edge_weights_reach_a_layer_that_takes_them() -> None:
    layer = pyg.GraphConv(COLUMNS, OUT).double()
    x, block = random_rows(GRAPH.num_nodes, COLUMNS).detach(), weighted()
    in_input_order = x.new_empty(len(GRAPH.source))
    in_input_order[GRAPH.csr.edges] = block.edge_weights.double()
    expected = layer(x, GRAPH.edge_index, in_input_order)
    torch.testing.assert_close(PygLayer(layer)(block, x), expected, rtol=1e-10, atol=1e-12)


def test_weights_that_a_layer_does_not_take_are_refused() -> None:
    for layer in (pyg.SAGEConv(COLUMNS, OUT), pyg.GATv2Conv(COLUMNS, OUT)):
        with pytest.raises(InputError, match=f"{type(layer).__name__} takes no weights of edges"):
            PygLayer(layer)(weighted(), random_rows(GRAPH.num_nodes, COLUMNS).detach().float())


def test_a_target_none_of_whose_neighbours_was_drawn_is_as_ours() -> None:
    (block,) = Neighbor(fanouts=(2,)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    kept = block.indptr.clone()
    kept[1:] -= block.indptr[1].clone()  # the first target's are left out
    lacking = dataclasses.replace(block, indptr=kept, indices=block.indices[block.indptr[1] :])
    assert int(lacking.targets.degree[0]) > 0
    theirs, ours = pyg.GCNConv(COLUMNS, OUT).double(), GCNConv(COLUMNS, OUT).double()
    ours.linear.weight.data, ours.bias.data = theirs.lin.weight.data, theirs.bias.data
    x = random_rows(len(block.sources), COLUMNS).detach()
    torch.testing.assert_close(PygLayer(theirs)(lacking, x), ours(lacking, x), rtol=1e-12, atol=1e-12)


def test_a_normalised_gcn_refuses_edge_weights() -> None:
    with pytest.raises(InputError, match="weighted degrees"):
        PygLayer(pyg.GCNConv(COLUMNS, OUT))(weighted(), random_rows(GRAPH.num_nodes, COLUMNS))


@pytest.mark.parametrize("weighing", [False, True])
def test_importance_reaches_a_layer_that_takes_weights(weighing: bool) -> None:
    layer, x = pyg.GraphConv(COLUMNS, OUT).double(), random_rows(GRAPH.num_nodes, COLUMNS).detach()
    block = of_unequal_importance(weighted() if weighing else GRAPH.block)
    factors = block.importance * block.edge_weights if weighing else block.importance
    expected = PygLayer(layer)(dataclasses.replace(block, importance=None, edge_weights=factors), x)
    torch.testing.assert_close(PygLayer(layer)(block, x), expected, rtol=1e-12, atol=1e-12)


def test_a_normalised_gcn_of_unequal_importance_is_ours() -> None:
    theirs, ours = pyg.GCNConv(COLUMNS, OUT).double(), GCNConv(COLUMNS, OUT).double()
    ours.linear.weight.data, ours.bias.data = theirs.lin.weight.data, theirs.bias.data
    (block,) = Neighbor(fanouts=(3,)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    block, x = of_unequal_importance(block), random_rows(len(block.sources), COLUMNS).detach()
    torch.testing.assert_close(PygLayer(theirs)(block, x), ours(block, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["SAGEConv", "GATv2Conv", "GINConv"])
def test_importance_that_a_layer_does_not_take_is_refused(name: str) -> None:
    block, x = of_unequal_importance(GRAPH.block), random_rows(GRAPH.num_nodes, COLUMNS).detach()
    with pytest.raises(InputError, match=f"{name} takes no edge weights, and --sampler draws.*unequal chances"):
        PygLayer(LAYERS[name](COLUMNS, OUT).double())(block, x)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Linear(2, 2), "no PyG layer"),
        (pyg.SAGEConv(2, 2, flow="target_to_source"), "source_to_target"),
        (pyg.SGConv(2, 2, K=2), "pairs"),
        (pyg.GCNConv(2, 2, cached=True), "cached"),
    ],
)
def test_a_layer_that_cannot_work_on_a_block_is_refused(layer: nn.Module, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PygLayer(layer)

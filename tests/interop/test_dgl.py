"""DGL layers on blocks: the same as on DGL's whole graph, and as ours."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn
from whole_graph import of_unequal_importance, random_graph, random_rows

from framework.errors import InputError
from framework.models.layers import GATConv, SAGEConv
from framework.models.nodes import NodeNetwork
from framework.random import Key
from framework.sample.neighbor import Neighbor

try:
    from framework.interop.dgl import DglLayer, dgl, dgl_block
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

COLUMNS, OUT, HEADS, DEPTH = 6, 4, 2, 2
GRAPH = random_graph(50, 300, isolated=4)
SEEDS = torch.tensor([3, 49, 17, 0])
THEIRS = dgl.graph((GRAPH.source, GRAPH.target), num_nodes=GRAPH.num_nodes)

LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "SAGEConv": lambda before, after: dgl.nn.SAGEConv(before, after, "mean"),
    "SAGEConv, pool": lambda before, after: dgl.nn.SAGEConv(before, after, "pool"),
    "GATConv": lambda before, after: dgl.nn.GATConv(before, after, 1, allow_zero_in_degree=True),
    "GATv2Conv": lambda before, after: dgl.nn.GATv2Conv(before, after, 1, allow_zero_in_degree=True),
    "GraphConv, mean": lambda before, after: dgl.nn.GraphConv(before, after, norm="right", allow_zero_in_degree=True),
    "GINConv": lambda before, after: dgl.nn.GINConv(nn.Linear(before, after), "sum"),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_whole_neighbourhoods_give_what_dgl_gives_on_the_whole_graph(make: Callable[[int, int], nn.Module]) -> None:
    torch.manual_seed(0)
    first, second = make(COLUMNS, 8), make(8, OUT)
    ours = NodeNetwork([DglLayer(first), DglLayer(second)], input_dropout=0.0, dropout=0.5, elu=False).double().eval()
    x, again = random_rows(GRAPH.num_nodes, COLUMNS), random_rows(GRAPH.num_nodes, COLUMNS)
    blocks = Neighbor(fanouts=(-1,) * DEPTH).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    found = ours(blocks, x[blocks[0].sources.ids])
    expected = second(THEIRS, first(THEIRS, again).flatten(1).relu()).flatten(1)[SEEDS]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-10, atol=1e-12)


def test_sage_is_ours() -> None:
    theirs, ours = dgl.nn.SAGEConv(COLUMNS, OUT, "mean").double(), SAGEConv(COLUMNS, OUT).double()
    ours.neighbors.weight.data, ours.own.weight.data = theirs.fc_neigh.weight.data, theirs.fc_self.weight.data
    ours.neighbors.bias.data = theirs.bias.data if theirs.fc_self.bias is None else theirs.fc_self.bias.data
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    (block,) = Neighbor(fanouts=(3,)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    rows = x[block.sources.ids]
    torch.testing.assert_close(DglLayer(theirs)(block, rows), ours(block, rows), rtol=1e-10, atol=1e-12)


def test_attention_with_self_loops_is_ours() -> None:
    theirs = dgl.nn.GATConv(COLUMNS, OUT, HEADS).double()
    ours = GATConv(COLUMNS, OUT, heads=HEADS, join=True, slope=0.2, attention_dropout=0.0).double()
    ours.linear.weight.data = theirs.fc.weight.data
    ours.source_attention.data, ours.target_attention.data = theirs.attn_l.data[0], theirs.attn_r.data[0]
    ours.bias.data = theirs.bias.data
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    found = DglLayer(theirs, self_loops=True)(GRAPH.block, x)
    torch.testing.assert_close(found, ours(GRAPH.block, x), rtol=1e-10, atol=1e-12)


def test_a_block_keeps_its_edges_in_order() -> None:
    (block,) = Neighbor(fanouts=(3,)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(0))
    weights = torch.arange(len(block.indices), dtype=torch.float64)
    graph = dgl_block(dataclasses.replace(block, edge_weights=weights))
    sources, targets = graph.edges(order="eid")
    assert torch.equal(sources, block.indices)
    assert torch.equal(targets.long(), torch.repeat_interleave(torch.arange(len(SEEDS)), block.indptr.diff()))
    assert torch.equal(graph.edata["weight"], weights)
    assert graph.num_src_nodes() == len(block.sources)
    assert graph.num_dst_nodes() == len(SEEDS)


@pytest.mark.parametrize("name", ["SAGEConv", "GATConv", "GraphConv, mean", "GINConv"])
def test_edge_weights_reach_a_layer_that_takes_them(name: str) -> None:
    layer = LAYERS[name](COLUMNS, OUT).double()
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    weights = random_rows(len(GRAPH.source), 1).detach().flatten().float()
    block = dataclasses.replace(GRAPH.block, edge_weights=weights)
    in_input_order = x.new_empty(len(GRAPH.source))
    in_input_order[GRAPH.csr.edges] = weights.double()
    expected = layer(THEIRS, x, edge_weight=in_input_order).flatten(1)
    torch.testing.assert_close(DglLayer(layer)(block, x), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(expected, DglLayer(layer)(GRAPH.block, x))
    with pytest.raises(InputError, match="self_loops=True drops edge weights"):
        DglLayer(layer, self_loops=True)(block, x)


class OwnLayer(nn.Module):
    """One of the user's, that looks for weights itself."""

    def forward(self, graph: "dgl.DGLGraph", x: torch.Tensor) -> torch.Tensor:
        with graph.local_scope():
            graph.srcdata["x"] = x
            graph.update_all(dgl.function.u_mul_e("x", "weight", "m"), dgl.function.sum("m", "sum"))
            out: torch.Tensor = graph.dstdata["sum"]
            return out


def test_edge_weights_that_a_layer_does_not_take_are_refused() -> None:
    block = dataclasses.replace(GRAPH.block, edge_weights=torch.full((len(GRAPH.source),), 2.0))
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach().float()
    with pytest.raises(InputError, match="GATv2Conv takes no edge weights"):
        DglLayer(LAYERS["GATv2Conv"](COLUMNS, OUT))(block, x)
    torch.testing.assert_close(DglLayer(OwnLayer())(block, x), 2 * GRAPH.block.sum(x))


@pytest.mark.parametrize("name", ["SAGEConv", "GATConv", "GraphConv, mean", "GINConv"])
@pytest.mark.parametrize("weighing", [False, True])
def test_importance_reaches_a_layer_that_takes_weights(name: str, weighing: bool) -> None:
    layer, x = DglLayer(LAYERS[name](COLUMNS, OUT).double()), random_rows(GRAPH.num_nodes, COLUMNS).detach()
    weights = random_rows(len(GRAPH.source), 1).detach().flatten().float() if weighing else None
    block = of_unequal_importance(dataclasses.replace(GRAPH.block, edge_weights=weights))
    factors = block.importance if weights is None else block.importance * weights
    expected = layer(dataclasses.replace(GRAPH.block, edge_weights=factors), x)
    torch.testing.assert_close(layer(block, x), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(expected, layer(GRAPH.block, x))


def test_importance_with_self_loops_is_that_of_the_block_with_them() -> None:
    layer, x = dgl.nn.GATConv(COLUMNS, OUT, 1).double(), random_rows(GRAPH.num_nodes, COLUMNS).detach()
    block = of_unequal_importance(GRAPH.block)
    looped = block.with_self_loops
    expected = layer(dgl_block(looped), x, edge_weight=looped.importance).flatten(1)
    torch.testing.assert_close(DglLayer(layer, self_loops=True)(block, x), expected, rtol=1e-10, atol=1e-12)


def test_importance_that_a_layer_does_not_take_is_refused() -> None:
    block, x = of_unequal_importance(GRAPH.block), random_rows(GRAPH.num_nodes, COLUMNS).detach().float()
    with pytest.raises(InputError, match="GATv2Conv takes no edge weights, and --sampler draws.*unequal chances"):
        DglLayer(LAYERS["GATv2Conv"](COLUMNS, OUT))(block, x)
    torch.testing.assert_close(DglLayer(OwnLayer())(block, x), block.sum(x))


@pytest.mark.parametrize("norm", ["both", "left"])
def test_a_layer_that_needs_out_degrees_is_refused(norm: str) -> None:
    with pytest.raises(InputError, match="out-degrees"):
        DglLayer(dgl.nn.GraphConv(2, 2, norm=norm))

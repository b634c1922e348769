"""Each graph layer against PyG's layer of the same name, forward and gradients; and what sampling does to it."""

import dataclasses
from collections.abc import Callable

import pytest
import scipy.sparse
import torch
from torch import nn
from whole_graph import WholeGraph, looped_graph, random_graph, random_rows

from framework.errors import InputError
from framework.models.layers import GATConv, GCNConv, SAGEConv
from framework.random import Key
from framework.sample.neighbor import Neighbor

pyg = pytest.importorskip("torch_geometric.nn", reason="PyG is the oracle: install the extra `pyg`")

COLUMNS, OUT, HEADS = 7, 5, 3
GRAPHS = {
    "isolated nodes": random_graph(40, 200, isolated=6),
    "one node": random_graph(1, 0),
    "no edges": random_graph(5, 0),
    "dense": random_graph(12, 400),
    "self-loops and duplicates": looped_graph(30, 150, isolated=6),
    "nothing but self-loops": looped_graph(5, 0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Our layer and PyG's, with the same weights."""

    ours: nn.Module
    """The layer under test."""
    theirs: nn.Module
    """The oracle."""
    names: dict[str, str]
    """Name of each of our parameters -> its name in PyG's layer."""

    @classmethod
    def of(cls, ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> "Pair":
        """Both in float64; biases drawn too, for both start at zero."""
        ours, theirs = ours.double(), theirs.double()
        assert set(names) == set(dict(ours.named_parameters()))
        assert set(names.values()) == set(dict(theirs.named_parameters()))
        for name, other in names.items():
            parameter = ours.get_parameter(name)
            if parameter.dim() == 1:
                nn.init.normal_(parameter)
            theirs.get_parameter(other).data = parameter.data.clone().view_as(theirs.get_parameter(other))
        return cls(ours=ours, theirs=theirs, names=names)


def sage() -> Pair:
    names = {"neighbors.weight": "lin_l.weight", "neighbors.bias": "lin_l.bias", "own.weight": "lin_r.weight"}
    return Pair.of(SAGEConv(COLUMNS, OUT), pyg.SAGEConv(COLUMNS, OUT, aggr="mean"), names)


def gcn(out: int) -> Pair:
    return Pair.of(GCNConv(COLUMNS, out), pyg.GCNConv(COLUMNS, out), {"linear.weight": "lin.weight", "bias": "bias"})


def gat(join: bool) -> Pair:
    names = {
        "linear.weight": "lin.weight",
        "source_attention": "att_src",
        "target_attention": "att_dst",
        "bias": "bias",
    }
    ours = GATConv(COLUMNS, OUT, heads=HEADS, join=join, slope=0.2, attention_dropout=0.0)
    return Pair.of(ours, pyg.GATConv(COLUMNS, OUT, heads=HEADS, concat=join), names)


PAIRS: dict[str, Callable[[], Pair]] = {
    "sage": sage,
    "gcn, narrowing": lambda: gcn(OUT),
    "gcn, widening": lambda: gcn(2 * COLUMNS),
    "gat, heads joined": lambda: gat(join=True),
    "gat, heads averaged": lambda: gat(join=False),
}
every_pair = pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS.keys())


@every_pair
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_layer_is_pygs(make: Callable[[], Pair], graph: WholeGraph) -> None:
    torch.manual_seed(0)
    pair = make()
    x, again = random_rows(graph.num_nodes, COLUMNS), random_rows(graph.num_nodes, COLUMNS)
    found, expected = pair.ours(graph.block, x), pair.theirs(again, graph.edge_index)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    slope = random_rows(*found.shape, seed=2).detach()
    found.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-10, atol=1e-12)
    for name, other in pair.names.items():
        mine, reference = pair.ours.get_parameter(name).grad, pair.theirs.get_parameter(other).grad
        assert mine is not None, name
        assert reference is not None, other
        torch.testing.assert_close(mine, reference.view_as(mine), rtol=1e-10, atol=1e-12)


@every_pair
@pytest.mark.parametrize("graph_of", [random_graph, looped_graph])
def test_whole_neighbourhoods_of_some_seeds_are_rows_of_the_whole_graph(
    make: Callable[[], Pair], graph_of: Callable[..., WholeGraph]
) -> None:
    graph, layer = graph_of(40, 200, isolated=6), make().ours
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    seeds = torch.tensor([3, 39, 17, 0])
    (block,) = Neighbor(fanouts=(-1,)).sample(graph, graph.nodes[seeds], Key.root(0))
    found = layer(block, x[block.sources.ids])
    torch.testing.assert_close(found, layer(graph.block, x)[seeds], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_weighted_whatever_type_the_run_has(dtype: torch.dtype) -> None:
    """A store's edge weights are float32; rows may be either."""
    graph = random_graph(40, 200, isolated=6)
    weights = random_rows(len(graph.source), 1).detach().flatten().float()
    x = random_rows(graph.num_nodes, COLUMNS).detach().to(dtype)
    found = dataclasses.replace(graph.block, edge_weights=weights[graph.csr.edges]).sum(x)
    entries = (weights.double().numpy(), (graph.target.numpy(), graph.source.numpy()))
    matrix = scipy.sparse.coo_matrix(entries, shape=(graph.num_nodes, graph.num_nodes))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), torch.from_numpy(matrix @ x.double().numpy()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [sage, lambda: gcn(OUT)], ids=["sage", "gcn"])
@pytest.mark.parametrize("graph_of", [random_graph, looped_graph])
def test_a_sampled_sum_is_unbiased(make: Callable[[], Pair], graph_of: Callable[..., WholeGraph]) -> None:
    """Over many keys the mean of a sampled layer is the whole neighbourhood's, within five standard errors."""
    graph, keys = graph_of(30, 300, isolated=2), 400
    torch.manual_seed(0)
    layer, x = make().ours, random_rows(graph.num_nodes, COLUMNS).detach()
    sampler = Neighbor(fanouts=(3,))
    outcomes = []
    with torch.no_grad():
        whole = layer(graph.block, x)
        for number in range(keys):
            (block,) = sampler.sample(graph, graph.nodes, Key.root(7).fold(number))
            outcomes.append(layer(block, x[block.sources.ids]))
    drawn = torch.stack(outcomes)
    error = drawn.std(0) / keys**0.5
    assert float(error.max()) > 0.01  # sampling does leave something out
    assert bool(((drawn.mean(0) - whole).abs() <= 5 * error + 1e-10).all())


def test_a_weighted_mean_is_over_the_number_of_edges() -> None:
    graph = looped_graph(20, 100)
    weights = random_rows(len(graph.source), 1).detach().flatten()
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    layer = SAGEConv(COLUMNS, OUT).double()
    found = layer(dataclasses.replace(graph.block, edge_weights=weights[graph.csr.edges]), x)
    mean = x.new_zeros(x.shape).index_add(0, graph.target, weights[:, None] * x[graph.source])
    mean /= torch.bincount(graph.target, minlength=graph.num_nodes).clamp(min=1)[:, None]
    torch.testing.assert_close(found, layer.neighbors(mean) + layer.own(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: gcn(OUT), lambda: gat(join=True)], ids=["GCN", "GAT"])
def test_layers_without_use_for_edge_weights_refuse_them(
    make: Callable[[], Pair], request: pytest.FixtureRequest
) -> None:
    graph = random_graph(40, 200)
    block = dataclasses.replace(graph.block, edge_weights=torch.ones(len(graph.source)))
    with pytest.raises(InputError, match=f"{request.node.callspec.id} was given edges with weights.*take sage"):
        make().ours(block, random_rows(graph.num_nodes, COLUMNS))


def test_attention_dropout_is_keyed_and_off_in_evaluation() -> None:
    graph = random_graph(40, 300)
    layer = GATConv(COLUMNS, OUT, heads=HEADS, join=True, slope=0.2, attention_dropout=0.5).double()
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    keyed = dataclasses.replace(graph.block, key=Key.root(1))
    other = dataclasses.replace(graph.block, key=Key.root(2))
    assert torch.equal(layer(keyed, x), layer(keyed, x))
    assert not torch.allclose(layer(keyed, x), layer(other, x))
    assert torch.equal(layer(graph.block, x), layer.eval()(keyed, x))

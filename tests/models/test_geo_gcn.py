"""geo-GCN: what it is at its limits (sums, Kipf's convolution, convolutions of images), in PyG, and as a network."""

import dataclasses
import importlib
import math
import re
from pathlib import Path

import pytest
import torch
from pixel_graphs import imaging, pixels
from small_graphs import alone, small_graphs
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, global_mean_pool
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from whole_graph import looped_graph, random_graph, random_rows

from framework.errors import InputError
from framework.graph.batch import GraphBatch
from framework.graph.coarsen import Unpooled, Voxel
from framework.kernels.csr import row_of_entries
from framework.models.geo_gcn import GeoGCN, GeometricConv, GraphGCN, Neighborhoods, PosGCN
from framework.models.graph_model import GraphModel
from framework.random import Key
from framework.registry import GRAPH_MODELS

COLUMNS, DIMENSIONS, OUTPUTS = 5, 2, 3
MODELS: dict[str, GraphModel] = {
    "geo-gcn": GeoGCN(hidden=6, filters=4),
    "geo-gcn of voxels": GeoGCN(hidden=6, filters=4, layers=2, pooling=Voxel(size=3.0)),
    "geo-gcn unpooled": GeoGCN(hidden=6, filters=4, pooling=Unpooled()),
    "graph-gcn": GraphGCN(hidden=8),
    "pos-gcn": PosGCN(hidden=8),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def conv(columns: int, out: int, filters: int, dimensions: int = DIMENSIONS) -> GeometricConv:
    torch.manual_seed(0)
    return GeometricConv(columns, out, dimensions=dimensions, filters=filters).double()


def constant(layer: GeometricConv) -> GeometricConv:
    """With gates of one: U = 0, b = 1."""
    nn.init.zeros_(layer.filters)
    nn.init.ones_(layer.biases)
    return layer


def places(nodes: int, dimensions: int = DIMENSIONS) -> Tensor:
    return random_rows(nodes, dimensions, seed=7).detach() * 3


def test_without_positions_it_is_a_sum_over_neighbours_and_the_node_itself() -> None:
    graph, x = random_graph(40, 200, isolated=2), random_rows(40, 4)
    layer = constant(conv(4, 6, filters=3))
    joined = torch.eye(40, dtype=torch.float64)
    joined[graph.target, graph.source] = 1
    out = layer(x, places(40), graph.edge_index)
    expected = layer.linear((joined @ x).repeat(1, 3))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_with_its_weights_it_is_kipfs_convolution() -> None:
    graph, x = random_graph(40, 200, isolated=2), random_rows(40, 4)
    kipf = GCNConv(4, 6).double()
    layer = constant(conv(4, 6, filters=1))
    with torch.no_grad():
        layer.linear.weight.copy_(kipf.lin.weight)
        layer.linear.bias.copy_(kipf.bias)
    edge_index, weight = gcn_norm(graph.edge_index, num_nodes=40, dtype=torch.float64)
    ours = layer(x, places(40), edge_index, weight)
    expected = kipf(x, graph.edge_index)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    factor = torch.randn_like(expected)
    found, wanted = (torch.autograd.grad(out, x, factor)[0] for out in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize(("columns", "out"), [(1, 1), (3, 4)])
def test_on_pixels_it_is_a_convolution_of_images(window: int, columns: int, out: int) -> None:
    """Of one image by its edges, and of two as a batch of graphs."""
    generator = torch.Generator().manual_seed(window)
    images = torch.randn(2, columns, 8, 9, dtype=torch.float64, generator=generator)
    masks = torch.randn(out, columns, window, window, dtype=torch.float64, generator=generator)
    bias = torch.randn(out, dtype=torch.float64, generator=generator)
    layer, (positions, edge_index) = imaging(masks, bias), pixels(8, 9, window // 2)
    rows = images.flatten(2).transpose(1, 2)
    expected = nn.functional.conv2d(images, masks, bias, padding=window // 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(rows[0], positions, edge_index), expected[0], rtol=0, atol=1e-10)
    twice = Data(pos=positions, edge_index=edge_index)
    both = Batch.from_data_list([twice, twice])
    found = layer(rows.flatten(0, 1), both.pos, both.edge_index)
    torch.testing.assert_close(found, expected.flatten(0, 1), rtol=0, atol=1e-10)


def test_where_a_graph_stands_does_not_show_and_how_it_is_turned_does() -> None:
    graph, x = random_graph(40, 200), random_rows(40, 4)
    layer = conv(4, 6, filters=5)
    whole = places(40).mul(20).round()
    here = layer(x, whole, graph.edge_index)
    assert torch.equal(here, layer(x, whole + torch.tensor([1000, -77]), graph.edge_index))
    moved = layer(x, places(40) + 0.3, graph.edge_index)
    torch.testing.assert_close(layer(x, places(40), graph.edge_index), moved, rtol=1e-12, atol=1e-12)
    sine, cosine = math.sin(0.5), math.cos(0.5)
    turned = layer(x, whole @ torch.tensor([[cosine, -sine], [sine, cosine]]).double(), graph.edge_index)
    assert not torch.allclose(here, turned, rtol=1e-3)


def test_gradients_pass_gradcheck() -> None:
    graph, layer = random_graph(6, 14), conv(3, 2, filters=2)
    weight = torch.rand(graph.edge_index.shape[1], dtype=torch.float64).requires_grad_()
    x, positions = random_rows(6, 3), random_rows(6, DIMENSIONS, seed=4)
    names = [name for name, _ in layer.named_parameters()]

    def out(x: Tensor, positions: Tensor, weight: Tensor, *parameters: Tensor) -> Tensor:
        given = (x, positions, graph.edge_index, weight)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), given)

    assert torch.autograd.gradcheck(out, (x, positions, weight, *layer.parameters()))


def test_a_node_is_its_own_neighbour_once() -> None:
    """Whether edges say so never, once or twice; with weights, their sum, or one."""
    graph, x = looped_graph(40, 200, isolated=2), random_rows(40, 4)
    loops = graph.source == graph.target
    layer = conv(4, 6, filters=3)
    bare = graph.edge_index[:, ~loops]
    torch.testing.assert_close(layer(x, places(40), graph.edge_index), layer(x, places(40), bare))
    weight = torch.rand(len(loops), dtype=torch.float64)
    own = torch.zeros(40, dtype=torch.float64).index_add(0, graph.source[loops], weight[loops])
    own = torch.where(own == 0, 1, own)
    every = torch.cat([bare, torch.arange(40).expand(2, -1)], dim=1)
    torch.testing.assert_close(
        layer(x, places(40), graph.edge_index, weight), layer(x, places(40), every, torch.cat([weight[~loops], own]))
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_a_batch_of_graphs_is_its_edge_list(weighted: bool) -> None:
    graph, layer = small_graphs([7, 1, 12], weighted=weighted), conv(COLUMNS, 6, filters=3)
    edges = torch.stack([graph.indices, row_of_entries(graph.indptr, len(graph.indices))])
    order = torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(0))
    listed = layer(graph.x, graph.positions, edges[:, order], None if graph.weight is None else graph.weight[order])
    assert torch.equal(layer.over(Neighborhoods.of_graphs(graph), graph.x), listed)


def test_edges_that_are_none_are_refused() -> None:
    layer, x = conv(4, 6, filters=3), random_rows(5, 4)
    with pytest.raises(InputError, match=re.escape("edge_index has the shape [3, 4]; expected [2, edges]")):
        layer(x, places(5), torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="edge_index holds 5; expected ids from 0 to 4"):
        layer(x, places(5), torch.tensor([[0, 5], [1, 2]]))
    for weights in (torch.ones(7), torch.ones(1), torch.ones(2, 1)):
        said = f"edge_weight has the shape {list(weights.shape)}; expected [2], one an edge"
        with pytest.raises(InputError, match=re.escape(said)):
            layer(x, places(5), torch.tensor([[0, 1], [1, 2]]), weights)


class Foreign(nn.Module):
    """As somebody would write it with PyTorch Geometric."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GeometricConv(1, 8, dimensions=2, filters=6)
        self.second = GeometricConv(8, 8, dimensions=2, filters=6)
        self.head = nn.Linear(8, 2)

    def forward(self, data: Data) -> Tensor:
        x = self.first(data.x, data.pos, data.edge_index).relu()
        x = self.second(x, data.pos, data.edge_index).relu()
        return self.head(global_mean_pool(x, data.batch))


def test_a_model_of_pytorch_geometric_learns_with_it() -> None:
    """Which of two directions a line of nodes has: features and edges say nothing, positions all."""
    torch.manual_seed(0)
    line = torch.stack([torch.arange(5), torch.zeros(5)], dim=1)
    edges = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 4], [1, 2, 3, 4, 0, 1, 2, 3]])
    graphs = [
        Data(x=torch.ones(5, 1), pos=(line if label else line.flip(1)) + torch.randn(2), edge_index=edges, y=label)
        for label in [0, 1] * 20
    ]
    model = Foreign()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        for data in DataLoader(graphs, batch_size=10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data), data.y)
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.1


def test_the_network_of_the_guide_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "learn-from-small-graphs.md").read_text()
    (tmp_path / "guide_shapes.py").write_text(page.rpartition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    graph = small_graphs([4, 5], columns=1)
    edges = torch.stack([graph.indices, row_of_entries(graph.indptr, len(graph.indices))])
    network = importlib.import_module("guide_shapes").Shapes().double()
    assert network(graph.x, graph.positions, edges, graph.graph_of).shape == (2, 2)


def built(model: GraphModel) -> nn.Module:
    torch.manual_seed(0)
    return model.build(COLUMNS, DIMENSIONS, OUTPUTS).double()


@every_model
def test_a_graph_gives_the_same_alone_as_in_a_batch(model: GraphModel) -> None:
    """Dropout and pooling included: they are keyed by what nodes are."""
    network, graph = built(model), small_graphs([9, 1, 14, 30], key=Key.root(5))
    together = network(graph)
    assert together.shape == (4, OUTPUTS)
    for number in range(len(graph)):
        torch.testing.assert_close(network(alone(graph, number))[0], together[number], rtol=1e-11, atol=1e-11)
    assert not torch.allclose(together, network(dataclasses.replace(graph, key=None)))  # and there was dropout


@every_model
def test_evaluation_draws_nothing(model: GraphModel) -> None:
    network, graph = built(model), small_graphs([9, 14], key=Key.root(5))
    without = network(dataclasses.replace(graph, key=None))
    assert torch.equal(network.eval()(graph), without)


@every_model
def test_every_parameter_is_learned(model: GraphModel) -> None:
    network = built(model)
    network(small_graphs([20, 20, 20], key=Key.root(5))).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in network.parameters())


@pytest.mark.parametrize("name", ["geo-gcn", "graph-gcn", "pos-gcn"])
def test_what_sees_positions_and_what_does_not(name: str) -> None:
    network, graph = built(dataclasses.replace(MODELS[name], pooling=Unpooled())).eval(), small_graphs([20, 9])

    def at(positions: Tensor) -> Tensor:
        return network(dataclasses.replace(graph, positions=positions))

    here = at(graph.positions)
    assert torch.allclose(here, at(graph.positions + 5), atol=1e-9) == (name != "pos-gcn")
    assert torch.allclose(here, at(graph.positions.flip(1)), atol=1e-9) == (name == "graph-gcn")


def test_models_are_found_by_name() -> None:
    assert {"geo-gcn", "graph-gcn", "pos-gcn"} <= set(GRAPH_MODELS.names())
    assert isinstance(GRAPH_MODELS.get("geo-gcn")(), GraphModel)
    assert isinstance(small_graphs([2]), GraphBatch)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (GeoGCN, {"filters": 0}, "--model.filters is 0; expected a whole number of at least 1."),
        (GeoGCN, {"dropout": 1.0}, "--model.dropout is 1.0; expected at least 0 and less than 1."),
        (GraphGCN, {"hidden": 0}, "--model.hidden is 0"),
        (PosGCN, {"layers": 0}, "--model.layers is 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(model: type, settings: dict[str, float], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        model(**settings)

"""geo-GCN of the nodes of one graph: its layers on blocks, what a sample stands for, and several workers."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from halo_workers import KEYS, topology
from node_runs import small_run
from pixel_graphs import imaging, pixels
from stored_graph import stored
from torch import Tensor, nn
from whole_graph import WholeGraph, looped_graph, of_unequal_importance, random_graph, random_rows
from worker_processes import together

from framework.comm.group import Group
from framework.errors import InputError
from framework.kernels.csr import row_of_entries
from framework.kernels.segments import segment_sum
from framework.models.geo_gcn import GeometricConv, Neighborhoods
from framework.models.geo_nodes import GeoNodeGCN, SpatialNodeNetwork
from framework.random import Key
from framework.sample.full import Full
from framework.sample.neighbor import Neighbor
from launch.start import start

MODEL = GeoNodeGCN(dimensions=2, hidden=6, filters=4)


def network(depth: int) -> SpatialNodeNetwork:
    torch.manual_seed(0)
    built = MODEL.build(5, 3, depth).double()
    assert isinstance(built, SpatialNodeNetwork)
    return built


def test_layers_of_blocks_are_layers_of_edges() -> None:
    graph, x, model = random_graph(40, 250, isolated=3), random_rows(40, 5), network(2).eval()
    rows, positions = x[:, :3], x[:, 3:]
    first, second = (layer.conv for layer in model.layers)
    expected = second(first(rows, positions, graph.edge_index).relu(), positions, graph.edge_index)
    torch.testing.assert_close(model([graph.block] * 2, x), expected, rtol=1e-11, atol=1e-11)
    blocks = Neighbor(fanouts=(-1, -1)).sample(graph, graph.nodes[torch.tensor([5, 2, 30])], Key.root(0))
    torch.testing.assert_close(model(blocks, x[blocks[0].sources.ids]), expected[[5, 2, 30]], rtol=1e-11, atol=1e-11)


def test_drawn_neighbours_stand_for_all() -> None:
    """Their weights and the node's own, 1, are as many as there are neighbours and the node; so sums are unbiased."""
    graph = random_graph(40, 400, isolated=3)
    (block,) = Neighbor(fanouts=(3,)).sample(graph, graph.nodes, Key.root(0))
    drawn = Neighborhoods.of_block(block, random_rows(len(block.sources), 2).detach())
    assert drawn.weight is not None
    assert int(block.drawn.max()) == 3
    sums = segment_sum(drawn.indptr, drawn.weight)
    torch.testing.assert_close(sums, block.targets.degree.double() + 1)
    assert bool((drawn.weight[drawn.indptr[1:] - 1] == 1).all())


def test_drawn_neighbours_stand_for_all_by_their_importance() -> None:
    graph = looped_graph(40, 400, isolated=3)
    (block,) = Neighbor(fanouts=(5,)).sample(graph, graph.nodes, Key.root(0))
    for some in (block, graph.block):  # all may have been drawn, each with a chance of its own
        unequal = of_unequal_importance(some)
        drawn = Neighborhoods.of_block(unequal, random_rows(len(block.sources), 2).detach())
        rows, loop_free = row_of_entries(drawn.indptr, len(drawn.indices)), unequal.without_self_loops
        assert drawn.weight is not None
        assert loop_free.importance is not None
        share = (loop_free.targets.degree.double() / loop_free.drawn.clamp(min=1)).repeat_interleave(loop_free.drawn)
        found = drawn.weight[drawn.indices != rows]
        torch.testing.assert_close(found, share * loop_free.importance, rtol=1e-12, atol=0)


def test_a_row_does_not_depend_on_the_others_of_a_block() -> None:
    """A node with two edges to itself has one of weight 1, whether or not all neighbours of another were drawn."""
    graph = looped_graph(40, 400, isolated=3)
    (block,) = Neighbor(fanouts=(5,)).sample(graph, graph.nodes, Key.root(0))
    for some in (block, graph.block):
        drawn = Neighborhoods.of_block(some, random_rows(len(some.sources), 2).detach())
        own = torch.ones(40).double() if drawn.weight is None else drawn.weight[drawn.indptr[1:] - 1]
        torch.testing.assert_close(own, torch.ones(40).double(), rtol=1e-12, atol=0)


def test_positions_are_given_and_not_learned() -> None:
    graph, model = random_graph(40, 250), network(2)
    x = random_rows(40, 5)
    model([graph.block] * 2, x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad[:, :3] != 0).any())
    assert not bool(x.grad[:, 3:].any())


def test_positions_are_not_dropped_out() -> None:
    graph, x, model = random_graph(40, 250), random_rows(40, 5), network(2)
    block = dataclasses.replace(graph.block, key=Key.root(1))
    out = model.forward_layer(0, block, x)
    assert torch.equal(out[:, 6:], x[:, 3:])
    assert bool((out[:, :6] == 0).any())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """An image as a stored graph of pixels, a layer, and what it should make of the image."""

    store: Path
    layer: GeometricConv
    rows: Tensor
    """Colours and position of each pixel."""
    expected: Tensor


def convolution(window: int, folder: Path) -> Convolution:
    generator = torch.Generator().manual_seed(window)
    image = torch.randn(1, 3, 8, 9, dtype=torch.float64, generator=generator)
    masks = torch.randn(4, 3, window, window, dtype=torch.float64, generator=generator)
    bias = torch.randn(4, dtype=torch.float64, generator=generator)
    positions, (source, target) = pixels(8, 9, window // 2)
    return Convolution(
        store=stored(WholeGraph(source=source, target=target, num_nodes=72), 4, folder / str(window)).path,
        layer=imaging(masks, bias),
        rows=torch.cat([image[0].flatten(1).t(), positions], dim=1),
        expected=nn.functional.conv2d(image, masks, bias, padding=window // 2)[0].flatten(1).t(),
    )


def largest_error(group: Group, given: Convolution) -> float:
    """Of the layer, in the place of a hidden one, over what a worker owns."""
    graph = topology(group, given.store)
    assert len(graph.owned) > 10
    block = graph.whole(KEYS)[1]
    found = SpatialNodeNetwork([given.layer], dropout=0.0)([block], given.rows[graph.owned.original])
    return float((found - given.expected[graph.owned.original]).abs().max().detach())


def largest_errors(group: Group, given: list[Convolution]) -> list[float]:
    return [largest_error(group, each) for each in given]


def test_it_is_a_convolution_of_images_over_workers_too(tmp_path: Path) -> None:
    for errors in together(2, largest_errors, [convolution(window, tmp_path) for window in (3, 5)]):
        assert max(errors) < 1e-10


@pytest.mark.parametrize(
    "sampler",
    [Full(layers=2), pytest.param(Neighbor(fanouts=(4, 3)), marks=pytest.mark.slow)],
    ids=["full", "sampled"],
)
def test_any_placement_learns_the_same(sampler: Full | Neighbor, tmp_path: Path) -> None:
    """Of a planted graph whose last two features are taken for positions."""
    size = {"batch_size": 0} if isinstance(sampler, Full) else {}
    reports = [
        start(
            small_run(
                tmp_path / str(workers), model=MODEL, sampler=sampler, epochs=2, workers=workers, parts=parts, **size
            ),
            lambda event: None,
        )
        for workers, parts in ((1, 1), (2, 4))
    ]
    assert reports[1]["loss"] == pytest.approx(reports[0]["loss"], rel=1e-9)
    assert reports[0]["loss"][-1] < reports[0]["loss"][0]


def test_features_that_are_all_positions_are_refused() -> None:
    with pytest.raises(InputError, match=re.escape("--model.dimensions is 2, of 2 features in all")):
        MODEL.build(2, 3, 2)

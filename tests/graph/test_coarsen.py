"""Pooling of small graphs: matchings and cells, what they make of a graph, and that a batch is its graphs."""

import dataclasses
import itertools
import re

import pytest
import torch
from small_graphs import alone, small_graphs
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.nn import max_pool

from framework.errors import InputError, PluginError
from framework.graph.batch import GraphBatch
from framework.graph.coarsen import Graclus, Pooling, Unpooled, Voxel, coarsened, mean_of_graphs
from framework.kernels.coarsen import coarse_edges, greedy_matching
from framework.kernels.csr import build_csr, row_of_entries
from framework.random import Key
from framework.registry import POOLINGS

KEY = Key.root(3)
SIZES = [9, 1, 14, 2, 30]
every_pooling = pytest.mark.parametrize("pooling", [Graclus(), Voxel(size=3.0)], ids=["graclus", "voxel"])


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once on the compiled kernels where there are any, once on their twins."""
    if request.param == "torch":
        monkeypatch.setenv("SHARDYARD_KERNELS", "torch")


def clusters(pooling: Pooling, graph: GraphBatch, level: int = 0, key: Key = KEY) -> Tensor:
    found = pooling.clusters(graph, level, key)
    assert found is not None
    return found


def dense(graph: GraphBatch) -> Tensor:
    """Weights, or ones, of the edges: [n, n]."""
    rows = row_of_entries(graph.indptr, len(graph.indices))
    weights = torch.ones(len(rows), dtype=torch.float64) if graph.weight is None else graph.weight
    return torch.zeros(len(graph.original), len(graph.original), dtype=torch.float64).index_put_(
        (rows, graph.indices), weights, accumulate=True
    )


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(3))
def test_graclus_is_a_matching_that_nobody_can_add_to(seed: int) -> None:
    graph = small_graphs(SIZES, seed=seed)
    joined = dense(graph) > 0
    alone_yet = []
    cluster = clusters(Graclus(), graph)
    for number in range(int(cluster.max()) + 1):
        members = torch.nonzero(cluster == number).flatten()
        assert len(members) in (1, 2)
        if len(members) == 2:
            assert joined[members[0], members[1]]
        else:
            alone_yet.append(int(members))
    assert not joined[alone_yet][:, alone_yet].any()


def test_kernels_and_twins_make_the_same_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small_graphs([40, 3, 60], weighted=True)
    found = []
    for backend in ("", "torch"):
        monkeypatch.setenv("SHARDYARD_KERNELS", backend)
        cluster = clusters(Graclus(), graph)
        found.append((cluster, coarsened(graph, graph.x, cluster)))
    assert torch.equal(found[0][0], found[1][0])
    first, second = (dataclasses.asdict(coarse) for _, coarse in found)
    for name in ("x", "positions", "weight"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-13, atol=1e-13)
    for name in ("indptr", "indices", "offsets", "original", "samples"):
        assert torch.equal(first[name], second[name])


@pytest.mark.usefixtures("backend")
def test_a_matching_follows_its_order_and_takes_the_highest_score() -> None:
    """A path 0 - 1 - 2 - 3 with scores 1, 5, 1; then equal scores, of a triangle with a loop."""
    path = torch.tensor([0, 1, 3, 5, 6]), torch.tensor([1, 0, 2, 1, 3, 2]), torch.tensor([1.0, 1, 5, 5, 1, 1]).double()
    assert greedy_matching(*path, torch.tensor([0, 1, 2, 3])).tolist() == [0, 0, 2, 2]
    assert greedy_matching(*path, torch.tensor([1, 0, 2, 3])).tolist() == [0, 1, 1, 3]
    triangle = torch.tensor([0, 3, 5, 7]), torch.tensor([0, 1, 2, 0, 2, 0, 1]), torch.ones(7).double()
    assert greedy_matching(*triangle, torch.tensor([0, 1, 2])).tolist() == [0, 0, 2]
    assert greedy_matching(*triangle, torch.tensor([2, 1, 0])).tolist() == [0, 1, 0]


@pytest.mark.usefixtures("backend")
@every_pooling
def test_a_graph_is_pooled_alone_as_in_a_batch(pooling: Pooling) -> None:
    graph = small_graphs(SIZES, weighted=True)
    for _ in range(2):  # and what it was pooled to, once more
        cluster = clusters(pooling, graph)
        coarse = coarsened(graph, graph.x, cluster)
        for number in range(len(graph)):
            one, part = alone(graph, number), alone(coarse, number)
            own = clusters(pooling, one)
            assert torch.equal(own, cluster[graph.offsets[number] : graph.offsets[number + 1]] - coarse.offsets[number])
            single = coarsened(one, one.x, own)
            for field in ("x", "positions", "indptr", "indices", "weight", "offsets", "original", "samples"):
                assert torch.equal(getattr(single, field), getattr(part, field)), field
        graph = coarse


def test_graclus_is_drawn_by_its_key_alone() -> None:
    graph = small_graphs([60, 60])
    assert torch.equal(clusters(Graclus(), graph), clusters(Graclus(), graph))
    assert not torch.equal(clusters(Graclus(), graph), clusters(Graclus(), graph, key=KEY.fold(1)))


def test_a_voxel_is_a_cell_of_its_graph() -> None:
    graph = small_graphs(SIZES, dimensions=3, whole=True)
    for level in range(3):
        cells = {}
        for node, a in enumerate(graph.graph_of.tolist()):
            least = graph.positions[graph.graph_of == a].min(0).values
            cell = ((graph.positions[node] - least) / (3.0 * 2**level)).floor()
            cells.setdefault((a, *cell.int().tolist()), []).append(node)
        found = clusters(Voxel(size=3.0), graph, level)
        expected = torch.empty_like(found)
        for number, place in enumerate(sorted(cells)):
            expected[cells[place]] = number
        assert torch.equal(found, expected)
        moved = dataclasses.replace(graph, positions=graph.positions + 1000)
        assert torch.equal(found, clusters(Voxel(size=3.0), moved, level))


@pytest.mark.usefixtures("backend")
@every_pooling
@pytest.mark.parametrize("weighted", [True, False])
def test_a_coarse_graph_is_what_pytorch_geometric_makes_of_it(pooling: Pooling, weighted: bool) -> None:
    graph = small_graphs(SIZES, weighted=weighted)
    cluster = clusters(pooling, graph)
    coarse = coarsened(graph, graph.x, cluster)
    rows = row_of_entries(graph.indptr, len(graph.indices))
    given = Batch(
        x=graph.x, pos=graph.positions, edge_index=torch.stack([graph.indices, rows]), edge_attr=graph.weight,
        batch=graph.graph_of,
    )  # fmt: skip
    expected = max_pool(cluster, given)
    torch.testing.assert_close(coarse.x, expected.x)
    torch.testing.assert_close(coarse.positions, expected.pos)
    assert torch.equal(coarse.graph_of, expected.batch)
    joined = torch.zeros_like(dense(coarse)).index_put_(
        (expected.edge_index[1], expected.edge_index[0]),
        torch.ones(expected.num_edges, dtype=torch.float64) if expected.edge_attr is None else expected.edge_attr,
    )
    torch.testing.assert_close(dense(coarse), joined)
    assert dense(coarse).count_nonzero() == len(coarse.indices)  # each edge once
    for begin, end in itertools.pairwise(coarse.indptr.tolist()):
        assert bool((coarse.indices[begin:end].diff() > 0).all())
    assert not dense(coarse).diag().any()


def test_the_gradient_goes_to_the_largest_and_is_shared_by_equals() -> None:
    graph = small_graphs([12, 7])
    cluster = clusters(Graclus(), graph)
    x = graph.x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: coarsened(graph, x, cluster).x, (x,))
    equal = torch.zeros_like(graph.x).requires_grad_()
    coarsened(graph, equal, cluster).x.sum().backward()
    sizes = torch.bincount(cluster)[cluster].double()
    torch.testing.assert_close(equal.grad, (1 / sizes)[:, None].expand_as(equal))


def test_means_are_those_of_each_graph() -> None:
    graph = small_graphs([5, 0, 8])
    means = mean_of_graphs(graph, graph.x)
    torch.testing.assert_close(means, torch.stack([graph.x[:5].mean(0), torch.zeros(5).double(), graph.x[5:].mean(0)]))
    assert torch.autograd.gradcheck(lambda x: mean_of_graphs(graph, x), (graph.x.clone().requires_grad_(),))


def test_an_empty_batch_stays_empty() -> None:
    graph = small_graphs([0, 0])
    for pooling in (Graclus(), Voxel()):
        assert len(coarsened(graph, graph.x, clusters(pooling, graph)).original) == 0


def test_clusters_across_graphs_and_gaps_are_refused() -> None:
    graph = small_graphs([2, 2])
    for cluster in ([0, 1, 1, 2], [2, 3, 0, 1]):
        with pytest.raises(PluginError, match="several graphs"):
            coarsened(graph, graph.x, torch.tensor(cluster))
    with pytest.raises(PluginError, match="left out numbers"):
        coarsened(graph, graph.x, torch.tensor([0, 0, 2, 2]))


@pytest.mark.usefixtures("backend")
def test_members_that_are_no_nodes_are_refused() -> None:
    indptr, indices, cluster = torch.arange(5), torch.tensor([1, 0, 3, 2]), torch.tensor([0, 0, 1, 1])
    members = build_csr(cluster, torch.tensor([0, 1, 2, 300_000_000]), 2)
    with pytest.raises(InputError, match="members holds 300000000; expected ids from 0 to 3"):
        coarse_edges(indptr, indices, None, cluster, members)
    narrow = build_csr(cluster, torch.arange(4, dtype=torch.int32), 2)
    starts, others, _ = coarse_edges(indptr, indices, None, cluster, narrow)
    assert starts.tolist() == [0, 0, 0]
    assert len(others) == 0


def test_poolings_are_found_by_name() -> None:
    assert POOLINGS.names() == ["graclus", "none", "voxel"]
    assert Unpooled().clusters(small_graphs([3]), 0, KEY) is None
    assert all(isinstance(POOLINGS.get(name)(), Pooling) for name in POOLINGS.names())
    with pytest.raises(InputError, match=re.escape("--model.pooling.size is 0.0; expected a number above 0.")):
        Voxel(size=0.0)

"""Costs of edges by attention: the formula, self-loops, and what a later stage of path attention changes."""

import pytest
import torch
from torch import Tensor
from whole_graph import looped_graph, random_graph

from framework.errors import InputError
from framework.graph.edge_costs import LEAST, edge_costs, greatest_attention, refreshed_costs
from framework.graph.path_block import BlockPaths
from framework.kernels.csr import row_of_entries


def attention_of(edges: int) -> Tensor:
    return torch.rand(edges, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.01


def test_a_cost_is_one_less_attention_over_the_greatest() -> None:
    """As the definition by a matrix has it: negated, its diagonal 0, scaled from the least to the greatest."""
    edges = random_graph(30, 900).csr
    attention = attention_of(len(edges.indices))
    rows = row_of_entries(edges.indptr, len(edges.indices))
    dense = torch.zeros(30, 30, dtype=torch.float64)
    dense[rows, edges.indices.long()] = -attention
    dense = (dense - dense.min()) / (dense.max() - dense.min())
    expected = dense[rows, edges.indices.long()].clamp(min=LEAST)
    found = edge_costs(attention, edges.indptr, edges.indices)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert float(found.min()) == LEAST
    assert float(found.max()) < 1


def test_self_loops_cost_one_and_do_not_count() -> None:
    edges = looped_graph(30, 150).csr
    loops = edges.indices == row_of_entries(edges.indptr, len(edges.indices))
    attention = attention_of(len(edges.indices))
    attention[loops] += 10
    found = edge_costs(attention, edges.indptr, edges.indices)
    assert bool((found[loops] == 1).all())
    greatest = float(attention[~loops].max())
    assert greatest_attention(attention, edges.indptr, edges.indices) == greatest
    torch.testing.assert_close(found[~loops], (1 - attention[~loops] / greatest).clamp(min=LEAST))


def test_rows_of_several_workers_are_those_of_one() -> None:
    edges = random_graph(30, 300).csr
    attention = attention_of(len(edges.indices))
    whole = edge_costs(attention, edges.indptr, edges.indices)
    greatest = greatest_attention(attention, edges.indptr, edges.indices)
    middle = int(edges.indptr[10])
    part = edge_costs(attention[:middle], edges.indptr[:11], edges.indices[:middle], greatest=greatest)
    assert torch.equal(part, whole[:middle])


def test_a_graph_without_edges_has_no_costs() -> None:
    none = torch.empty(0, dtype=torch.float64)
    assert len(edge_costs(none, torch.zeros(4, dtype=torch.int64), torch.empty(0, dtype=torch.int32))) == 0
    assert greatest_attention(none, torch.zeros(4, dtype=torch.int64), torch.empty(0, dtype=torch.int32)) == 0


def test_only_edges_that_were_paths_are_counted_anew() -> None:
    """Among three nodes and a fourth alone; node 1 came to node 0 by a detour, so (0, 1) was no path."""
    indptr, indices = torch.tensor([0, 3, 6, 7, 7]), torch.tensor([0, 1, 2, 0, 2, 2, 1], dtype=torch.int32)
    costs = torch.tensor([1.0, 0.9, 0.1, 0.2, 0.3, 0.3, 0.4], dtype=torch.float64)  # (1, 2) is there twice
    paths = BlockPaths(
        offsets=torch.tensor([0, 2, 5, 7, 8]),
        nodes=torch.tensor([[2], [0], [2], [0], [1], [1], [2], [3]], dtype=torch.int32),
        original=torch.arange(4),
    )
    attention = torch.tensor([0.4, 0.6, 0.2, 0.3, 0.5, 0.25, 0.75, 1.0], dtype=torch.float64)
    found = refreshed_costs(costs, indptr, indices, paths, attention)
    expected = [1.0, 0.9, LEAST, 1 - 0.3 / 0.4, 1 - 0.2 / 0.4, 1 - 0.2 / 0.4, 1 - 0.25 / 0.4]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_where_every_edge_is_a_path_a_refresh_starts_afresh() -> None:
    edges = random_graph(30, 300).csr
    attention = attention_of(len(edges.indices))
    paths = BlockPaths(offsets=edges.indptr, nodes=edges.indices[:, None], original=torch.arange(30))
    found = refreshed_costs(torch.full_like(attention, 0.5), edges.indptr, edges.indices, paths, attention)
    assert torch.equal(found, edge_costs(attention, edges.indptr, edges.indices))


def test_what_is_no_attention_is_refused() -> None:
    edges = random_graph(30, 300).csr
    attention = attention_of(len(edges.indices))
    for wrong in (attention[1:], -attention, attention * torch.nan):
        with pytest.raises(InputError, match="expected .* numbers of at least 0"):
            edge_costs(wrong, edges.indptr, edges.indices)
    longer = BlockPaths(
        offsets=torch.tensor([0, 1]), nodes=torch.zeros(1, 2, dtype=torch.int32), original=torch.arange(30)
    )
    with pytest.raises(InputError, match="paths are of 3 nodes; expected those of 2"):
        refreshed_costs(attention, edges.indptr, edges.indices, longer, attention[:1])

"""Edges of unequal importance: sums, means and attention as of dense matrices; and what becomes of self-loops."""

import dataclasses

import pytest
import torch
from torch import Tensor
from whole_graph import looped_graph, of_unequal_importance, random_rows

from framework.graph.block import Block
from framework.kernels.csr import row_of_entries
from framework.models.layers import GATConv, GCNConv, SAGEConv
from framework.random import Key

GRAPH = looped_graph(30, 150, isolated=6)
BLOCK = of_unequal_importance(GRAPH.block)
COLUMNS, HEADS = 4, 3


def dense(block: Block, values: Tensor) -> Tensor:
    """A number of every edge as a matrix, duplicates added up: [targets, sources, ...]."""
    matrix = values.new_zeros(block.num_targets, len(block.sources), *values.shape[1:])
    return matrix.index_put((rows_of(block), block.indices.long()), values, accumulate=True)


def rows_of(block: Block) -> Tensor:
    return row_of_entries(block.indptr, len(block.indices))


def importance_of(block: Block) -> Tensor:
    assert block.importance is not None
    return block.importance


def row_sums(block: Block, values: Tensor) -> Tensor:
    return dense(block, values).sum(1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_sums_and_means_are_by_importance(weighted: bool, mean: bool) -> None:
    weights = random_rows(len(GRAPH.source), 1).detach().flatten().float() if weighted else None
    block = dataclasses.replace(BLOCK, edge_weights=weights)
    assert block.weighted == weighted
    x, again = random_rows(GRAPH.num_nodes, COLUMNS), random_rows(GRAPH.num_nodes, COLUMNS)
    factors = importance_of(block) if weights is None else importance_of(block) * weights
    found = block.sum(x, mean=mean)
    expected = dense(block, factors) @ again
    if mean:
        expected = expected / block.drawn.clamp(min=1)[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slope = random_rows(*found.shape, seed=2).detach()
    found.backward(slope)
    expected.backward(slope)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-12, atol=1e-12)


def test_without_self_loops_the_mean_is_one_again_and_whole_rows_stay() -> None:
    left, loops = BLOCK.without_self_loops, BLOCK.indices == rows_of(BLOCK)
    assert bool(loops.any())
    torch.testing.assert_close(row_sums(left, importance_of(left)), left.drawn.double(), rtol=1e-14, atol=0)
    ratio = importance_of(left) / importance_of(BLOCK)[~loops]
    rows = rows_of(left)
    for row in rows.unique().tolist():
        torch.testing.assert_close(ratio[rows == row], ratio[rows == row][:1].expand(int((rows == row).sum())))
    whole = (left.drawn == BLOCK.drawn)[rows]
    assert bool((ratio[whole] == 1).all())
    assert bool((ratio[~whole] != 1).any())


def test_the_loop_that_a_layer_adds_has_importance_one() -> None:
    looped, others = BLOCK.with_self_loops, importance_of(BLOCK.without_self_loops)
    last = torch.zeros(len(looped.indices), dtype=torch.bool)
    last[looped.indptr[1:] - 1] = True
    assert bool((importance_of(looped)[last] == 1).all())
    assert torch.equal(importance_of(looped)[~last], others)


def test_a_convolution_is_weighed_by_importance() -> None:
    x, convolution = random_rows(GRAPH.num_nodes, COLUMNS).detach(), BLOCK.convolution(torch.float64)
    expected = dataclasses.replace(BLOCK, importance=None).convolution(torch.float64)
    assert expected.edge_weights is not None
    factors = expected.edge_weights * importance_of(BLOCK.with_self_loops)
    torch.testing.assert_close(convolution.sum(x), dense(convolution, factors) @ x, rtol=1e-12, atol=1e-12)


def softmax(block: Block, source_scores: Tensor, target_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of every edge of a block with self-loops, times importance: [edges, heads]; and the logarithms of its sums."""
    rows = rows_of(block)
    scores = torch.nn.functional.leaky_relu(source_scores[block.indices.long()] + target_scores[rows], 0.2)
    weights = scores.exp() * importance_of(block)[:, None]
    sums = row_sums(block, weights)
    return weights / sums[rows], sums.log()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_attention_is_a_softmax_times_importance(dropout: float) -> None:
    operands, again = (
        [
            random_rows(GRAPH.num_nodes, columns, seed=seed)
            for seed, columns in enumerate((HEADS * COLUMNS, HEADS, HEADS))
        ]
        for _ in range(2)
    )
    key, looped = Key.root(1), BLOCK.with_self_loops
    found, totals = BLOCK.attend_partially(
        key, operands[0].view(-1, HEADS, COLUMNS), *operands[1:], negative_slope=0.2, dropout=dropout
    )
    weights, expected_totals = softmax(looped, *again[1:])
    kept = looped.dropped_edges(key, HEADS, dropout, weights)
    assert (kept is None) == (dropout == 0)
    matrix = dense(looped, weights if kept is None else weights * kept)
    expected = torch.einsum("tsh,shc->thc", matrix, again[0].view(-1, HEADS, COLUMNS))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(totals, expected_totals, rtol=1e-12, atol=1e-12)
    slopes = [random_rows(*rows.shape[:1], rows[0].numel(), seed=5).detach().view_as(rows) for rows in (found, totals)]
    torch.autograd.backward([found, totals], slopes)
    torch.autograd.backward([expected, expected_totals], slopes)
    for mine, reference in zip(operands, again, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-11, atol=1e-12)


def test_the_weights_of_attention_are_as_well() -> None:
    layer = GATConv(COLUMNS, 2, heads=HEADS, join=True, slope=0.2, attention_dropout=0.0).double()
    x = random_rows(GRAPH.num_nodes, COLUMNS).detach()
    values = layer.linear(x).view(-1, HEADS, 2)
    scores = [(values * vector).sum(2) for vector in (layer.source_attention, layer.target_attention)]
    expected, _ = softmax(BLOCK.with_self_loops, *scores)
    torch.testing.assert_close(layer.attention(BLOCK, x), expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        SAGEConv(COLUMNS, 3),
        GCNConv(COLUMNS, 3),
        GATConv(COLUMNS, 3, heads=2, join=True, slope=0.2, attention_dropout=0.0),
    ],
    ids=["sage", "gcn", "gat"],
)
def test_equal_importance_is_none(layer: torch.nn.Module) -> None:
    layer, x = layer.double(), random_rows(GRAPH.num_nodes, COLUMNS).detach()
    equal = dataclasses.replace(GRAPH.block, importance=torch.ones(len(GRAPH.source), dtype=torch.float64))
    torch.testing.assert_close(layer(equal, x), layer(GRAPH.block, x), rtol=1e-13, atol=1e-13)
    assert not torch.allclose(layer(BLOCK, x), layer(GRAPH.block, x))


def test_it_moves_with_the_edges() -> None:
    assert importance_of(BLOCK.to(torch.device("meta"))).device.type == "meta"

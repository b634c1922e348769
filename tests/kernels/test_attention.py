"""Attention and edge softmax: against PyTorch Geometric, plain torch, numerical differences and the twins."""

import pytest
import torch
from torch_geometric.nn import GATConv
from torch_geometric.utils import softmax

from framework.errors import InputError
from framework.kernels.attention import (
    attention,
    attention_weights,
    edge_softmax,
    join_attention,
    partial_attention,
)
from framework.kernels.csr import build_csr, offsets, row_of_entries, transpose


def operands(case, heads, width, dtype=torch.float64, *, spread=1.0):
    generator = torch.Generator().manual_seed(heads * 100 + width)

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).mul_(spread).requires_grad_()

    scores = draw(case.num_sources, heads), draw(case.num_targets, heads)
    scale = (torch.rand(len(case.sources), heads, generator=generator) > 0.4).to(dtype) / 0.6
    return draw(case.num_sources, heads, width), *scores, scale


def plain(case, values, source_scores, target_scores, scale):
    """The formula, edge by edge."""
    rows, sources = row_of_entries(case.matrix.indptr, len(case.matrix.indices)), case.matrix.indices.long()
    scores = torch.nn.functional.leaky_relu(source_scores[sources] + target_scores[rows], 0.2)
    weights = softmax(scores, rows, num_nodes=case.num_targets) * scale
    out = values.new_zeros(case.num_targets, *values.shape[1:])
    return out.index_add(0, rows, weights[:, :, None] * values[sources])


@pytest.mark.parametrize(("heads", "width"), [(1, 16), (1, 67), (3, 5), (4, 32), (1, 0), (3, 0)])
@pytest.mark.parametrize("scaled", [True, False])
def test_values_and_gradients_equal_plain_torch(backend, case, heads, width, scaled):
    values, source_scores, target_scores, scale = operands(case, heads, width)
    back = transpose(case.matrix.indptr, case.matrix.indices, case.num_sources) if scaled else None
    for _ in range(3):  # what is freed is given out again: memory that nobody writes would show
        torch.full_like(target_scores, torch.nan)
    out = attention(
        case.matrix.indptr, case.matrix.indices, values, source_scores, target_scores,
        edge_scale=scale if scaled else None, transposed=back,
    )  # fmt: skip
    expected = plain(case, values, source_scores, target_scores, scale if scaled else torch.ones_like(scale))
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    factor = torch.randn_like(out)
    inputs = (values, source_scores, target_scores)
    ours = torch.autograd.grad(out, inputs, factor)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, factor), rtol=1e-10, atol=1e-10)


def test_gradients_pass_gradcheck(backend):
    indptr, indices = torch.tensor([0, 3, 3, 4]), torch.tensor([0, 2, 2, 1], dtype=torch.int32)
    values, source_scores, target_scores = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 2, 3), (4, 2), (3, 2))
    )
    scale = torch.tensor([[1.5, 0], [0, 1.5], [1.5, 1.5], [1.5, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *inputs: attention(indptr, indices, *inputs, negative_slope=0.3, edge_scale=scale),
        (values, source_scores, target_scores),
    )
    scores = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scores: edge_softmax(indptr, scores), (scores,))


def test_gradients_of_totals_pass_gradcheck(backend):
    """Alone, and beside those of the sums; a row without entries has a total of minus infinity and no gradient."""
    indptr, indices = torch.tensor([0, 3, 3, 4]), torch.tensor([0, 2, 2, 1], dtype=torch.int32)
    values, source_scores, target_scores = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 2, 3), (4, 2), (3, 2))
    )
    scale = torch.tensor([[1.5, 0], [0, 1.5], [1.5, 1.5], [1.5, 0]], dtype=torch.float64)
    filled = torch.tensor([0, 2])

    def both(*inputs):
        out, totals = partial_attention(indptr, indices, *inputs, negative_slope=0.3, edge_scale=scale)
        return out, totals[filled]

    assert torch.autograd.gradcheck(both, (values, source_scores, target_scores))
    assert torch.autograd.gradcheck(lambda *inputs: both(*inputs)[1], (values, source_scores, target_scores))
    totals = partial_attention(indptr, indices, values, source_scores, target_scores)[1]
    assert bool((totals[1] == -torch.inf).all())


@pytest.mark.parametrize(("heads", "width"), [(1, 67), (3, 5)])
@pytest.mark.parametrize("spread", [1.0, 500.0])
def test_joined_parts_are_the_whole(backend, square, heads, width, spread):
    """The entries of every row dealt to three parts, of which some get none; a loop keeps rows from being empty."""
    matrix, targets = square.matrix, square.num_targets
    rows = torch.cat([row_of_entries(matrix.indptr, len(matrix.indices)), torch.arange(targets)])
    columns = torch.cat([matrix.indices, torch.arange(targets, dtype=matrix.indices.dtype)])
    values, source_scores, target_scores, _ = operands(square, heads, width, spread=spread)
    inputs = (values, source_scores, target_scores)
    scale = (torch.rand(len(rows), heads) > 0.4).double() / 0.6
    whole = build_csr(rows, columns, targets)
    expected = attention(whole.indptr, whole.indices, *inputs, edge_scale=scale[whole.edges])

    holder = torch.randint(3, (len(rows),)).where(rows % 4 != 0, 1)
    outs, totals = [], []
    for part in range(3):
        chosen = torch.nonzero(holder == part).squeeze(1)
        some = build_csr(rows[chosen], columns[chosen], targets)
        parts = partial_attention(some.indptr, some.indices, *inputs, edge_scale=scale[chosen][some.edges])
        outs.append(parts[0])
        totals.append(parts[1])
    places = torch.arange(3 * targets, dtype=torch.int32).view(3, targets).t().flatten()
    pointers = offsets(torch.full((targets,), 3))
    joined = join_attention(pointers, places, torch.cat(outs), torch.cat(totals))
    torch.testing.assert_close(joined, expected, rtol=1e-11, atol=1e-11)
    factor = torch.randn_like(expected)
    found, wanted = (torch.autograd.grad(out, inputs, factor) for out in (joined, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_large_scores_do_not_overflow(backend, square):
    values, source_scores, target_scores, _ = operands(square, 2, 4, spread=2000.0)
    out = attention(square.matrix.indptr, square.matrix.indices, values, source_scores, target_scores)
    out.sum().backward()
    for tensor in (out, values.grad, source_scores.grad, target_scores.grad):
        assert bool(tensor.isfinite().all())


def test_equals_the_layer_of_pytorch_geometric(backend, square):
    layer = GATConv(12, 6, heads=3, add_self_loops=False, bias=False).double()
    x = torch.randn(square.num_sources, 12, dtype=torch.float64)
    values = layer.lin(x).view(-1, 3, 6)
    out = attention(
        square.matrix.indptr, square.matrix.indices, values,
        (values * layer.att_src).sum(-1), (values * layer.att_dst).sum(-1),
    )  # fmt: skip
    edges = torch.stack([square.sources.long(), square.targets])
    torch.testing.assert_close(out.flatten(1), layer(x, edges), rtol=1e-11, atol=1e-11)


def test_edge_softmax_equals_pytorch_geometric(backend, case):
    scores = torch.randn(len(case.sources), 3, dtype=torch.float64).mul_(10).requires_grad_()
    rows = row_of_entries(case.matrix.indptr, len(scores))
    ours, theirs = edge_softmax(case.matrix.indptr, scores), softmax(scores, rows, num_nodes=case.num_targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    factor = torch.randn_like(scores)
    ours_gradient, their_gradient = (torch.autograd.grad(out, scores, factor)[0] for out in (ours, theirs))
    torch.testing.assert_close(ours_gradient, their_gradient, rtol=1e-10, atol=1e-11)


def test_weights_are_those_that_attention_uses(backend, square):
    _, source_scores, target_scores, _ = operands(square, 2, 4)
    weights = attention_weights(square.matrix.indptr, square.matrix.indices, source_scores, target_scores)
    assert not weights.requires_grad
    values = torch.eye(square.num_sources, dtype=torch.float64)[:, None, :].repeat(1, 2, 1)
    out = attention(square.matrix.indptr, square.matrix.indices, values, source_scores, target_scores)
    rows = row_of_entries(square.matrix.indptr, len(weights))
    expected = torch.zeros_like(out).index_put(
        (rows[:, None], torch.arange(2)[None], square.matrix.indices.long()[:, None]), weights, accumulate=True
    )
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_the_number_of_threads_changes_nothing(case):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        *inputs, scale = operands(case, 2, 20, torch.float32)
        out = attention(case.matrix.indptr, case.matrix.indices, *inputs, edge_scale=scale)
        results.append((out, *torch.autograd.grad(out.sum(), inputs)))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_wrong_shapes_are_refused(square):
    values, source_scores, target_scores, scale = operands(square, 2, 4)
    matrix = square.matrix
    with pytest.raises(InputError, match=r"target_scores is float64 \[59, 2\]; expected shape \[60, 2\]"):
        attention(matrix.indptr, matrix.indices, values, source_scores, target_scores[1:])
    with pytest.raises(InputError, match="edge_scale is float32"):
        attention(matrix.indptr, matrix.indices, values, source_scores, target_scores, edge_scale=scale.float())
    with pytest.raises(InputError, match="indices holds"):
        attention(matrix.indptr, matrix.indices + 60, values, source_scores, target_scores)

"""SpMM and its gradients: against SciPy, the twins, numerical differences and PyTorch Geometric."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import scatter

from framework.errors import InputError
from framework.kernels import segments
from framework.kernels.aggregate import spmm, spmm_into
from framework.kernels.csr import CSR, row_of_entries, transpose

WIDTHS = [1, 5, 16, 67, 200]  # below, at and beyond a register and a tile, with and without a rest


def operands(case, width, dtype=torch.float64, *, weighted=True):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(case.num_sources, width, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(len(case.sources), dtype=dtype, generator=generator).requires_grad_() if weighted else None
    return case.matrix.indptr, case.matrix.indices, x, weight


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("mean", [True, False])
def test_sum_and_mean_equal_scipy(backend, case, width, weighted, mean):
    indptr, indices, x, weight = operands(case, width, weighted=weighted)
    out = spmm(indptr, indices, x, weight, mean=mean)
    values = np.ones(len(indices)) if weight is None else weight.detach().numpy()
    expected = np.zeros((case.num_targets, width))
    if case.num_targets and case.num_sources:
        shape = (case.num_targets, case.num_sources)
        expected = scipy.sparse.csr_matrix((values, indices, indptr), shape) @ x.detach().numpy()
    if mean:
        expected /= np.maximum(indptr.diff().numpy(), 1)[:, None]
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_gradients_equal_those_of_dense_algebra(backend, case, mean, given):
    indptr, indices, x, weight = operands(case, 21)
    back = transpose(indptr, indices, case.num_sources) if given else None
    factor = torch.randn(case.num_targets, 21, dtype=torch.float64)
    spmm(indptr, indices, x, weight, mean=mean, transposed=back).backward(factor)
    ours = x.grad, weight.grad
    x.grad = weight.grad = None
    rows = row_of_entries(indptr, len(indices))
    dense = torch.zeros(case.num_targets, case.num_sources, dtype=torch.float64)
    dense = dense.index_put((rows, indices.long()), weight, accumulate=True)
    product = dense @ x
    if mean:
        product = product / indptr.diff().clamp(min=1)[:, None]
    product.backward(factor)
    torch.testing.assert_close(ours, (x.grad, weight.grad), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mean", [True, False])
def test_gradients_pass_gradcheck(backend, mean):
    indptr, indices = torch.tensor([0, 3, 3, 4]), torch.tensor([0, 2, 2, 1], dtype=torch.int32)
    x = torch.randn(4, 19, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: spmm(indptr, indices, x, w, mean=mean), (x, weight))
    assert torch.autograd.gradcheck(lambda x: spmm(indptr, indices, x, mean=mean), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_agree_to_rounding(square, dtype, monkeypatch):
    indptr, indices, x, weight = operands(square, 67, dtype)
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = spmm(indptr, indices, x, weight, mean=True)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(spmm(indptr, indices, x, weight, mean=True), ours, rtol=tolerance, atol=tolerance)


def test_equals_the_layer_of_pytorch_geometric(backend, square):
    x = torch.randn(square.num_sources, 24, dtype=torch.float64)
    layer = SAGEConv(24, 8).double()
    ours = layer.lin_l(spmm(square.matrix.indptr, square.matrix.indices, x, mean=True)) + layer.lin_r(x)
    theirs = layer(x, torch.stack([square.sources.long(), square.targets]))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    sums = scatter(x[square.sources], square.targets, dim_size=square.num_targets)
    torch.testing.assert_close(spmm(square.matrix.indptr, square.matrix.indices, x), sums, rtol=1e-12, atol=1e-12)


def test_the_number_of_threads_changes_nothing(case):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        indptr, indices, x, weight = operands(case, 67, torch.float32)
        out = spmm(indptr, indices, x, weight, mean=True)
        out.sum().backward()
        results.append((out, x.grad, weight.grad))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_twin_works_in_chunks(square, monkeypatch):
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    indptr, indices, x, weight = operands(square, 5)
    whole = spmm(indptr, indices, x, weight)
    monkeypatch.setattr(segments, "_ENTRIES_AT_ONCE", 40)
    assert len(list(segments.chunks(indptr, 5))) > 10
    parts = spmm(indptr, indices, x, weight)
    assert torch.equal(whole, parts)
    slices = list(segments.chunks(indptr, 5))
    assert [rows.start for rows, _ in slices[1:]] == [rows.stop for rows, _ in slices[:-1]]
    assert slices[-1][0].stop == square.num_targets


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("placed", [True, False])
def test_sums_are_added_to_chosen_rows(backend, case, width, weighted, placed):
    indptr, indices, x, weight = operands(case, width, weighted=weighted)
    x, weight = x.detach(), None if weight is None else weight.detach()
    rows = torch.arange(case.num_targets).flip(0) * 2 if placed else None
    before = torch.randn(2 * case.num_targets if placed else case.num_targets, width, dtype=torch.float64)
    out = before.clone()
    assert spmm_into(out, rows, indptr, indices, x, weight, scale=-0.75) is out
    expected = before.numpy()
    expected[slice(None) if rows is None else rows.numpy()] -= 0.75 * spmm(indptr, indices, x, weight).numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


def test_rows_to_add_to_have_to_be_there(square):
    indptr, indices, x, _ = operands(square, 4)
    out, rows = torch.zeros(square.num_targets, 4, dtype=torch.float64), torch.arange(square.num_targets)
    with pytest.raises(InputError, match="rows holds 60; expected ids from 0 to 59"):
        spmm_into(out, rows + 1, indptr, indices, x)
    with pytest.raises(InputError, match="rows has 59 entries; expected 60"):
        spmm_into(out, rows[1:], indptr, indices, x)
    with pytest.raises(InputError, match="indptr is of 60 rows and out has 59"):
        spmm_into(out[1:], None, indptr, indices, x)
    with pytest.raises(InputError, match="out is not contiguous"):
        spmm_into(out.t().contiguous().t(), rows, indptr, indices, x)


def test_wrong_arguments_are_refused(square):
    indptr, indices, x, weight = operands(square, 4)
    with pytest.raises(InputError, match="indices holds 53; expected ids from 0 to 9"):
        spmm(indptr, torch.full_like(indices, 53), x[:10])
    with pytest.raises(InputError, match=r"weight is float64 \[399\]; expected shape"):
        spmm(indptr, indices, x, weight[1:])
    with pytest.raises(InputError, match="weight is float32"):
        spmm(indptr, indices, x, weight.float())
    with pytest.raises(InputError, match="x is float16"):
        spmm(indptr, indices, x.half())
    with pytest.raises(InputError, match="indptr is int32"):
        spmm(indptr.int(), indices, x)


def test_a_transposed_matrix_may_be_shared(square):
    indptr, indices, x, _ = operands(square, 4)
    back = transpose(indptr, indices, square.num_sources)
    assert isinstance(back, CSR)
    twice = spmm(indptr, indices, spmm(indptr, indices, x, transposed=back), transposed=back)
    (gradient,) = torch.autograd.grad(twice.sum(), x)
    twice = spmm(indptr, indices, spmm(indptr, indices, x))
    assert torch.equal(gradient, torch.autograd.grad(twice.sum(), x)[0])


def test_a_second_derivative_is_refused_and_not_half_of_it():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    indptr, indices = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 2, 3])
    (gradient,) = torch.autograd.grad(spmm(indptr, indices, x**2).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()

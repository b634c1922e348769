"""The spatial convolution's sums: against the formula edge by edge, numerical differences, threads and translations."""

import re

import pytest
import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels.csr import build_csr, row_of_entries, transpose
from framework.kernels.geometric import geometric_sum

SHAPES = [(16, 9, 2), (1, 70, 3), (5, 7, 1), (25, 3, 3), (3, 2, 5)]
"""Channels, filters, dimensions."""


def operands(
    case, channels: int, filters: int, dimensions: int, *, weighted: bool = True, dtype=torch.float64
) -> list[Tensor | None]:
    """x, positions, filters, biases, weight, target positions."""
    generator = torch.Generator().manual_seed(channels * 100 + filters)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    x, places = draw(case.num_sources, channels), draw(case.num_sources, dimensions)
    maps = draw(filters, dimensions, channels), draw(filters, channels)
    weight, targets = draw(len(case.sources)), draw(case.num_targets, dimensions)
    return [x, places, *maps, weight if weighted else None, targets]


def summed(case, operands: list[Tensor | None], back=None) -> Tensor:
    *others, targets = operands
    return geometric_sum(case.matrix.indptr, case.matrix.indices, *others, target_positions=targets, transposed=back)


def plain(case, operands: list[Tensor | None]) -> Tensor:
    """The formula, edge by edge."""
    x, positions, filters, biases, weight, targets = operands
    rows, sources = row_of_entries(case.matrix.indptr, len(case.matrix.indices)), case.matrix.indices.long()
    gates = torch.relu(torch.einsum("et,mtc->emc", positions[sources] - targets[rows], filters) + biases)
    messages = gates * x[sources][:, None]
    if weight is not None:
        messages = messages * weight[:, None, None]
    out = x.new_zeros(case.num_targets, len(biases), x.shape[1]).index_add(0, rows, messages)
    return out.flatten(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_equal_the_formula(backend, case, shape, weighted):
    inputs = operands(case, *shape, weighted=weighted)
    back = transpose(case.matrix.indptr, case.matrix.indices, case.num_sources) if weighted else None
    out, expected = summed(case, inputs, back), plain(case, inputs)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    factor = torch.randn_like(expected)
    wanted = [each for each in inputs if each is not None]
    ours = torch.autograd.grad(out, wanted, factor)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, wanted, factor), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_gradients_pass_gradcheck(backend, dimensions):
    indptr, indices = torch.tensor([0, 3, 3, 4]), torch.tensor([0, 2, 2, 1], dtype=torch.int32)
    generator = torch.Generator().manual_seed(dimensions)
    shapes = ((4, 3), (4, dimensions), (2, dimensions, 3), (2, 3), (4,), (3, dimensions))
    inputs = [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda *inputs: geometric_sum(indptr, indices, *inputs[:-1], target_positions=inputs[-1]), inputs
    )


def test_targets_are_the_first_of_the_nodes(backend, square):
    """Gradients of positions come from both ends then."""
    inputs = operands(square, 4, 3, 2)
    positions = inputs[1]
    ours = summed(square, [*inputs[:-1], None])
    expected = plain(square, [*inputs[:-1], positions])
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    factor = torch.randn_like(expected)
    found, wanted = (torch.autograd.grad(out, positions, factor) for out in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(16, 8, 2), (3, 5, 3)], ids=str)
def test_single_precision_is_double_precision_rounded(backend, square, shape):
    inputs = operands(square, *shape)
    rounded = [each.detach().float().requires_grad_() for each in inputs]
    out, expected = summed(square, rounded), summed(square, inputs)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)
    factor = torch.randn_like(expected)
    ours = torch.autograd.grad(out, rounded, factor.float())
    theirs = [each.float() for each in torch.autograd.grad(expected, inputs, factor)]
    torch.testing.assert_close(list(ours), theirs, rtol=2e-3, atol=2e-3)


def test_threads_do_not_show(backend):
    generator = torch.Generator().manual_seed(0)
    targets, sources = torch.randint(2000, (2, 20_000), generator=generator)
    matrix = build_csr(targets, sources.int(), 2000)
    shapes = ((2000, 16), (2000, 2), (8, 2, 16), (8, 16), (20_000,))
    inputs = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    factor = torch.randn(2000, 128, generator=generator)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = geometric_sum(matrix.indptr, matrix.indices, *inputs)
            found.append((out, *torch.autograd.grad(out, inputs, factor)))
    finally:
        torch.set_num_threads(1)
    for several in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], several, strict=True))


def test_integer_translations_leave_every_bit(backend, square):
    x, positions, *others, targets = operands(square, 6, 5, 2)
    positions, targets = positions.detach().mul(10).round(), targets.detach().mul(10).round()
    here = summed(square, [x, positions, *others, targets])
    moved = summed(square, [x, positions + 1234, *others, targets + 1234])
    assert torch.equal(here, moved)


def test_a_gate_of_one_is_a_sum_of_rows(backend, square):
    x, positions, filters, biases, _, targets = operands(square, 6, 3, 2)
    out = summed(square, [x, positions, torch.zeros_like(filters), torch.ones_like(biases), None, targets])
    rows, sources = row_of_entries(square.matrix.indptr, len(square.matrix.indices)), square.matrix.indices.long()
    expected = torch.zeros_like(targets.new_empty(square.num_targets, 6)).index_add(0, rows, x[sources])
    torch.testing.assert_close(out, expected.repeat(1, 3), rtol=1e-13, atol=1e-13)


def test_what_is_no_number_shows(backend, square):
    x, positions, filters, biases, _, targets = operands(square, 6, 3, 2)
    broken = filters.detach().clone()
    broken[1, 0, 2] = torch.nan
    out = summed(square, [x, positions, broken, biases, None, targets])
    filled = square.matrix.indptr.diff() > 0
    assert bool(out[filled, 6 + 2].isnan().all())
    assert not bool(out[:, :6].isnan().any())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": torch.zeros(3, 2)}, "positions is float32 [3, 2]; expected shape [4, any]"),
        ({"filters": torch.zeros(2, 3, 5)}, "filters is float32 [2, 3, 5]; expected shape [2, 2, 5]"),
        ({"biases": torch.zeros(2, 4)}, "biases is float32 [2, 4]; expected shape [any, 5]"),
        ({"weight": torch.zeros(4)}, "weight is float32 [4]; expected shape [3]"),
        ({"weight": torch.zeros(3, dtype=torch.float64)}, "weight is float64"),
        ({"indices": torch.tensor([0, 4, 1])}, "indices holds 4; expected ids from 0 to 3"),
        ({"target_positions": torch.zeros(3, 2)}, "target_positions is float32 [3, 2]; expected shape [2, 2]"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    given = {
        "indptr": torch.tensor([0, 1, 3]),
        "indices": torch.tensor([0, 3, 1]),
        "x": torch.zeros(4, 5),
        "positions": torch.zeros(4, 2),
        "filters": torch.zeros(2, 2, 5),
        "biases": torch.zeros(2, 5),
    }
    with pytest.raises(InputError, match=re.escape(message)):
        geometric_sum(**(given | changed))

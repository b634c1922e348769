"""The attention kernel where heads and widths do not fill vectors, against its twin; its exponential against exp."""

import pytest
import torch

from framework.kernels import native
from framework.kernels.attention import attention, edge_softmax, partial_attention
from framework.kernels.csr import build_csr

compiled = pytest.mark.skipif(not native.available(), reason="no compiled kernels here")
TARGETS, SOURCES = 50, 40


@pytest.fixture
def matrix():
    """Some 20 entries a row, none in the last; the first source is in more than fit a buffer of the kernel's."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.randint(TARGETS - 1, (1500,), generator=generator)
    sources = torch.randint(SOURCES, (1500,), generator=generator).where(torch.arange(1500) > 600, 0)
    return build_csr(targets, sources, TARGETS)


def results(matrix, heads, width, dtype, *, slope=0.2, scaled=False):
    """Sums, totals of the rows with entries, and all gradients."""
    generator = torch.Generator().manual_seed(11)
    values, source_scores, target_scores, sums_factor, totals_factor, draw = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)
        for shape in (
            (SOURCES, heads, width), (SOURCES, heads), (TARGETS, heads),
            (TARGETS, heads, width), (TARGETS - 1, heads), (len(matrix.indices), heads),
        )
    )  # fmt: skip
    inputs = [x.requires_grad_() for x in (values, source_scores, target_scores)]
    scale = (draw > 0).to(dtype) * 2 if scaled else None
    sums, totals = partial_attention(matrix.indptr, matrix.indices, *inputs, negative_slope=slope, edge_scale=scale)
    objective = (sums * sums_factor).sum() + (totals[:-1] * totals_factor).sum()
    return sums, totals[:-1], *torch.autograd.grad(objective, inputs)


@compiled
@pytest.mark.parametrize(
    ("heads", "width"),
    [
        (1, 1), (1, 3), (1, 4), (1, 8), (1, 40), (1, 47), (1, 64), (1, 75), (2, 2), (3, 13), (4, 4), (5, 8), (6, 1),
        (8, 8), (8, 16), (4, 32), (16, 5), (17, 9), (40, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scaled", [True, False])
def test_every_shape_equals_the_twin(matrix, heads, width, scaled, monkeypatch):
    found = results(matrix, heads, width, torch.float64, scaled=scaled)
    rough = results(matrix, heads, width, torch.float32, scaled=scaled)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    expected = results(matrix, heads, width, torch.float64, scaled=scaled)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([x.double() for x in rough], list(expected), rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize(("heads", "width"), [(2, 0), (0, 4), (0, 0)])
def test_no_heads_or_columns_are_no_failure(matrix, heads, width):
    found = results(matrix, heads, width, torch.float32)
    assert all(bool(x.isfinite().all()) for x in found)
    assert found[0].shape == (TARGETS, heads, width)


@compiled
@pytest.mark.parametrize("slope", [-0.5, 0.0, 1.0, 2.0])
def test_every_slope_equals_the_twin(matrix, slope, monkeypatch):
    found = results(matrix, 8, 8, torch.float64, slope=slope)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    torch.testing.assert_close(found, results(matrix, 8, 8, torch.float64, slope=slope), rtol=1e-12, atol=1e-12)


@compiled
def test_sums_have_the_same_bits_whether_gradients_are_asked_for_or_not(matrix):
    for heads, width in ((8, 8), (1, 47), (3, 5)):
        inputs = torch.randn(SOURCES, heads, width), torch.randn(SOURCES, heads), torch.randn(TARGETS, heads)
        without = attention(matrix.indptr, matrix.indices, *inputs)
        assert torch.equal(without, attention(matrix.indptr, matrix.indices, *(x.requires_grad_() for x in inputs)))


@compiled
def test_what_is_not_a_number_stays_in_its_row(matrix):
    scores = torch.zeros(len(matrix.indices), 3)
    scores[matrix.indptr[4], 1] = torch.nan
    weights = edge_softmax(matrix.indptr, scores)
    wrong = torch.zeros_like(weights, dtype=torch.bool)
    wrong[matrix.indptr[4] : matrix.indptr[5], 1] = True
    assert torch.equal(weights.isnan(), wrong)


@compiled
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, -87.3), (torch.float64, -708.3)])
def test_the_exponential_is_that_of_the_library(dtype, least):
    x = torch.cat([torch.linspace(least, 0, 1 << 16, dtype=dtype), -torch.logspace(-12, 1, 1 << 12, dtype=dtype)])
    out = torch.empty_like(x)
    native.call(native.typed("exponential", x), x, len(x), out)
    exact = x.double().exp()
    allowed = 2 * torch.finfo(dtype).eps if dtype == torch.float32 else 1e-15
    assert float(((out.double() - exact) / exact).abs().max()) < allowed
    ends = torch.tensor([0, -0.0, -torch.inf, torch.nan, 2 * least, -1e30, -1, -1] * 2, dtype=dtype)
    found = torch.empty_like(ends)
    native.call(native.typed("exponential", ends), ends, len(ends), found)
    assert found[:2].tolist() == [1, 1]
    assert found[[2, 4, 5]].tolist() == [0, 0, 0]
    assert found.isnan().nonzero().flatten().tolist() == [3, 11]

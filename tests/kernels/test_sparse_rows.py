"""Sparse distributions: the divergence is the dense one, in value and gradient; rows are taken as from a matrix."""

import pytest
import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels.csr import offsets
from framework.kernels.sparse_rows import SparseRows, sparse_kl

VOCABULARY = 50


def rows(counts: list[int], dtype: torch.dtype = torch.float64) -> SparseRows:
    """Rows of so many entries each, tokens and weights drawn at random."""
    generator = torch.Generator().manual_seed(len(counts))
    tokens, weights = [], []
    for count in counts:
        tokens.append(torch.randperm(VOCABULARY, generator=generator)[:count].sort().values.int())
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01
        weights.append((drawn / drawn.sum()).to(dtype))
    return SparseRows(indptr=offsets(torch.tensor(counts)), tokens=torch.cat(tokens), weights=torch.cat(weights))


def log_probabilities(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(size, VOCABULARY, generator=generator, dtype=torch.float64).log_softmax(dim=1).to(dtype)


COUNTS = [3, 0, 1, 50, 0, 7, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_divergence_is_the_dense_one(dtype, tolerance):
    prior, model = rows(COUNTS, dtype), log_probabilities(len(COUNTS), dtype)
    expected = torch.nn.functional.kl_div(model.double(), prior.dense(VOCABULARY).double(), reduction="none").sum(dim=1)
    given = sparse_kl(model, prior)
    assert given.dtype == dtype
    torch.testing.assert_close(given.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(given == 0, ~prior.known)


def test_divergence_of_a_distribution_from_itself_is_nothing():
    prior = rows([VOCABULARY, 4])
    model = (prior.dense(VOCABULARY) + 1e-300).log()
    assert sparse_kl(model, prior).abs().max() < 1e-14


def test_gradient_is_that_of_the_dense_divergence():
    prior, scale = rows(COUNTS), torch.arange(1.0, len(COUNTS) + 1, dtype=torch.float64)
    ours, theirs = (log_probabilities(len(COUNTS)).requires_grad_() for _ in range(2))
    (sparse_kl(ours, prior) * scale).sum().backward()
    dense = torch.nn.functional.kl_div(theirs, prior.dense(VOCABULARY), reduction="none").sum(dim=1)
    (dense * scale).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_gradient_is_that_of_finite_differences():
    prior = rows([3, 0, 6])
    logits = torch.randn(3, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: sparse_kl(x.log_softmax(dim=1), prior), logits.requires_grad_())


def test_no_rows_at_all():
    empty = rows(COUNTS).take(torch.empty(0, dtype=torch.int64))
    assert sparse_kl(log_probabilities(0), empty).shape == (0,)


def test_rows_are_taken_as_from_a_matrix():
    prior, chosen = rows(COUNTS), torch.tensor([3, 1, 0, 0, 5])
    taken = prior.take(chosen)
    assert torch.equal(taken.dense(VOCABULARY), prior.dense(VOCABULARY)[chosen])
    assert taken.indptr.diff().tolist() == [50, 0, 3, 3, 7]


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="7 rows; expected 3"):
        sparse_kl(log_probabilities(3), rows(COUNTS))
    narrow = log_probabilities(len(COUNTS))[:, :20].contiguous()
    with pytest.raises(InputError, match="ids from 0 to 19"):
        sparse_kl(narrow, rows(COUNTS))

"""Sparse distributions over tokens, one row a position, and how far a model's dense ones are from them.

Assumptions: inside a row tokens ascend, none twice; weights are above 0 and add up to 1. A row without entries says
that nothing is known of its position.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels import check
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.segments import segment_sum


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """Distributions over tokens, by rows."""

    indptr: Tensor
    """Where each row begins and the last ends: int64 [m + 1]."""
    tokens: Tensor
    """The tokens of each row, ascending, none twice: int32 [entries]."""
    weights: Tensor
    """Their probabilities, above 0; those of a row add up to 1: float [entries]."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def known(self) -> Tensor:
        """Which rows say something: bool [m]."""
        return self.indptr.diff() > 0

    def take(self, rows: Tensor) -> "SparseRows":
        """Some rows, in the order asked for. `rows`: int64 [n], each in [0, m), as often as one likes."""
        counts = self.indptr.diff()[rows]
        indptr = offsets(counts)
        shifts = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], counts)
        entries = torch.arange(len(shifts), device=shifts.device) + shifts
        return SparseRows(indptr=indptr, tokens=self.tokens[entries], weights=self.weights[entries])

    def to(self, device: torch.device) -> "SparseRows":
        """The same rows on `device`."""
        return SparseRows(indptr=self.indptr.to(device), tokens=self.tokens.to(device), weights=self.weights.to(device))

    def dense(self, width: int) -> Tensor:
        """The rows in full: [m, width], 0 where a row has no entry."""
        full = self.weights.new_zeros(len(self), width)
        full[row_of_entries(self.indptr, len(self.tokens)), self.tokens.long()] = self.weights
        return full


def sparse_kl(log_probabilities: Tensor, prior: SparseRows) -> Tensor:
    """KL(prior row || model row) of every row, 0 where the prior's is empty: [m]; differentiable in the first argument.

    `log_probabilities`: float32 or float64 [m, V]. Only the entries of the prior are read: sum_e q_e (log q_e - log
    p_e) (Kullback and Leibler, 1951, with 0 log 0 = 0). Raises InputError for rows or tokens that do not fit."""
    log_probabilities = check.features("log_probabilities", log_probabilities, (None, None))
    if len(prior) != len(log_probabilities):
        raise InputError(f"the prior has {len(prior)} rows; expected {len(log_probabilities)}, one a row of the model.")
    check.pointers(prior.indptr, len(prior.tokens))
    check.below("prior.tokens", prior.tokens, log_probabilities.shape[1])
    weights = prior.weights.to(log_probabilities.dtype)
    divergence: Tensor = _SparseKL.apply(log_probabilities, prior.indptr, prior.tokens, weights)  # type: ignore[no-untyped-call]
    return divergence


class _SparseKL(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, log_probabilities: Tensor, indptr: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
        rows = row_of_entries(indptr, len(tokens))
        entries = rows * log_probabilities.shape[1] + tokens
        context.save_for_backward(rows, entries, weights)
        context.shape = log_probabilities.shape
        return segment_sum(indptr, weights * (weights.log() - log_probabilities.take(entries)))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, entries, weights = context.saved_tensors
        gradient = weights.new_zeros(context.shape)
        gradient.view(-1)[entries] = -weights * gradients[0][rows]  # no token twice in a row: nothing to accumulate
        return gradient, None, None, None

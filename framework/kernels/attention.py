"""Softmax over in-edges: alone, and fused with the weighted sum of graph attention; both with gradients.

Assumptions: scores are [entries, heads] in the order of the CSR's entries. The fused kernel keeps one number a target
and head between its passes and never holds anything of the size entries x heads x width.
"""

from typing import Any

import torch
from torch import Tensor

from framework.kernels import check, native, segments
from framework.kernels.aggregate import spmm
from framework.kernels.csr import CSR, row_of_entries, transpose


def attention(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    source_scores: Tensor,
    target_scores: Tensor,
    *,
    negative_slope: float = 0.2,
    edge_scale: Tensor | None = None,
    transposed: CSR | None = None,
) -> Tensor:
    """Graph attention (Velickovic et al., ICLR 2018): softmax over the in-edges of each target, times the values.

    The score of an entry from s in row t is leaky_relu(source_scores[s] + target_scores[t]), each head apart. `indptr`
    int64 [T + 1], `indices` int32 or int64 [E], `values` float32 or float64 [S, H, D], `source_scores` [S, H],
    `target_scores` [T, H], `edge_scale` [E, H] factors after the softmax (attention dropout). Returns [T, H, D]; an
    empty row is 0. Differentiable in values and scores, not in `edge_scale`. `transposed` as for `spmm`. Raises
    InputError for an index outside [0, S)."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    values = check.features("values", values, (None, None, None))
    heads = values.shape[1]
    source_scores = check.features("source_scores", source_scores, (len(values), heads), like=values)
    target_scores = check.features("target_scores", target_scores, (len(indptr) - 1, heads), like=values)
    check.below("indices", indices, len(values))
    if edge_scale is not None:
        edge_scale = check.features("edge_scale", edge_scale.detach(), (len(indices), heads), like=values)
    if native.usable(indptr, values):
        out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            indptr, indices, values, source_scores, target_scores, edge_scale, negative_slope, transposed
        )
        return out
    weights = edge_softmax(indptr, _scores(indptr, indices, source_scores, target_scores, negative_slope))
    if edge_scale is not None:
        weights = weights * edge_scale
    sums = [spmm(indptr, indices, values[:, head], weights[:, head], transposed=transposed) for head in range(heads)]
    return torch.stack(sums, dim=1) if sums else values.new_empty(len(indptr) - 1, 0, values.shape[2])


def attention_weights(
    indptr: Tensor,
    indices: Tensor,
    source_scores: Tensor,
    target_scores: Tensor,
    *,
    negative_slope: float = 0.2,
) -> Tensor:
    """The softmax that `attention` weighs values with: [E, H], without gradient."""
    with torch.no_grad():
        return edge_softmax(indptr, _scores(indptr, indices, source_scores, target_scores, negative_slope))


def edge_softmax(indptr: Tensor, scores: Tensor) -> Tensor:
    """The softmax of `scores` over the entries of each row, each head apart; differentiable.

    `indptr` int64 [T + 1], `scores` float32 or float64 [E, H]. Returns [E, H]."""
    scores = check.features("scores", scores, (None, None))
    indptr = check.pointers(indptr, len(scores))
    out: Tensor = _EdgeSoftmax.apply(indptr, scores)  # type: ignore[no-untyped-call]
    return out


def _scores(
    indptr: Tensor, indices: Tensor, source_scores: Tensor, target_scores: Tensor, negative_slope: float
) -> Tensor:
    sums = source_scores[indices] + target_scores[row_of_entries(indptr, len(indices))]
    return torch.nn.functional.leaky_relu(sums, negative_slope)


class _Attention(torch.autograd.Function):
    """The C++ of `attention`; its twin is made of `edge_softmax` and `spmm`."""

    @staticmethod
    def forward(
        context: Any,
        indptr: Tensor,
        indices: Tensor,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        edge_scale: Tensor | None,
        negative_slope: float,
        transposed: CSR | None,
    ) -> Tensor:
        totals = torch.empty_like(target_scores)
        out = values.new_empty(len(indptr) - 1, *values.shape[1:])
        inputs = (indptr, len(out), indices, values, source_scores, target_scores, edge_scale)
        native.call(
            native.typed("attention", values, indices), *inputs, *values.shape[1:], float(negative_slope), totals, out
        )
        context.save_for_backward(indptr, indices, values, source_scores, target_scores, edge_scale, totals)
        context.negative_slope, context.transposed = float(negative_slope), transposed
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indptr, indices, values, source_scores, target_scores, edge_scale, totals = context.saved_tensors
        gradient = gradients[0].contiguous()
        heads, width = values.shape[1:]
        pairs = values.new_empty(len(indices), heads, 2)
        value_gradient, source_gradient, target_gradient = map(torch.empty_like, (values, source_scores, target_scores))
        inputs = (indptr, len(gradient), indices, values, source_scores, target_scores, edge_scale)
        name = native.typed("attention_target_gradient", values, indices)
        native.call(name, *inputs, heads, width, context.negative_slope, totals, gradient, pairs, target_gradient)
        back = context.transposed or transpose(indptr, indices, len(values))
        name = native.typed("attention_source_gradient", values, back.indices)
        native.call(
            name, back.indptr, len(values), back.indices, back.edges, pairs, gradient, heads, width,
            value_gradient, source_gradient,
        )  # fmt: skip
        return None, None, value_gradient, source_gradient, target_gradient, None, None, None


class _EdgeSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, indptr: Tensor, scores: Tensor) -> Tensor:
        if native.usable(indptr, scores):
            weights = torch.empty_like(scores)
            name = native.typed("edge_softmax", scores)
            native.call(name, indptr, len(indptr) - 1, scores, scores.shape[1], weights)
        else:
            row = row_of_entries(indptr, len(scores))
            weights = (scores - segments.segment_max(indptr, scores)[row]).exp()
            weights = weights / segments.segment_sum(indptr, weights)[row]
        context.save_for_backward(indptr, weights)
        return weights

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indptr, weights = context.saved_tensors
        gradient = gradients[0].contiguous()
        if native.usable(indptr, weights):
            out = torch.empty_like(weights)
            name = native.typed("edge_softmax_backward", weights)
            native.call(name, indptr, len(indptr) - 1, weights, gradient, weights.shape[1], out)
            return None, out
        means = segments.segment_sum(indptr, weights * gradient)[row_of_entries(indptr, len(weights))]
        return None, weights * (gradient - means)

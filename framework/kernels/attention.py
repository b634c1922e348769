"""Softmax over in-edges: alone, and fused with the weighted sum of graph attention; both with gradients.

Assumptions: scores are [entries, heads] in the order of the CSR's entries. Where gradients are asked for, the fused
kernel keeps a second row as long as its output for each target, so that the gradients take one look at each entry; it
never holds anything of the size entries x heads, with dropout nothing but the factors it is given.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    return partial_attention(
        indptr, indices, values, source_scores, target_scores,
        negative_slope=negative_slope, edge_scale=edge_scale, transposed=transposed,
    )[0]  # fmt: skip


def partial_attention(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor,
    source_scores: Tensor,
    target_scores: Tensor,
    *,
    negative_slope: float = 0.2,
    edge_scale: Tensor | None = None,
    transposed: CSR | None = None,
) -> tuple[Tensor, Tensor]:
    """`attention` over some of the in-edges of each target, and what it takes to join such parts: `join_attention`.

    Returns [T, H, D], and the logarithms of the sums of the exponentials of each row's scores, [T, H]: minus infinity
    for an empty row. Both are differentiable."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    values = check.features("values", values, (None, None, None))
    heads = values.shape[1]
    source_scores = check.features("source_scores", source_scores, (len(values), heads), like=values)
    target_scores = check.features("target_scores", target_scores, (len(indptr) - 1, heads), like=values)
    check.below("indices", indices, len(values))
    if edge_scale is not None:
        edge_scale = check.features("edge_scale", edge_scale.detach(), (len(indices), heads), like=values)
    if native.usable(indptr, values) and len(values) < 2**31:
        gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (values, source_scores, target_scores))
        both: tuple[Tensor, Tensor] = _Attention.apply(  # type: ignore[no-untyped-call]
            indptr,
            indices.int(),
            values,
            source_scores,
            target_scores,
            edge_scale,
            negative_slope,
            transposed,
            gradients,
        )
        return both
    scores = _scores(indptr, indices, source_scores, target_scores, negative_slope)
    weights, totals = _EdgeSoftmax.apply(indptr, scores)  # type: ignore[no-untyped-call]
    if edge_scale is not None:
        weights = weights * edge_scale
    sums = [spmm(indptr, indices, values[:, head], weights[:, head], transposed=transposed) for head in range(heads)]
    return torch.stack(sums, dim=1) if sums else values.new_empty(len(indptr) - 1, 0, values.shape[2]), totals


def join_attention(
    indptr: Tensor, indices: Tensor, parts: Tensor, totals: Tensor, *, transposed: CSR | None = None
) -> Tensor:
    """The attention of each target over all its in-edges, from what `partial_attention` gave for parts of them.

    `indptr` int64 [T + 1] and `indices` [P] name each target's parts; `parts` [S, H, D], `totals` [S, H]. Returns
    [T, H, D]: the parts weighed by the softmax of their totals, in the order of the row. Differentiable. A part of no
    edges (its total minus infinity) adds nothing; one part of each target must have an edge."""
    # That is attention once more: a part is a source, its total the score.
    none = totals.new_zeros(len(indptr) - 1, totals.shape[1])
    return attention(indptr, indices, parts, totals, none, negative_slope=1.0, transposed=transposed)


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
    weights: Tensor = _EdgeSoftmax.apply(indptr, scores)[0]  # type: ignore[no-untyped-call]
    return weights


def _scores(
    indptr: Tensor, indices: Tensor, source_scores: Tensor, target_scores: Tensor, negative_slope: float
) -> Tensor:
    sums = source_scores[indices] + target_scores[row_of_entries(indptr, len(indices))]
    return torch.nn.functional.leaky_relu(sums, negative_slope)


class _Attention(torch.autograd.Function):
    """The C++ of `partial_attention`, for int32 indices; its twin is made of `_EdgeSoftmax` and `spmm`."""

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
        gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        out = values.new_empty(len(indptr) - 1, *values.shape[1:])
        totals = torch.empty_like(target_scores)
        positive, positive_totals = (torch.empty_like(x) if gradients else None for x in (out, totals))
        inputs = (indptr, len(out), indices, values, source_scores, target_scores, edge_scale)
        settings = (*values.shape[1:], float(negative_slope))
        native.call(native.typed("attention", values), *inputs, *settings, totals, out, positive_totals, positive)
        if gradients:
            context.save_for_backward(
                indptr,
                indices,
                values,
                source_scores,
                target_scores,
                edge_scale,
                totals,
                out,
                positive_totals,
                positive,
            )
            context.settings, context.transposed = settings, transposed
            context.set_materialize_grads(False)
        return out, totals

    @staticmethod
    @once_differentiable  # by kernels, which autograd does not see: a second derivative would be a part of it
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        indptr, indices, values, source_scores, target_scores, edge_scale, *outputs = context.saved_tensors
        heads, targets = values.shape[1], len(target_scores)
        gradient, total_gradient = (None if given is None else given.contiguous() for given in gradients)
        if gradient is None:
            gradient = torch.zeros_like(outputs[1])
        facts = values.new_empty(targets, 3, heads)
        value_gradient, source_gradient, target_gradient = map(torch.empty_like, (values, source_scores, target_scores))
        inputs = (values, source_scores, target_scores, edge_scale, *context.settings)
        native.call(
            native.typed("attention_target_gradient", values), indptr, targets, indices, *inputs,
            *outputs, gradient, total_gradient, facts, target_gradient,
        )  # fmt: skip
        back = context.transposed or transpose(indptr, indices, len(values))
        native.call(
            native.typed("attention_source_gradient", values), back.indptr, len(values), back.indices.int(),
            *inputs, back.edges, facts, gradient, value_gradient, source_gradient,
        )  # fmt: skip
        return None, None, value_gradient, source_gradient, target_gradient, None, None, None, None


class _EdgeSoftmax(torch.autograd.Function):
    """The softmax of the entries of each row, and the logarithms of the sums of their exponentials."""

    @staticmethod
    def forward(context: Any, indptr: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if native.usable(indptr, scores):
            weights = torch.empty_like(scores)
            totals = scores.new_empty(len(indptr) - 1, scores.shape[1])
            native.call(
                native.typed("edge_softmax", scores), indptr, len(totals), scores, scores.shape[1], totals, weights
            )
        else:
            row = row_of_entries(indptr, len(scores))
            most = segments.segment_max(indptr, scores)
            weights = (scores - most[row]).exp()
            sums = segments.segment_sum(indptr, weights)
            weights, totals = weights / sums[row], most + sums.log()
        context.save_for_backward(indptr, weights)
        context.set_materialize_grads(False)
        return weights, totals

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        indptr, weights = context.saved_tensors
        gradient, total_gradient = (None if given is None else given.contiguous() for given in gradients)
        if gradient is None:
            gradient = torch.zeros_like(weights)
        if native.usable(indptr, weights):
            out = torch.empty_like(weights)
            name = native.typed("edge_softmax_backward", weights)
            native.call(name, indptr, len(indptr) - 1, weights, gradient, total_gradient, weights.shape[1], out)
            return None, out
        means = segments.segment_sum(indptr, weights * gradient)
        if total_gradient is not None:
            means = means - total_gradient
        return None, weights * (gradient - means[row_of_entries(indptr, len(weights))])

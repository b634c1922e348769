"""Weighted and mean sums over in-edges (SpMM), with gradients for the rows and for the weights.

Assumptions: the matrix is the in-edge CSR of a graph or a block, its own values (`weight`) in the order of its entries.
The gradient of `x` is the same sum over the transposed matrix, so that no two threads ever add into one row.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.errors import InputError
from framework.kernels import check, native, segments
from framework.kernels.csr import CSR, transpose


def spmm(
    indptr: Tensor,
    indices: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    mean: bool = False,
    transposed: CSR | None = None,
) -> Tensor:
    """`out[t] = sum of weight[e] * x[indices[e]]` over the entries e of row t, over their number where `mean`.

    `indptr` int64 [T + 1], `indices` int32 or int64 [E], `x` float32 or float64 [S, D], `weight` [E] of its type (None:
    1). Returns [T, D]; an empty row is 0. Differentiable in `x` and `weight`. `transposed` is `transpose(indptr,
    indices, S)`, computed in the backward pass if it is not given. Raises InputError for an index outside [0, S)."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    x = check.features("x", x, (None, None))
    check.below("indices", indices, len(x))
    if weight is not None:
        weight = check.features("weight", weight, (len(indices),), like=x)
    out: Tensor = _Spmm.apply(indptr, indices, x, weight, mean, transposed)  # type: ignore[no-untyped-call]
    return out


def spmm_into(
    out: Tensor,
    rows: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Adds `scale` times row t of `spmm` to row `rows[t]` of `out`, in place; returns `out`. No gradient.

    `out` [N, D] contiguous, of the type of `x`, whose memory it must not share; `rows` int64 [T], each in [0, N) and
    none twice; None: row t itself. Raises InputError for an index outside [0, S), a row outside [0, N), or rows that
    are not [T]."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    x = check.features("x", x, (None, None))
    if check.features("out", out, (None, x.shape[1]), like=x).data_ptr() != out.data_ptr():
        raise InputError("out is not contiguous; expected a tensor whose rows lie one behind the other.")
    check.below("indices", indices, len(x))
    if weight is not None:
        weight = check.features("weight", weight, (len(indices),), like=x)
    if rows is not None:
        rows = check.long("rows", rows, len(indptr) - 1)
        check.below("rows", rows, len(out))
    elif len(indptr) - 1 != len(out):
        raise InputError(f"indptr is of {len(indptr) - 1} rows and out has {len(out)}; expected as many, or rows.")
    if native.usable(out, indptr, indices, x, weight, rows):
        name = native.typed("spmm_add", x, indices)
        native.call(name, indptr, len(indptr) - 1, indices, weight, x, x.shape[1], rows, float(scale), out)
        torch.autograd.graph.increment_version(out)  # else a tensor kept for a backward pass would change unnoticed
        return out
    sums = segments.weighted_sum(indptr, indices, weight, x)
    return out.add_(sums, alpha=scale) if rows is None else out.index_add_(0, rows, sums, alpha=scale)


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        indptr: Tensor,
        indices: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: bool,
        transposed: CSR | None,
    ) -> Tensor:
        context.save_for_backward(indptr, indices, x if context.needs_input_grad[3] else None, weight)
        context.num_sources, context.mean, context.transposed = len(x), mean, transposed
        return _sum(indptr, indices, x, weight=weight, mean=mean)

    @staticmethod
    @once_differentiable  # by kernels, which autograd does not see: a second derivative would be a part of it
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indptr, indices, x, weight = context.saved_tensors
        gradient = gradients[0].contiguous()
        x_gradient = weight_gradient = None
        if context.needs_input_grad[2]:
            backward = context.transposed or transpose(indptr, indices, context.num_sources)
            scale = indptr.diff().clamp(min=1).to(gradient.dtype).reciprocal() if context.mean else None
            x_gradient = _sum(
                backward.indptr, backward.indices, gradient, edges=backward.edges, weight=weight, column_scale=scale
            )
        if context.needs_input_grad[3]:
            weight_gradient = _row_dots(indptr, indices, gradient, x, mean=context.mean)
        return None, None, x_gradient, weight_gradient, None, None


def _sum(
    indptr: Tensor,
    indices: Tensor,
    x: Tensor,
    *,
    edges: Tensor | None = None,
    weight: Tensor | None = None,
    column_scale: Tensor | None = None,
    mean: bool = False,
) -> Tensor:
    """`spmm` where entry e has the weight `weight[edges[e]] * column_scale[indices[e]]`, whichever are given."""
    if native.usable(indptr, indices, x, weight):
        out = x.new_empty(len(indptr) - 1, x.shape[1])
        name = native.typed("spmm", x, indices)
        native.call(name, indptr, len(out), indices, edges, weight, column_scale, mean, x, x.shape[1], out)
        return out
    if weight is not None and edges is not None:
        weight = weight[edges]
    if column_scale is not None:
        weight = column_scale[indices] if weight is None else weight * column_scale[indices]
    out = segments.weighted_sum(indptr, indices, weight, x)
    return out / indptr.diff().clamp(min=1)[:, None] if mean else out


def _row_dots(indptr: Tensor, indices: Tensor, a: Tensor, b: Tensor, *, mean: bool) -> Tensor:
    """`a[row of e] . b[indices[e]]` for each entry e, over the number of entries of its row where `mean`."""
    if native.usable(indptr, indices, a, b):
        out = a.new_empty(len(indices))
        name = native.typed("row_dots", a, indices)
        native.call(name, indptr, len(indptr) - 1, indices, a, b, a.shape[1], mean, out)
        return out
    if mean:
        a = a / indptr.diff().clamp(min=1)[:, None]
    return segments.row_dots(indptr, indices, a, b)

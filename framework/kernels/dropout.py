"""Dropout whose mask is a function of a key and of original ids, never of where or when a row is computed.

Assumptions: a row's id is its node's original id; keys of different layers, steps and purposes differ (`Key.fold`). An
element is dropped where its 32-bit draw is below floor(p * 2**32), and scaled by 1 / (1 - p) otherwise (Srivastava et
al., JMLR 15, 2014).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.errors import InputError
from framework.kernels import check, native
from framework.random import Key, philox

_MASK = 0xFFFFFFFF


def dropout(x: Tensor, p: float, key: Key, rows: Tensor) -> Tensor:
    """`x` with each element dropped with probability `p`; differentiable in `x`.

    `x` float32 or float64 [n, d]; `rows` int64 [n], the ids of its rows. Element (v, c) is decided by word c % 4 of
    Philox(key, (c // 4, v low, v high, 1)). Raises InputError for a `p` outside [0, 1)."""
    return _apply(x, p, key, rows, relu=False)


def relu_dropout(x: Tensor, p: float, key: Key, rows: Tensor) -> Tensor:
    """`dropout(relu(x), p, key, rows)` in one pass, with the same bits; differentiable in `x`."""
    return _apply(x, p, key, rows, relu=True)


def edge_dropout_scale(
    targets: Tensor, sources: Tensor, heads: int, p: float, key: Key, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Factors of edges for attention dropout, 0 or 1 / (1 - p): `dtype` [E, heads].

    `targets` and `sources` int64 [E] are original ids. Head h of edge (t, s) is decided by word h % 4 of Philox(key,
    (h // 4, t low, s low, 2 + ((t high * 2**15 xor s high) mod 2**30))). Raises InputError for a `p` outside [0, 1)."""
    threshold, scale = _threshold(p)
    targets = check.long("targets", targets)
    sources = check.long("sources", sources, len(targets))
    if dtype not in check.FEATURE_TYPES:
        raise InputError(f"dtype is {dtype}; expected torch.float32 or torch.float64.")
    out = torch.empty(len(targets), heads, dtype=dtype, device=targets.device)
    if native.usable(targets, sources):
        name = native.typed("edge_scale", out)
        native.call(name, targets, sources, len(targets), heads, key.value, threshold, scale, out)
        return out
    t, s = targets[:, None], sources[:, None]
    high = ((t >> 32 << 15) ^ (s >> 32 & _MASK)) & 0x3FFFFFFF
    draws = _words(philox(key.value, (_blocks(heads, targets), t, s, high + 2)), heads)
    return out.fill_(scale).masked_fill_(draws < threshold, 0)


def _apply(x: Tensor, p: float, key: Key, rows: Tensor, *, relu: bool) -> Tensor:
    x = check.features("x", x, (None, None))
    rows = check.long("rows", rows, len(x))
    threshold, scale = _threshold(p)
    if p == 0 and not relu:
        return x
    out: Tensor = _Dropout.apply(x, key, rows, threshold, scale, relu)  # type: ignore[no-untyped-call]
    return out


def _threshold(p: float) -> tuple[int, float]:
    if not 0 <= p < 1:
        raise InputError(f"the dropout probability is {p}; expected 0 <= p < 1.")
    return int(p * 2**32), 1 / (1 - p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, key: Key, rows: Tensor, threshold: int, scale: float, relu: bool) -> Tensor:
        out = _dropped(x, key, rows, threshold, scale, relu=relu)
        context.save_for_backward(rows, out if relu else None)
        context.key, context.threshold, context.scale, context.relu = key, threshold, scale, relu
        return out

    @staticmethod
    @once_differentiable  # by kernels, which autograd does not see: a second derivative would be a part of it
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, out = context.saved_tensors
        gradient = gradients[0].contiguous()
        if context.relu:
            x_gradient = _passed(gradient, out, context.scale)
        else:  # the mask is drawn again: cheaper than keeping it
            x_gradient = _dropped(gradient, context.key, rows, context.threshold, context.scale, relu=False)
        return x_gradient, None, None, None, None, None


def _dropped(x: Tensor, key: Key, rows: Tensor, threshold: int, scale: float, *, relu: bool) -> Tensor:
    if native.usable(x, rows):
        out = torch.empty_like(x)
        name = native.typed("dropout", x)
        native.call(name, x, rows, len(x), x.shape[1], key.value, threshold, scale, relu, out)
        return out
    ids = rows[:, None]
    draws = _words(philox(key.value, (_blocks(x.shape[1], x), ids, ids >> 32, 1)), x.shape[1])
    return torch.where(draws < threshold, 0, (torch.relu(x) if relu else x) * scale)


def _passed(gradient: Tensor, out: Tensor, scale: float) -> Tensor:
    """The gradient of what is above 0, which was neither cut nor dropped; 0 elsewhere."""
    if not native.usable(gradient, out):
        twin: Tensor = torch.ops.aten.threshold_backward(gradient, out, 0)
        return twin.mul_(scale)
    passed = torch.empty_like(gradient)
    native.call(native.typed("passed", gradient), gradient, out, gradient.numel(), scale, passed)
    return passed


def _blocks(width: int, like: Tensor) -> Tensor:
    """The counters that decide `width` columns, four columns each."""
    return torch.arange((width + 3) // 4, device=like.device)


def _words(draws: list[Tensor], width: int) -> Tensor:
    """The draws of `_blocks` by column: [..., width]."""
    return torch.stack(draws, dim=-1).flatten(start_dim=-2)[..., :width]

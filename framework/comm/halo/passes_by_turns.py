"""Sums and attention over a halo that comes by turns: rows are aggregated and freed, gradients go back turn by turn.

A sum's gradient needs no row of others. Attention has them come again in the backward pass. Attention over some of a
target's edges is joined with what there is by the logarithms of the sums of the exponentials, as an online softmax is
(Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867, 2018).
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from framework.comm.halo.link import Arrival, Lane
from framework.comm.halo.turns import Attention, InTurns, SplitByOwner, Turn

T = TypeVar("T")
AGAIN = "again"  # the leg of rows that come a second time


def summed(owned: Tensor, split: SplitByOwner, exchange: InTurns, layer: int, *, mean: bool) -> Tensor:
    """[n, columns] -> [n, columns]: sum or mean over neighbourhoods. Differentiable."""
    out: Tensor = _Sum.apply(owned.contiguous(), split, exchange, layer)  # type: ignore[no-untyped-call]
    return out / split.counts.to(out.dtype) if mean else out


def attended(
    how: Attention,
    values: Tensor,
    source_scores: Tensor,
    target_scores: Tensor,
    split: SplitByOwner,
    exchange: InTurns,
    layer: int,
) -> Tensor:
    """Values [n, heads, columns] and scores [n, heads] of owned nodes -> [n, heads, columns]. Differentiable."""
    inputs = (values.contiguous(), source_scores.contiguous(), target_scores.contiguous())
    out: Tensor = _Attend.apply(*inputs, how, split, exchange, layer)  # type: ignore[no-untyped-call]
    return out


def under_way(started: Iterator[T], ahead: int) -> Iterator[T]:
    """The items of `started`, each taken from it while the one `ahead` + 1 before it is still with the caller.

    The first are taken at once. What the caller lets go of is freed before the next is taken."""
    waiting = deque(islice(started, ahead + 1))

    def one_by_one() -> Iterator[T]:
        while waiting:
            yield waiting.popleft()
            waiting.extend(islice(started, 1))

    return one_by_one()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owned: Tensor, split: SplitByOwner, exchange: InTurns, layer: int) -> Tensor:
        ctx.split, ctx.exchange, ctx.layer = split, exchange, layer
        lane = Lane(layer=layer, towards="halo", backward=False)
        fetched = ((turn, turn.fetch(turn.copies(owned), lane)) for turn in exchange.turns)
        coming = under_way(fetched, exchange.ahead)
        out = split.inner.sum(owned)
        for turn, arrival in coming:
            split.outer[turn.source].half.add_to(out, arrival.wait())
            del arrival  # its rows are to be free when the next ones come
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, split, exchange = gradients[0].contiguous(), ctx.split, ctx.exchange
        lane = Lane(layer=ctx.layer, towards="owners", backward=True)
        given = (
            (turn, turn.give_back(split.outer[turn.source].half.backward(gradient), lane)) for turn in exchange.turns
        )
        coming = under_way(given, exchange.ahead)
        owned = split.inner.backward(gradient)
        for turn, arrival in coming:
            turn.add_to(owned, arrival.wait())
            del arrival
        return owned, None, None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        how: Attention,
        split: SplitByOwner,
        exchange: InTurns,
        layer: int,
    ) -> Tensor:
        ctx.how, ctx.split, ctx.exchange, ctx.layer = how, split, exchange, layer
        coming = _fetched(values, source_scores, exchange, Lane(layer=layer, towards="halo", backward=False))
        out, totals = split.attend_inside(how, values, source_scores, target_scores)
        for turn, arrival in coming:
            piece = split.outer[turn.source]
            part, part_totals = piece.attend(how, *_unpacked(arrival.wait(), values), target_scores[piece.rows])
            del arrival
            _join(out, totals, piece.rows, part, part_totals)
        ctx.save_for_backward(values, source_scores, target_scores, out, totals)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, source_scores, target_scores, out, totals = ctx.saved_tensors
        how, split, exchange, gradient = ctx.how, ctx.split, ctx.exchange, gradients[0].contiguous()
        along = _dots(gradient, out)
        again = Lane(layer=ctx.layer, towards="halo", backward=False, leg=AGAIN)
        coming = _fetched(values, source_scores, exchange, again)
        inside = functools.partial(split.attend_inside, how)
        owned, target_gradient = _gradients(
            inside, (values, source_scores, target_scores), totals, gradient.clone(), along
        )

        def given() -> Iterator[tuple[Turn, Arrival]]:
            lane = Lane(layer=ctx.layer, towards="owners", backward=True)
            for turn, arrival in coming:
                piece = split.outer[turn.source]
                inputs, rows = (*_unpacked(arrival.wait(), values), target_scores[piece.rows]), piece.rows
                del arrival
                attend = functools.partial(piece.attend, how)
                packed, of_targets = _gradients(attend, inputs, totals[rows], gradient[rows], along[rows])
                del inputs
                target_gradient.index_add_(0, rows, of_targets)
                yield turn, turn.give_back(packed, lane)

        for turn, arrival in under_way(given(), exchange.ahead):
            turn.add_to(owned, arrival.wait())
            del arrival
        return *_unpacked(owned, values), target_gradient, None, None, None, None


def _fetched(values: Tensor, source_scores: Tensor, exchange: InTurns, lane: Lane) -> Iterator[tuple[Turn, Arrival]]:
    """Every turn's rows of values and scores, on their way."""
    return under_way(
        (
            (turn, turn.fetch(torch.cat([turn.copies(values).flatten(1), turn.copies(source_scores)], dim=1), lane))
            for turn in exchange.turns
        ),
        exchange.ahead,
    )


def _unpacked(rows: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [r, heads * columns + heads] as values and scores, of the shape that `like` [n, heads, columns] has."""
    heads, columns = like.shape[1:]
    values, scores = rows.split_with_sizes([heads * columns, heads], dim=1)
    return values.reshape(-1, heads, columns), scores.contiguous()


def _join(out: Tensor, totals: Tensor, rows: Tensor, part: Tensor, part_totals: Tensor) -> None:
    """Takes the attention of some targets over further edges into that over earlier ones, in place."""
    before = totals[rows]
    together = torch.logaddexp(before, part_totals)
    kept = torch.ones_like(totals)
    kept[rows] = (before - together).exp_()
    out.mul_(kept.unsqueeze(2)).index_add_(0, rows, part.mul_((part_totals - together).exp_().unsqueeze(2)))
    totals[rows] = together


def _gradients(
    attend: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, Tensor, Tensor],
    totals: Tensor,
    gradient: Tensor,
    along: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradient through attention over some of the edges, computed once more: values and scores side by side, as
    rows travel, and of the targets' scores.

    `totals`: over all edges; `gradient`: of the whole, and used up; `along`: its dot product with the whole."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    with torch.enable_grad():
        part, part_totals = attend(*leaves)
    # The whole is the sum of its parts times exp(part's total - total), which sum to 1.
    share = (part_totals.detach() - totals).exp_()
    of_total = (_dots(gradient, part.detach()) - along).mul_(share)
    of_part = gradient.mul_(share.unsqueeze(2))
    values, scores, target_scores = torch.autograd.grad((part, part_totals), leaves, (of_part, of_total))
    del part, of_part
    return torch.cat([values.flatten(1), scores], dim=1), target_scores


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """[n, heads, columns] twice -> [n, heads]."""
    return torch.einsum("nhc,nhc->nh", one, other)

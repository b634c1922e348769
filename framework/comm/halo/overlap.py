"""Rows that other workers wait for, sent before the others are computed; and sums, before those of others have come.

The rows of a layer are made span by span: those that others have in their halo first, which are then under way while
the rest is computed; and of the next layer those whose neighbours are all here, before what is under way is waited for.
The backward pass goes the other way round by itself, for what was made last is undone first: the gradients of the halo
are sent off, the rest is undone, and what the owners get back is waited for only then.

Assumption: in a part the nodes that other parts need come first (framework/graph/shard.py). Where they do not, spans
that others need, or that lack neighbours, are longer, and nothing is wrong.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.link import Arrival, Lane
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Span
from framework.graph.split import Half, SplitBlock

MOST = 8  # spans that a worker's rows are worth splitting into


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """The rows of a worker's nodes in spans, so that computing and communication overlap."""

    spans: Sequence[Span]
    """All n rows."""
    plan: HaloPlan
    """The plan, its rows counted among those of the spans that others need, joined."""

    @classmethod
    def of(cls, plan: HaloPlan, lacking: Tensor, starts: Sequence[int]) -> "Overlap | None":
        """`lacking`: int64, the rows with neighbours in the halo, increasing; `starts`: the first row of each part,
        increasing. None where there is little to gain: no row is sent, or lacks any, or more than half the rows are in
        spans of such, or there are more than MOST spans, each of which costs a look at all rows."""
        needed, lacking = (_marked(rows.cpu(), plan.num_owned) for rows in (plan.boundary, lacking))
        bounds = {0}
        for start, end in itertools.pairwise([*starts, plan.num_owned]):
            inside = torch.nonzero(needed[start:end])
            bounds |= {start, start + int(inside[-1]) + 1 if len(inside) else start}
        ordered = sorted({*bounds, plan.num_owned})
        spans = [
            Span(
                first=first,
                count=last - first,
                boundary=bool(needed[first:last].any()),
                remote=bool(lacking[first:last].any()),
            )
            for first, last in itertools.pairwise(ordered)
        ]
        apart = sum(span.count for span in spans if span.boundary or span.remote)
        if not len(plan.boundary) or not lacking.any() or 2 * apart > plan.num_owned or len(spans) > MOST:
            return None
        where, before = torch.full((plan.num_owned,), -1), 0
        for span in spans:
            if span.boundary:
                where[span.first : span.first + span.count] = torch.arange(before, before + span.count)
                before += span.count
        where = where.to(plan.wanted.device)
        among = dataclasses.replace(plan, num_owned=before, wanted=where[plan.wanted], boundary=where[plan.boundary])
        return cls(spans=tuple(spans), plan=among)


def _marked(rows: Tensor, count: int) -> Tensor:
    marks = torch.zeros(count, dtype=torch.bool)
    marks[rows] = True
    return marks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitSpans:
    """The edges of a layer, by the spans of their targets, which are counted from the span's first."""

    inner: Sequence[Half]
    """From owned nodes, to each span."""
    outer: Sequence[Half]
    """From the halo, to each span that lacks neighbours."""
    counts: Sequence[Tensor]
    """int64 [rows, 1] of each span: edges of each row, at least 1; what a mean divides by."""

    @classmethod
    def of(cls, split: SplitBlock, spans: Sequence[Span]) -> "SplitSpans":
        """Splits a layer once more. No edge is copied."""
        return cls(
            inner=[split.inner.span(span.first, span.count) for span in spans],
            outer=[split.outer.span(span.first, span.count) for span in spans if span.remote],
            counts=[split.counts[span.first : span.first + span.count] for span in spans],
        )


class Flight:
    """A layer's rows on their way, and, in the backward pass, their gradients."""

    def __init__(self) -> None:
        self.rows: Arrival | None = None  # what will come to the halo
        self.gradients: Arrival | None = None  # what will come back to the owners
        self.outer: Sequence[Half] = ()  # the edges that are summed when rows have come, by spans
        self.scales: Sequence[Tensor] | None = None  # what the sums of these spans are multiplied by; None: 1


def sent(spans: Sequence[Tensor], overlap: Overlap, exchange: HaloExchange, layer: int) -> tuple[list[Tensor], Flight]:
    """Sends the rows of the spans that others need. Returns them, to go on with, and the flight. Differentiable."""
    flight = Flight()
    out: tuple[Tensor, ...] = _Send.apply(flight, overlap.plan, exchange, layer, *spans)  # type: ignore[no-untyped-call]
    return list(out), flight


def summed_inside(x: Tensor, spans: Sequence[Span], split: SplitSpans, flight: Flight, *, mean: bool) -> list[Tensor]:
    """[n, columns] -> [rows, columns] of each span: what owned nodes add to its sums or means. Differentiable.

    Tells the flight what is to be added when it has landed."""
    scales = [counts.to(x.dtype).reciprocal() for counts in split.counts] if mean else None
    flight.outer = split.outer
    if scales is not None:
        flight.scales = [scale for span, scale in zip(spans, scales, strict=True) if span.remote]
    out: tuple[Tensor, ...] = _Inside.apply(x, split.inner, scales)  # type: ignore[no-untyped-call]
    return list(out)


def landed(sums: Sequence[Tensor], flight: Flight, exchange: HaloExchange, layer: int) -> list[Tensor]:
    """Adds the sums over the halo to those of the spans that lack them, in place. Differentiable."""
    out: tuple[Tensor, ...] = _Land.apply(flight, exchange, layer, *sums)  # type: ignore[no-untyped-call]
    return list(out)


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flight: Flight, plan: HaloPlan, exchange: HaloExchange, layer: int, *spans: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.flight, ctx.plan = flight, plan
        copies = plan.copies(spans[0] if len(spans) == 1 else torch.cat(spans))
        flight.rows = exchange.to_halo(copies, Lane(layer=layer, towards="halo", backward=False))
        return tuple(span.view_as(span) for span in spans)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        arrival, ctx.flight.gradients = ctx.flight.gradients, None  # a graph may live on, what came need not
        assert arrival is not None, "rows were sent that no sum has used"
        whole = ctx.plan.add_to(torch.cat(gradients), arrival.wait())  # a copy, for it is added to
        return None, None, None, None, *whole.split_with_sizes([len(span) for span in gradients])


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: Sequence[Half], scales: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
        ctx.halves, ctx.scales = halves, scales
        sums = [half.sum(x) for half in halves]
        return tuple(sums if scales is None else map(torch.mul, sums, scales))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx.halves, gradients, ctx.scales), None, None


class _Land(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flight: Flight, exchange: HaloExchange, layer: int, *sums: Tensor) -> tuple[Tensor, ...]:
        ctx.flight, ctx.exchange, ctx.layer = flight, exchange, layer
        arrival, flight.rows = flight.rows, None
        assert arrival is not None, "rows are waited for that were not sent"
        halo, share = arrival.wait(), 1 / exchange.share
        for number, (half, out) in enumerate(zip(flight.outer, sums, strict=True)):
            if flight.scales is None:
                half.add_to(out, halo, share)
            else:
                out.addcmul_(half.add_to(torch.zeros_like(out), halo, share), flight.scales[number])
        ctx.mark_dirty(*sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flight, exchange = ctx.flight, ctx.exchange
        outer = _backward(flight.outer, gradients, flight.scales).div_(exchange.share)
        flight.gradients = exchange.to_owners(outer, Lane(layer=ctx.layer, towards="owners", backward=True))
        return None, None, None, *gradients


def _backward(halves: Sequence[Half], gradients: Sequence[Tensor], scales: Sequence[Tensor] | None) -> Tensor:
    """The gradient of the rows that sums of each span are made of."""
    out: Tensor | None = None
    for number, (half, gradient) in enumerate(zip(halves, gradients, strict=True)):
        scaled = gradient.contiguous() if scales is None else gradient * scales[number]
        out = half.backward(scaled) if out is None else half.transposed.add_times(out, None, scaled, 1.0)
    assert out is not None, "there is at least one span"
    return out

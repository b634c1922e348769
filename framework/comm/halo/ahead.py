"""Rows that other workers wait for, sent before the others are computed.

The rows of a layer are made piece by piece, first those that others have in their halo, which are then under way while
the rest is computed. The backward pass goes the other way round by itself, for what was made last is undone first: the
gradients of the halo are sent off, the rest is undone, and what the owners get back is waited for only then.

Assumption: in a part the nodes that other parts need come first (framework/graph/shard.py). Where they do not, a piece
that others need is longer, and nothing is wrong.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.link import Arrival, Lane
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Piece


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ahead:
    """The rows of a worker's nodes in pieces."""

    pieces: Sequence[Piece]
    """All n rows."""
    plan: HaloPlan
    """The plan, its rows counted among those of the pieces that others need, joined."""

    @classmethod
    def of(cls, plan: HaloPlan, starts: Sequence[int]) -> "Ahead | None":
        """`starts`: the first row of each part, increasing. None where there is nothing to gain: all rows are needed by
        others, or none is."""
        pieces, where, before = list[Piece](), torch.full((plan.num_owned,), -1), 0
        boundary = plan.boundary.cpu()
        for start, end in zip(starts, [*starts[1:], plan.num_owned], strict=True):
            needed = boundary[(boundary >= start) & (boundary < end)]
            last = int(needed.max()) + 1 if len(needed) else start
            where[start:last] = torch.arange(before, before + last - start)
            before += last - start
            pieces += [Piece(first=start, count=last - start, sent=True), Piece(first=last, count=end - last)]
        pieces = [piece for piece in pieces if piece.count]
        if len({piece.sent for piece in pieces}) < 2:
            return None
        where = where.to(plan.wanted.device)
        among = dataclasses.replace(plan, num_owned=before, wanted=where[plan.wanted], boundary=where[plan.boundary])
        return cls(pieces=tuple(pieces), plan=among)


@dataclasses.dataclass(kw_only=True, eq=False)
class Flight:
    """A layer's rows on their way, and, in the backward pass, their gradients."""

    rows: Arrival | None = None
    """What will come to the halo."""
    gradients: Arrival | None = None
    """What will come back to the owners."""

    def landed(self) -> Tensor:
        """The halo's rows."""
        assert self.rows is not None, "a layer was summed before its rows were sent"
        return self.rows.wait()


def sent(pieces: Sequence[Tensor], ahead: Ahead, exchange: HaloExchange, layer: int) -> tuple[list[Tensor], Flight]:
    """Sends the rows of the pieces that others need. Returns them, to go on with, and the flight, which is to be given
    to the layer's sum. Differentiable."""
    flight = Flight()
    out: tuple[Tensor, ...] = _Send.apply(flight, ahead.plan, exchange, layer, *pieces)  # type: ignore[no-untyped-call]
    return list(out), flight


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flight: Flight, plan: HaloPlan, exchange: HaloExchange, layer: int, *pieces: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.flight, ctx.plan = flight, plan
        copies = plan.copies(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
        flight.rows = exchange.to_halo(copies, Lane(layer=layer, towards="halo", backward=False))
        return tuple(piece.view_as(piece) for piece in pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.flight.gradients is not None, "rows were sent that no sum has used"
        rows = torch.cat(gradients)  # a copy, for it is added to
        whole = ctx.plan.add_to(rows, ctx.flight.gradients.wait())
        return None, None, None, None, *whole.split([len(piece) for piece in gradients])

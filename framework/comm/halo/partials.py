"""A vertex-cut in the forward and the backward pass: rows go to mirrors, partial sums come back to owners.

Every worker sums over the edges that it has, for nodes it owns and for nodes it has a mirror of; the sum of a
neighbourhood is the sum of these partial sums, added in the order of the workers. The backward pass is the mirror
image: gradients of sums go to mirrors, partial gradients of rows come back to owners.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.link import Lane
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Block
from framework.graph.split import Half, half_from
from framework.kernels.aggregate import spmm


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quarters:
    """The edges of a worker by both their ends. n owned nodes, h mirrors; either are counted from 0."""

    own_to_own: Half
    """No other worker is needed for these."""
    own_to_mirror: Half
    """Their sums are another worker's."""
    mirror_to_own: Half
    """Their rows are another worker's."""
    mirror_to_mirror: Half
    """Both."""

    @classmethod
    def of(cls, block: Block) -> "Quarters":
        """Splits a block whose n + h sources are its targets, of which it owns the first n."""
        owned, mirrors = block.num_owned, len(block.sources) - block.num_owned
        home, away = _rows(block, 0, owned), _rows(block, owned, mirrors)
        return cls(
            own_to_own=half_from(home, 0, owned, every_row=True),
            own_to_mirror=half_from(away, 0, owned, every_row=True),
            mirror_to_own=half_from(home, owned, mirrors, every_row=False),
            mirror_to_mirror=half_from(away, owned, mirrors, every_row=False),
        )


def _rows(block: Block, first: int, count: int) -> Block:
    """The edges of `count` targets, of which `first` is the first."""
    indptr = block.indptr[first : first + count + 1]
    entries = slice(int(indptr[0]), int(indptr[-1]))
    return dataclasses.replace(
        block,
        num_targets=count,
        masters=None,
        indptr=indptr - indptr[0],
        indices=block.indices[entries],
        edge_weights=None if block.edge_weights is None else block.edge_weights[entries],
    )


def summed(owned: Tensor, quarters: Quarters, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
    """[n, columns] -> [n, columns]: sums over whole neighbourhoods. Differentiable.

    In both passes, what needs no row that is under way is computed meanwhile."""
    out: Tensor = _Sum.apply(owned, quarters, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return out


def reduced(partial: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
    """[n + h, columns] partial sums -> [n, columns]: those of all workers added up. Differentiable."""
    out: Tensor = _Reduce.apply(partial, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return out


def replicated(partial: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
    """[n + h, columns] partial sums -> [n + h, columns]: those of all workers added up, at mirrors too. Differentiable.

    Owners have what comes of mirrors, and send each mirror what the others have; a worker's own sums do not travel back
    to it, so that they are never late."""
    out: Tensor = _Replicate.apply(partial, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return out


def gathered(mirrors: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
    """[h, columns] -> [sent, columns]: what every worker has for its mirrors, at their owners. Differentiable."""
    out: Tensor = _Gather.apply(mirrors, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return out


def scattered(copies: Tensor, exchange: HaloExchange, layer: int) -> Tensor:
    """[sent, columns], a row for every mirror -> [h, columns], at the mirrors. Differentiable."""
    mirrors: Tensor = _Scatter.apply(copies, exchange, layer)  # type: ignore[no-untyped-call]
    return mirrors


def _lanes(layer: int, *, backward: bool, apart: bool = False) -> tuple[Lane, Lane]:
    """The lanes of a pass, towards mirrors and towards owners."""
    return (
        Lane(layer=layer, towards="halo", backward=backward, apart=apart),
        Lane(layer=layer, towards="owners", backward=backward, apart=apart),
    )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owned: Tensor, quarters: Quarters, plan: HaloPlan, exchange: HaloExchange, layer: int
    ) -> Tensor:
        ctx.quarters, ctx.plan, ctx.exchange, ctx.layer = quarters, plan, exchange, layer
        outwards, back = _lanes(layer, backward=False)
        coming = exchange.to_halo(plan.copies(owned), outwards)
        home, away = quarters.own_to_own.sum(owned), quarters.own_to_mirror.sum(owned)
        mirrors = coming.wait()
        quarters.mirror_to_mirror.add_to(away, mirrors, 1 / exchange.share)
        returning = exchange.to_owners(away, back)
        quarters.mirror_to_own.add_to(home, mirrors, 1 / exchange.share)
        return plan.add_to(home, _scaled(returning.wait(), exchange))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        quarters, plan, exchange = ctx.quarters, ctx.plan, ctx.exchange
        outwards, back = _lanes(ctx.layer, backward=True)
        home = gradients[0].contiguous()
        coming = exchange.to_halo(plan.copies(home), outwards)
        owned, mirrors = quarters.own_to_own.backward(home), quarters.mirror_to_own.backward(home)
        away = _scaled(coming.wait(), exchange)
        mirrors += quarters.mirror_to_mirror.backward(away)
        returning = exchange.to_owners(_scaled(mirrors, exchange), back)
        owned += quarters.own_to_mirror.backward(away)
        return plan.add_to(owned, returning.wait()), None, None, None, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
        ctx.plan, ctx.exchange, ctx.layer = plan, exchange, layer
        home, away = partial.split_with_sizes([plan.num_owned, plan.num_halo])
        returning = exchange.to_owners(away, _lanes(layer, backward=False)[1])
        return plan.add_to(home.clone(memory_format=torch.contiguous_format), _scaled(returning.wait(), exchange))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        home = gradients[0]
        coming = ctx.exchange.to_halo(ctx.plan.copies(home), _lanes(ctx.layer, backward=True)[0])
        return torch.cat([home, _scaled(coming.wait(), ctx.exchange)]), None, None, None


class _Replicate(torch.autograd.Function):
    """Every worker's sum is the sum of all, so its gradient is the sum of all gradients: the same once more."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
        ctx.plan, ctx.exchange, ctx.layer = plan, exchange, layer
        return _replicated(partial, plan, exchange, _lanes(layer, backward=False))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        lanes = _lanes(ctx.layer, backward=True)
        return _replicated(gradients[0], ctx.plan, ctx.exchange, lanes), None, None, None


def _replicated(partial: Tensor, plan: HaloPlan, exchange: HaloExchange, lanes: tuple[Lane, Lane]) -> Tensor:
    outwards, back = lanes
    home, away = partial.split_with_sizes([plan.num_owned, plan.num_halo])
    copies = exchange.to_owners(away, back).wait()
    siblings, _ = plan.siblings
    with plan.group.timed("packing"):
        others = spmm(siblings.indptr, siblings.indices, torch.cat([home[plan.boundary], copies]))
    coming = exchange.to_halo(others, outwards)
    whole = plan.add_to(home.clone(memory_format=torch.contiguous_format), copies)
    return torch.cat([whole, away + coming.wait()])


class _Scatter(torch.autograd.Function):
    """What an owner has for a row's mirrors stays apart, and so do its gradients."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, exchange: HaloExchange, layer: int) -> Tensor:
        ctx.exchange, ctx.layer = exchange, layer
        return exchange.to_halo(copies, _lanes(layer, backward=False, apart=True)[0]).wait().detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        lane = _lanes(ctx.layer, backward=True, apart=True)[1]
        return ctx.exchange.to_owners(gradients[0].contiguous(), lane).wait(), None, None


class _Gather(torch.autograd.Function):
    """What a row's mirrors have stays apart, and so do its gradients."""

    @staticmethod
    def forward(ctx: Any, mirrors: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
        ctx.exchange, ctx.layer = exchange, layer
        copies = exchange.to_owners(mirrors, _lanes(layer, backward=False, apart=True)[1]).wait()
        return copies.detach()  # a strategy may keep what it gives, which must not become part of a step's graph

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        lane = _lanes(ctx.layer, backward=True, apart=True)[0]
        return ctx.exchange.to_halo(gradients[0].contiguous(), lane).wait(), None, None, None


def _scaled(rows: Tensor, exchange: HaloExchange) -> Tensor:
    """Rows of which the strategy lets only a share come, so that sums over them stay unbiased."""
    return rows if exchange.share == 1 else rows / exchange.share

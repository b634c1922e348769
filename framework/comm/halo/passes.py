"""The halo in the forward and the backward pass: rows come before a layer, their gradients go back after it."""

from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.link import Lane
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.split import SplitBlock


def fill(owned: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
    """[n, columns] -> [n + h, columns]: owned rows, then the halo's. Differentiable."""
    filled: Tensor = _Fill.apply(owned, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return filled


def summed(
    owned: Tensor, split: SplitBlock, plan: HaloPlan, exchange: HaloExchange, layer: int, *, mean: bool
) -> Tensor:
    """[n, columns] -> [n, columns]: sum or mean over neighbourhoods. Differentiable.

    What can be computed without other workers is, in both passes, while their rows are under way."""
    out: Tensor = _Sum.apply(owned, split, plan, exchange, layer)  # type: ignore[no-untyped-call]
    return out / split.counts.to(out.dtype) if mean else out


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owned: Tensor, plan: HaloPlan, exchange: HaloExchange, layer: int) -> Tensor:
        ctx.plan, ctx.exchange, ctx.layer = plan, exchange, layer
        arrival = exchange.to_halo(plan.copies(owned), Lane(layer=layer, towards="halo", backward=False))
        return torch.cat([owned, arrival.wait()])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        owned, halo = gradients[0].split_with_sizes([ctx.plan.num_owned, ctx.plan.num_halo])
        arrival = ctx.exchange.to_owners(halo, Lane(layer=ctx.layer, towards="owners", backward=True))
        return ctx.plan.add_to(owned.clone(memory_format=torch.contiguous_format), arrival.wait()), None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owned: Tensor, split: SplitBlock, plan: HaloPlan, exchange: HaloExchange, layer: int
    ) -> Tensor:
        ctx.split, ctx.plan, ctx.exchange, ctx.layer = split, plan, exchange, layer
        arrival = exchange.to_halo(plan.copies(owned), Lane(layer=layer, towards="halo", backward=False))
        out = split.inner.sum(owned)
        return split.outer.add_to(out, arrival.wait(), 1 / exchange.share)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, split = gradients[0].contiguous(), ctx.split
        outer = split.outer.backward(gradient).div_(ctx.exchange.share)
        arrival = ctx.exchange.to_owners(outer, Lane(layer=ctx.layer, towards="owners", backward=True))
        inner = split.inner.backward(gradient)
        others = arrival.wait()
        del outer, arrival  # what was sent is free before what came is summed
        return ctx.plan.add_to(inner, others), None, None, None, None

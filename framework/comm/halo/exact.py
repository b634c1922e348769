"""Exact halo exchange: every row, every layer, forward and backward; training equals that of one process."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.registry import HALOS


@HALOS.register("exact")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """Every boundary row before every layer, and its gradient back."""

    def open(self, plan: HaloPlan) -> HaloExchange:
        """The exchange over `plan`."""
        return ExactExchange(plan)


class ExactExchange:
    """Rows to whoever has them in its halo; gradients of the halo's rows back to their owners."""

    def __init__(self, plan: HaloPlan) -> None:
        self.plan = plan

    def fill(self, owned: Tensor, layer: int) -> Tensor:
        """[n, columns] -> [n + h, columns]."""
        filled: Tensor = _Fill.apply(owned, self.plan)  # type: ignore[no-untyped-call]
        return filled


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owned: Tensor, plan: HaloPlan) -> Tensor:
        ctx.plan = plan
        return torch.cat([owned, plan.to_halo(owned)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        owned, halo = gradient.split_with_sizes([ctx.plan.num_owned, len(gradient) - ctx.plan.num_owned])
        return owned + ctx.plan.to_owners(halo), None

"""Clipping: a gradient that is too long is scaled down before the optimiser's step (Pascanu et al., ICML 2013).

Assumptions: the norm is of all weights together, so whoever holds pieces of them adds up the squares of all workers.
An optimiser carries its clip, and gradient strategies that cut gradients into pieces tell it so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CARRIED = "clip"  # the attribute of a torch optimiser
_LEAST = 1e-6  # what is added to a norm before it divides, as torch.nn.utils.clip_grad_norm_ does


class Clip:
    """Scales an optimiser's gradients down to a norm before each of its steps."""

    def __init__(self, norm: float) -> None:
        """`norm`: the longest that a gradient may be."""
        self.norm = norm
        self._over_workers: Callable[[Tensor], Tensor] | None = None
        self._elsewhere = False

    @classmethod
    def attach(cls, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """From now on `optimizer` clips."""
        clip = cls(norm)
        setattr(optimizer, _CARRIED, clip)
        optimizer.register_step_pre_hook(clip)

    @staticmethod
    def of(optimizer: torch.optim.Optimizer) -> "Clip | None":
        """The clip that an optimiser carries, if it does."""
        found = getattr(optimizer, _CARRIED, None)
        return found if isinstance(found, Clip) else None

    def add_up(self, over_workers: Callable[[Tensor], Tensor]) -> None:
        """The optimiser has pieces of gradients: `over_workers` is the sum of what all workers give it, a number."""
        self._over_workers = over_workers

    def leave(self) -> None:
        """Somebody else clips to this norm."""
        self._elsewhere = True

    def __call__(self, optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        """Before a step. Squares are added up in float64: their order shows in no result that is compared."""
        if self._elsewhere:
            return
        gradients = [
            weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None
        ]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
        device = optimizer.param_groups[0]["params"][0].device
        squares = torch.stack(norms).square().sum() if norms else torch.zeros((), dtype=torch.float64, device=device)
        if self._over_workers is not None:
            squares = self._over_workers(squares)
        factor = (self.norm / (squares.sqrt() + _LEAST)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.to(gradient.dtype))


def add_up_clip(optimizer: torch.optim.Optimizer, over_workers: Callable[[Tensor], Tensor]) -> None:
    """Tells the clip of an optimiser, if it carries one, that it has pieces of gradients: see `Clip.add_up`."""
    if (clip := Clip.of(optimizer)) is not None:
        clip.add_up(over_workers)

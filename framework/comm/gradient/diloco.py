"""DiLoCo: many inner steps alone, then one outer step with Nesterov momentum on how far the workers came.

Douillard et al., "DiLoCo: Distributed low-communication training of language models", 2023 (arXiv 2311.08105),
algorithm 1: the outer gradient is the weights after the last outer step less the mean of the workers' weights now.
A weight that no worker has moved since then rests, as under an optimiser that is given no gradient: momentum that is
left from before moves it no further.
Exact limit: inner_steps=1, outer_lr=1, outer_momentum=0 with SGD is all-reduce.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import refuse_own_statistics
from framework.comm.gradient.collect import anywhere, average, trainable
from framework.comm.gradient.local import LocalReplica
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.errors import InputError
from framework.registry import GRADIENTS


@GRADIENTS.register("diloco")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DiLoCo:
    """Many steps alone, then one outer step with momentum (Douillard et al., 2023). Exact for one step, outer lr 1."""

    inner_steps: int = 50
    """Steps of a worker's own between two outer steps."""
    outer_lr: float = 0.7
    """Learning rate of the outer step; 1 without momentum is a plain average."""
    outer_momentum: float = 0.9
    """Nesterov momentum of the outer steps."""

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise InputError(f"--gradient.inner-steps is {self.inner_steps}; expected at least 1.")
        if not 0 < self.outer_lr < float("inf"):
            raise InputError(f"--gradient.outer-lr is {self.outer_lr}; expected a number above 0.")
        if not 0 <= self.outer_momentum < 1:
            raise InputError(f"--gradient.outer-momentum is {self.outer_momentum}; expected from 0 up to, but not, 1.")

    @contextlib.contextmanager
    def open(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> Iterator[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises InputError for statistics that a worker would keep to itself."""
        if group.size > 1:
            refuse_own_statistics(model, group)
        yield LocalReplica(model, optimizer, group, self.inner_steps, _OuterStep(model, group, self))


class _OuterStep:
    """A step of the weights that all workers had after the last one, towards the mean of what they have now."""

    def __init__(self, model: nn.Module, group: Group, settings: DiLoCo) -> None:
        self._group = group
        self.shares_moments = group.size == 1  # the inner optimiser's stay a worker's own, as in the paper
        self._outer = [nn.Parameter(weight.detach().clone()) for weight in trainable(model)]
        momentum = settings.outer_momentum
        self._optimizer = torch.optim.SGD(self._outer, lr=settings.outer_lr, momentum=momentum, nesterov=momentum > 0)

    def meet(self, weights: list[nn.Parameter]) -> None:
        pairs = list(zip(self._outer, weights, strict=True))
        moved = anywhere(self._group, [not torch.equal(outer, weight) for outer, weight in pairs])
        average(self._group, [weight.data for weight in weights], "gradient")
        for (outer, weight), any_worker in zip(pairs, moved, strict=True):
            outer.grad = outer.detach() - weight if any_worker else None
        self._optimizer.step()
        for outer, weight in zip(self._outer, weights, strict=True):
            weight.copy_(outer)

    def state(self) -> dict[str, Tensor]:
        state = {}
        for index, weight in enumerate(self._outer):
            state[f"weight.{index}"] = weight.detach()
            buffer = self._optimizer.state[weight].get("momentum_buffer")
            if buffer is not None:
                state[f"momentum.{index}"] = buffer
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        for index, weight in enumerate(self._outer):
            weight.data.copy_(state[f"weight.{index}"])
            if f"momentum.{index}" in state:
                self._optimizer.state[weight]["momentum_buffer"] = state[f"momentum.{index}"].to(weight.device)

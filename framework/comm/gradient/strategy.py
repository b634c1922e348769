"""The contract of a gradient strategy."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from framework.comm.group import Group


@runtime_checkable
class GradientSynchronizer(Protocol):
    """A gradient strategy at work: a model, an optimiser, and how they stay those of all workers."""

    @property
    def module(self) -> nn.Module:
        """What the training loop calls; its loss's backward pass leaves gradients for `step`."""

    @property
    def shared(self) -> bool:
        """Whether the optimiser's state is the same on every worker now. A checkpoint holds it once then; otherwise
        every worker's own."""

    def step(self) -> None:
        """One step of the optimiser, after the backward pass, and what the workers tell each other around it."""

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The model with the weights to evaluate and to keep, the same on every worker. All workers enter together."""

    def state(self) -> dict[str, Tensor]:
        """What this worker keeps for itself beside the optimiser: residuals, weights of its own. Often empty."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave, on the same worker of a group as large."""


@runtime_checkable
class GradientStrategy(Protocol):
    """How the workers agree on a gradient. The loss of a worker is its part of the global mean: parts are added."""

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
    ) -> AbstractContextManager[GradientSynchronizer]:
        """Takes over `model`, whose weights are the same on every worker, and an `optimizer` that has not stepped yet;
        on leaving, hooks are taken off. Raises LostWorkerError out of its body."""

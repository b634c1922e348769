"""The contract of a gradient strategy."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from framework.comm.group import Group


@runtime_checkable
class GradientStrategy(Protocol):
    """How the workers agree on a gradient. The loss of a worker is its part of the global mean: parts are added."""

    def wrap(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
    ) -> AbstractContextManager[nn.Module]:
        """The module to call in the training loop; on leaving, hooks on model and optimiser are taken off."""

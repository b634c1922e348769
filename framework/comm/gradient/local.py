"""Workers that step by themselves and meet every so many steps: what local SGD and DiLoCo share.

Assumptions: a worker's loss is its part of the global mean, so its gradient times the number of workers stands for the
gradient of the whole, whatever its share of a batch: the mean of the workers' steps is then the step on the sum. The
weights start equal. Between two meetings the weights to evaluate and to keep are the mean of all workers' weights,
which changes nothing of what is trained.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from framework.comm.gradient.collect import average, trainable
from framework.comm.group import Group


class Meeting(Protocol):
    """What happens when the workers meet."""

    @property
    def shares_moments(self) -> bool:
        """Whether the optimiser's state is the same on every worker afterwards."""

    def meet(self, weights: list[nn.Parameter]) -> None:
        """Makes the workers' different weights one, in place. Called without gradients being recorded."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers until the next one."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave; called when `state` gave something."""


class LocalReplica:
    """A model with weights of its own, which become those of all at every meeting: a GradientSynchronizer."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, every: int, meeting: Meeting
    ) -> None:
        """Meets after every `every` steps; whoever sets that anew does so at a meeting."""
        self.module, self._optimizer, self._group, self.every, self._meeting = model, optimizer, group, every, meeting
        self._weights = trainable(model)
        self._alone = 0  # steps since the last meeting
        self._mean: list[Tensor] | None = None  # of the workers' weights, once somebody has asked since the last step

    @property
    def shared(self) -> bool:
        """After a meeting that took the optimiser's state in."""
        return self._alone == 0 and self._meeting.shares_moments

    def step(self) -> None:
        """A step on this worker's own gradient, and a meeting where it is time for one."""
        for weight in self._weights:
            if weight.grad is not None:
                weight.grad.mul_(self._group.size)
        self._optimizer.step()
        self._mean = None
        self._alone += 1
        if self._alone == self.every:
            with torch.no_grad():
                self._meeting.meet(self._weights)
            self._alone = 0

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model with the mean of all workers' weights; its own are back on leaving."""
        if self._alone == 0:
            yield self.module
            return
        if self._mean is None:
            self._mean = [weight.detach().clone() for weight in self._weights]
            average(self._group, self._mean, "state")
        own = [weight.detach().clone() for weight in self._weights]
        self._set(self._mean)
        try:
            yield self.module
        finally:
            self._set(own)

    def state(self) -> dict[str, Tensor]:
        """What the meeting remembers and, unless there was one just now, the steps since and this worker's weights."""
        state = {f"meeting.{name}": tensor for name, tensor in self._meeting.state().items()}
        if self._alone > 0:
            state["alone"] = torch.tensor(self._alone)
            state |= {f"weight.{index}": weight.detach() for index, weight in enumerate(self._weights)}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        meeting = {name.removeprefix("meeting."): one for name, one in state.items() if name.startswith("meeting.")}
        if meeting:
            self._meeting.load_state(meeting)
        if "alone" in state:
            self._alone = int(state["alone"])
            self._set([state[f"weight.{index}"] for index in range(len(self._weights))])

    def _set(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)

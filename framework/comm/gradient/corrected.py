"""Local steps, an average of the weights, then steps on the gradient of all: rounds of learning and correcting.

The gradient's half of LLCG (Ramezani et al., "Learn locally, correct globally: A distributed algorithm for training
graph neural networks", ICLR 2022); `--halo corrected` is the other, and says what differs from the paper. The moments
of an optimiser are averaged with the weights, so that global steps are the same on every worker. Exact limit:
local_steps=0 is all-reduce; so is local_steps=1 with SGD, where no edge joins two workers' nodes.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import Replica, refuse_own_statistics
from framework.comm.gradient.collect import add_up, trainable, used_anywhere
from framework.comm.gradient.local import LocalReplica
from framework.comm.gradient.local_steps import Average
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.comm.rounds import Calendar, Rounds
from framework.registry import GRADIENTS


@GRADIENTS.register("corrected")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """Steps alone, an average, steps together (LLCG; Ramezani et al., ICLR 2022). local_steps=0: all-reduce."""

    local_steps: int = 4
    """Steps of the first round that every worker takes alone; their end costs what an all-reduce does, moments too."""
    global_steps: int = 1
    """Steps of a round on the gradient of all workers."""
    growth: float = 1.0
    """Each round's local part is so many times as long as that of the round before; above 1 in the paper."""

    def __post_init__(self) -> None:
        self.rounds.check("gradient")

    @property
    def rounds(self) -> Rounds:
        """How long rounds are."""
        return Rounds(local_steps=self.local_steps, global_steps=self.global_steps, growth=self.growth)

    @contextlib.contextmanager
    def open(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> Iterator[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises InputError for statistics that a worker would keep to itself."""
        if group.size == 1:
            yield Replica(model, model, optimizer)
            return
        refuse_own_statistics(model, group)
        yield CorrectedReplica(self.rounds, model, optimizer, group)


class CorrectedReplica:
    """A model that is a worker's own in local steps and everybody's in global ones: a GradientSynchronizer."""

    def __init__(self, rounds: Rounds, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> None:
        self.module, self._optimizer, self._group = model, optimizer, group
        self._calendar, self._weights = Calendar(rounds), trainable(model)
        self._alone = LocalReplica(model, optimizer, group, rounds.local_steps, Average(optimizer, group, moments=True))

    @property
    def shared(self) -> bool:
        """Outside local parts."""
        return self._alone.shared

    def step(self) -> None:
        """A step alone or together; the last of a local part ends in the average."""
        if self._calendar.local:
            self._alone.every = self._calendar.rounds.local_part(self._calendar.round)
            self._alone.step()
        else:
            self._sum()
            self._optimizer.step()
        self._calendar.advance()

    def _sum(self) -> None:
        """The gradient of all workers, on every one."""
        used = used_anywhere(self._group, self._weights)
        mine = [weight for weight, one in zip(self._weights, used, strict=True) if one]
        for weight in mine:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        add_up(self._group, [weight.grad for weight in mine if weight.grad is not None], "gradient")

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The model with the mean of all workers' weights."""
        return self._alone.whole()

    def state(self) -> dict[str, Tensor]:
        """The place in the rounds, and in a local part this worker's weights."""
        return {**self._alone.state(), "calendar": self._calendar.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        own = dict(state)
        self._calendar.load(own.pop("calendar"))
        self._alone.load_state(own)

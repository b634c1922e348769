"""Local steps: workers step on their own gradients and average their weights every so often.

Local SGD (Stich, "Local SGD converges fast and communicates little", ICLR 2019). Exact limit: every=1 with SGD, with
momentum or without, is all-reduce.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import Replica, refuse_own_statistics
from framework.comm.gradient.collect import average
from framework.comm.gradient.local import LocalReplica
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.errors import InputError
from framework.registry import GRADIENTS


@GRADIENTS.register("local-steps")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """Step alone, average the weights every so often (local SGD; Stich, ICLR 2019). every=1 with SGD: all-reduce."""

    every: int = 8
    """Steps between two averages; the bytes sent are all-reduce's divided by it."""
    moments: Literal["own", "averaged"] = "own"
    """The optimiser's running means: each worker's `own`, or `averaged` with the weights, at as many bytes again each
    (Yu, Jin and Yang, ICML 2019)."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"--gradient.every is {self.every}; expected at least 1 step between averages.")
        if self.moments not in ("own", "averaged"):
            raise InputError(f"--gradient.moments is '{self.moments}'; expected own or averaged.")

    @contextlib.contextmanager
    def open(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> Iterator[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises InputError for statistics that a worker would keep to itself."""
        if group.size == 1:
            yield Replica(model, model, optimizer)
            return
        refuse_own_statistics(model, group)
        meeting = Average(optimizer, group, moments=self.moments == "averaged")
        yield LocalReplica(model, optimizer, group, self.every, meeting)


class Average:
    """The mean of all workers' weights and, if so chosen, of their optimisers' moments."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: Group, *, moments: bool) -> None:
        self._optimizer, self._group, self.shares_moments = optimizer, group, moments

    def meet(self, weights: list[nn.Parameter]) -> None:
        """Replaces the weights by their mean, and the moments by theirs."""
        average(self._group, [weight.data for weight in weights], "gradient")
        if self.shares_moments:
            average(self._group, list(self._moments(weights)), "gradient")

    def state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""

    def _moments(self, weights: list[nn.Parameter]) -> Iterator[Tensor]:
        """The optimiser's state of a weight's shape, of the weights that every worker has such state of.

        Where some worker never had a gradient for a weight, its moments stay each worker's own."""
        known = [self._moments_of(weight) for weight in weights]
        counts = torch.tensor([len(moments) for moments in known])
        least = self._group.all_reduce(counts.clone(), "gradient", "min")
        for moments, everywhere in zip(known, least.tolist(), strict=True):
            yield from moments[:everywhere]

    def _moments_of(self, weight: nn.Parameter) -> list[Tensor]:
        values = [value for _, value in sorted(self._optimizer.state[weight].items())]
        return [value for value in values if isinstance(value, Tensor) and value.shape == weight.shape]

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
            self._share_moments(weights)

    def state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""

    def _share_moments(self, weights: list[nn.Parameter]) -> None:
        """Replaces moments by their mean, and a count of steps, as Adam has of every weight, by the largest."""
        sizes = [len(self._tensors_of(weight)) for weight in weights]
        both = torch.tensor([*sizes, *(-size for size in sizes)], device=self._group.device)
        most, least = self._group.all_reduce(both, "gradient", "max").tensor_split(2)
        if not torch.equal(most, -least):
            self._complete(weights)
        moments, counts = list[Tensor](), list[Tensor]()
        for weight in weights:
            for name, value in sorted(self._tensors_of(weight).items()):
                (moments if _is_moment(name, value, weight) else counts).append(value)
        average(self._group, moments, "gradient")
        if counts:
            joined = torch.stack([count.double() for count in counts]).to(self._group.device)
            for count, largest in zip(counts, self._group.all_reduce(joined, "gradient", "max"), strict=True):
                count.copy_(largest)

    def _complete(self, weights: list[nn.Parameter]) -> None:
        """Gives zeros to a weight that has no gradient here yet, and elsewhere has moments already."""
        mine = [
            {name: "" if _is_moment(name, value, weight) else str(value.dtype) for name, value in tensors.items()}
            for weight, tensors in ((weight, self._tensors_of(weight)) for weight in weights)
        ]
        everybody = self._group.gather_json(mine, "gradient")
        for index, weight in enumerate(weights):
            state = self._optimizer.state[weight]
            for name, dtype in {name: kind for told in everybody for name, kind in told[index].items()}.items():
                if name not in state:
                    number = torch.zeros((), dtype=getattr(torch, dtype.removeprefix("torch."))) if dtype else None
                    state[name] = torch.zeros_like(weight) if number is None else number

    def _tensors_of(self, weight: nn.Parameter) -> dict[str, Tensor]:
        state = self._optimizer.state.get(weight, {})
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _is_moment(name: str, value: Tensor, weight: Tensor) -> bool:
    """Whether an optimiser's tensor has a number for every number of a weight; `step` is what torch calls counts."""
    return name != "step" and value.shape == weight.shape

"""Rounds of local steps, each worker for itself, and then global ones, all together: the calendar of LLCG.

Ramezani et al., "Learn locally, correct globally: A distributed algorithm for training graph neural networks",
ICLR 2022: round r = 0, 1, ... has K rho^r local steps, an average of the weights, and S global steps. A
halo strategy and a gradient strategy keep it apart from each other, so it has to be the same in both.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """How long rounds are."""

    local_steps: int
    """Local steps of the first round, K."""
    global_steps: int
    """Global steps of every round, S."""
    growth: float
    """How many times longer each round's local part is than that of the round before, rho."""

    def check(self, plugin: str) -> None:
        """Raises InputError that names a flag of `plugin` (`halo`, `gradient`) whose value has no meaning."""
        for name in ("local_steps", "global_steps"):
            if getattr(self, name) < 0:
                flag = f"--{plugin}.{name.replace('_', '-')}"
                raise InputError(f"{flag} is {getattr(self, name)!r}; expected a number of steps, at least 0.")
        if self.local_steps == self.global_steps == 0:
            raise InputError(f"--{plugin}.local-steps and --{plugin}.global-steps are both 0; expected some steps.")
        if not 1 <= self.growth < float("inf"):
            raise InputError(f"--{plugin}.growth is {self.growth!r}; expected a factor of at least 1.")

    def local_part(self, number: int) -> int:
        """Local steps of a round."""
        return int(self.local_steps * self.growth**number) if self.local_steps else 0


@runtime_checkable
class InRounds(Protocol):
    """A strategy that goes by rounds."""

    @property
    def rounds(self) -> Rounds:
        """How long they are."""


def innermost(strategy: object) -> object:
    """What a strategy that sends rows in another form has beneath it in the end; itself where it has nothing."""
    while (inner := getattr(strategy, "inner", None)) is not None:
        strategy = inner
    return strategy


def require_same_rounds(halo: object, gradient: object) -> None:
    """Raises InputError where both strategies, or what they send by, go by rounds, and not by the same."""
    halo, gradient = innermost(halo), innermost(gradient)
    if isinstance(halo, InRounds) and isinstance(gradient, InRounds) and halo.rounds != gradient.rounds:
        raise InputError(
            f"--halo has {halo.rounds} and --gradient has {gradient.rounds}; expected the same rounds: give both the "
            "same local-steps, global-steps and growth."
        )


class Calendar:
    """The place in the rounds, before a step."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds, self.round, self.step = rounds, 0, 0

    @property
    def local(self) -> bool:
        """Whether the next step is a local one."""
        return self.step < self.rounds.local_part(self.round)

    def advance(self) -> None:
        """A step has been taken."""
        self.step += 1
        if self.step >= self.rounds.local_part(self.round) + self.rounds.global_steps:
            self.round, self.step = self.round + 1, 0

    def state(self) -> Tensor:
        """The place, as a checkpoint keeps it: int64 [2]."""
        return torch.tensor([self.round, self.step])

    def load(self, state: Tensor) -> None:
        """Goes to a place that `state` gave."""
        self.round, self.step = state.tolist()

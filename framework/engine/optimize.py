"""Optimisers and learning-rate schedules: torch's own, as values of a run."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from framework.comm.gradient.clip import Clip
from framework.errors import InputError
from framework.registry import OPTIMIZERS, SCHEDULES


@runtime_checkable
class Optimizer(Protocol):
    """How gradients become steps."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser over `parameters`."""


@runtime_checkable
class Schedule(Protocol):
    """How the learning rate changes."""

    @property
    def counts(self) -> Literal["epochs", "steps"]:
        """After which of the two the scheduler is stepped."""

    @property
    def horizon(self) -> bool:
        """Whether the rate of an epoch depends on how many there will be."""

    def attach(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> LRScheduler:
        """The torch scheduler. `steps`: how many an epoch has; None where the workload does not say."""


@OPTIMIZERS.register("adam")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015)."""

    lr: float = 0.003
    """Learning rate."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""

    def __post_init__(self) -> None:
        """Raises InputError for settings that torch.optim.Adam has no meaning for."""
        _check_rates(self.lr, self.weight_decay)
        _check_betas(self.betas)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.Adam."""
        return torch.optim.Adam(
            parameters, lr=self.lr, weight_decay=self.weight_decay, betas=(self.betas[0], self.betas[1])
        )


@OPTIMIZERS.register("adamw")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 0.003
    """Learning rate."""
    weight_decay: float = 0.01
    """Share of each weight taken off a step, times the learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""

    def __post_init__(self) -> None:
        """Raises InputError for settings that torch.optim.AdamW has no meaning for."""
        _check_rates(self.lr, self.weight_decay)
        _check_betas(self.betas)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        return torch.optim.AdamW(
            parameters, lr=self.lr, weight_decay=self.weight_decay, betas=(self.betas[0], self.betas[1])
        )


@OPTIMIZERS.register("sgd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    lr: float = 0.1
    """Learning rate."""
    momentum: float = 0.9
    """Decay of the running gradient."""
    nesterov: bool = False
    """Look one step ahead."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient."""

    def __post_init__(self) -> None:
        """Raises InputError for settings that torch.optim.SGD has no meaning for."""
        _check_rates(self.lr, self.weight_decay)
        if not 0 <= self.momentum < math.inf:
            raise InputError(f"--optimizer.momentum is {self.momentum}; expected a number of at least 0.")
        if self.nesterov and self.momentum == 0:
            raise InputError(
                "--optimizer.nesterov looks ahead along the momentum, but --optimizer.momentum is 0; give one above 0."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )


@OPTIMIZERS.register("clipped")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped:
    """Another optimiser, with gradients scaled down where all weights' together are longer than a norm."""

    inner: Optimizer = dataclasses.field(default_factory=Adam)
    """The optimiser."""
    norm: float = 1.0
    """The longest that a gradient may be. With gradient strategies of local steps: of each worker's own."""

    def __post_init__(self) -> None:
        """Raises InputError for a norm that nothing could be scaled down to."""
        if not 0 < self.norm < math.inf:
            raise InputError(f"--optimizer.norm is {self.norm}; expected a number above 0.")
        if isinstance(self.inner, Clipped):
            raise InputError("--optimizer.inner is clipped already; give the optimiser itself.")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The inner one's, which clips before each step."""
        optimizer = self.inner.build(parameters)
        Clip.attach(optimizer, self.norm)
        return optimizer


@SCHEDULES.register("constant")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """The same learning rate throughout."""

    @property
    def counts(self) -> Literal["epochs", "steps"]:
        """Epochs."""
        return "epochs"

    @property
    def horizon(self) -> bool:
        """An epoch's rate is the same however many follow."""
        return False

    def attach(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> LRScheduler:
        """A factor of one."""
        return LambdaLR(optimizer, lambda epoch: 1.0)


@SCHEDULES.register("cosine")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """A linear warm-up, then half a cosine down to a last share of the rate (Loshchilov and Hutter, 2017)."""

    warmup: int = 0
    """Epochs of linear rise."""
    last: float = 0.0
    """The final rate as a share of the full one."""
    by: Literal["epoch", "step"] = "epoch"
    """After which of the two the rate changes; `warmup` is in epochs either way. step: for a run of few epochs, of a
    workload that knows how many steps one has (images, translation)."""

    def __post_init__(self) -> None:
        if self.by not in ("epoch", "step"):
            raise InputError(f"--schedule.by is '{self.by}'; expected epoch or step.")
        if self.warmup < 0:
            raise InputError(f"--schedule.warmup is {self.warmup}; expected a number of epochs, or 0.")
        _check_share("last", self.last)

    @property
    def counts(self) -> Literal["epochs", "steps"]:
        """As `by` says."""
        return "steps" if self.by == "step" else "epochs"

    @property
    def horizon(self) -> bool:
        """It ends with the last epoch."""
        return True

    def attach(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> LRScheduler:
        """The factor of epoch e: (e + 1) / (warmup + 1) while warming up, then the cosine over what is left.

        By steps, all of these are numbers of steps. Raises InputError where it is not known how many an epoch has."""
        if self.by == "step" and steps is None:
            raise InputError(
                "--schedule.by is step, but the workload does not say how many steps an epoch has; take epoch."
            )
        each = steps if steps and self.by == "step" else 1
        rise, end = each * self.warmup, each * epochs

        def factor(place: int) -> float:
            if place < rise:
                return (place + 1) / (rise + 1)
            done = (place - rise) / max(1, end - rise)
            return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        return LambdaLR(optimizer, factor)


@SCHEDULES.register("step")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The rate times `gamma` every `every` epochs."""

    every: int = 10
    """Epochs between drops."""
    gamma: float = 0.1
    """Factor of one drop."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"--schedule.every is {self.every}; expected at least 1 epoch between drops.")
        _check_share("gamma", self.gamma)

    @property
    def counts(self) -> Literal["epochs", "steps"]:
        """Epochs."""
        return "epochs"

    @property
    def horizon(self) -> bool:
        """An epoch's rate is the same however many follow."""
        return False

    def attach(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> LRScheduler:
        """torch.optim.lr_scheduler.StepLR."""
        return torch.optim.lr_scheduler.StepLR(optimizer, self.every, self.gamma)


@SCHEDULES.register("inverse-sqrt")
@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """A linear warm-up over steps, then as one over the root of their number (Vaswani et al., NeurIPS 2017)."""

    warmup: int = 4000
    """Steps of linear rise; at their end is the full rate."""

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise InputError(f"--schedule.warmup is {self.warmup}; expected at least 1 step of linear rise.")

    @property
    def counts(self) -> Literal["epochs", "steps"]:
        """Steps: the rise is over before many an epoch is."""
        return "steps"

    @property
    def horizon(self) -> bool:
        """A step's rate is the same however many follow."""
        return False

    def attach(self, optimizer: torch.optim.Optimizer, epochs: int, steps: int | None) -> LRScheduler:
        """The factor of step s, the first being 1: min(s / warmup, sqrt(warmup / s))."""

        def factor(done: int) -> float:
            return min((done + 1) / self.warmup, math.sqrt(self.warmup / (done + 1)))

        return LambdaLR(optimizer, factor)


def _check_rates(lr: float, weight_decay: float) -> None:
    for flag, value in (("lr", lr), ("weight-decay", weight_decay)):
        if not 0 <= value < math.inf:  # false for nan, too
            raise InputError(f"--optimizer.{flag} is {value}; expected a number of at least 0.")


def _check_share(flag: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InputError(f"--schedule.{flag} is {value}; expected a number of at least 0.")


def _check_betas(betas: tuple[float, float]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"--optimizer.betas is {betas}; expected two numbers from 0 up to, but not, 1.")

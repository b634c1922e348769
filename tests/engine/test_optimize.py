"""Optimisers refuse, before anything starts, what torch would refuse on the workers; and build what torch accepts."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from framework.engine.optimize import SGD, Adam, AdamW, Cosine, InverseSquareRoot, Step
from framework.errors import InputError

NAN = float("nan")


@pytest.mark.parametrize(
    ("optimizer", "settings", "message"),
    [
        (Adam, {"lr": -0.1}, r"--optimizer\.lr is -0\.1; expected"),
        (AdamW, {"lr": NAN}, r"--optimizer\.lr is nan; expected"),
        (SGD, {"lr": float("inf")}, r"--optimizer\.lr is inf; expected"),
        (AdamW, {"weight_decay": -1.0}, r"--optimizer\.weight-decay is -1\.0; expected"),
        (Adam, {"betas": (0.9, 1.0)}, r"--optimizer\.betas is \(0\.9, 1\.0\); expected"),
        (AdamW, {"betas": (-0.1, 0.9)}, r"--optimizer\.betas is \(-0\.1, 0\.9\); expected"),
        (Adam, {"betas": (0.9,)}, r"--optimizer\.betas is \(0\.9,\); expected two"),
        (SGD, {"momentum": -0.5}, r"--optimizer\.momentum is -0\.5; expected"),
        (SGD, {"nesterov": True, "momentum": 0.0}, r"--optimizer\.nesterov .* --optimizer\.momentum is 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(optimizer: type[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimizer(**settings)


@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(lr=0.0, betas=(0.0, 0.0)),
        Adam(lr=0.2, betas=(0.3, 0.4), weight_decay=0.5),
        AdamW(weight_decay=0.0),
        AdamW(lr=0.2, betas=(0.3, 0.4), weight_decay=0.5),
        SGD(momentum=0.0),
        SGD(lr=0.2, momentum=0.3, nesterov=True, weight_decay=0.4),
    ],
)
def test_settings_are_torchs(optimizer: Adam | AdamW | SGD) -> None:
    built = optimizer.build([torch.nn.Parameter(torch.zeros(1))])
    assert type(built).__name__ == type(optimizer).__name__
    for name, value in dataclasses.asdict(optimizer).items():
        assert built.defaults[name] == value


def rates_of(optimizer: torch.optim.Optimizer, schedule: LRScheduler, times: int) -> list[float]:
    """The rates before so many steps of the schedule."""
    rates = []
    for _ in range(times):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def cosine_rates(schedule: Cosine, epochs: int, steps: int | None, times: int) -> list[float]:
    optimizer = SGD(lr=1.0).build([torch.nn.Parameter(torch.zeros(1))])
    return rates_of(optimizer, schedule.attach(optimizer, epochs, steps), times)


def test_the_cosine_by_steps_rises_and_falls_within_epochs() -> None:
    rates = cosine_rates(Cosine(warmup=2, by="step"), epochs=6, steps=5, times=30)
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])
    assert rates[-1] < 0.01
    by_epoch = Cosine(warmup=1)
    assert cosine_rates(by_epoch, epochs=5, steps=7, times=5) == cosine_rates(by_epoch, epochs=5, steps=None, times=5)
    assert cosine_rates(Cosine(warmup=1, by="step"), epochs=5, steps=1, times=5) == cosine_rates(by_epoch, 5, None, 5)
    assert cosine_rates(Cosine(last=0.1), 4, None, 5) == pytest.approx(
        [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(5)]
    )
    assert (by_epoch.counts, Cosine(by="step").counts) == ("epochs", "steps")


def test_a_cosine_by_steps_has_to_know_how_many_there_are() -> None:
    with pytest.raises(InputError, match=r"--schedule\.by is step, .* how many steps an epoch has; take epoch"):
        cosine_rates(Cosine(by="step"), epochs=2, steps=None, times=1)
    with pytest.raises(InputError, match=r"--schedule\.by is 'batch'; expected epoch or step"):
        Cosine(by="batch")  # type: ignore[arg-type]


def test_the_inverse_square_root_rises_to_the_full_rate_and_falls_from_there() -> None:
    optimizer = SGD(lr=2.0).build([torch.nn.Parameter(torch.zeros(1))])
    rates = rates_of(optimizer, InverseSquareRoot(warmup=4).attach(optimizer, 1, None), 16)
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert (rates[8], rates[15]) == (pytest.approx(2 * (4 / 9) ** 0.5), 1.0)


def test_a_warm_up_of_no_steps_is_refused() -> None:
    with pytest.raises(InputError, match=r"--schedule\.warmup is 0"):
        InverseSquareRoot(warmup=0)


@pytest.mark.parametrize(
    ("schedule", "field", "value"),
    [
        (Cosine, "warmup", -1),
        (Cosine, "last", -0.1),
        (Cosine, "last", math.nan),
        (Step, "gamma", math.inf),
        (Step, "gamma", -0.5),
    ],
)
def test_a_schedule_without_a_meaning_is_named(schedule: Any, field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"--schedule\.{field} is {value}; expected"):
        schedule(**{field: value})

"""Rounds of local and global steps: the calendar, both of its strategies against LLCG by hand, and their limits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_runs import Case, made
from halo_plans import FORWARD, opened, step, values
from halo_runs import SHORT, STOP, halo_run, reports
from torch import Tensor
from worker_processes import together

from framework.comm.gradient import corrected as gradient
from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.group import Group
from framework.comm.halo.corrected import Corrected, CorrectedExchange
from framework.comm.halo.exact import Exact
from framework.comm.halo.quantized import Quantized
from framework.comm.rounds import Calendar, Rounds, require_same_rounds
from framework.engine.optimize import SGD, Adam
from framework.errors import InputError


def kinds(rounds: Rounds, steps: int) -> str:
    """What each step is: `l`ocal or `g`lobal."""
    calendar, told = Calendar(rounds), ""
    for _ in range(steps):
        told += "l" if calendar.local else "g"
        other = Calendar(rounds)
        other.load(calendar.state())
        calendar = other
        calendar.advance()
    return told


def test_the_calendar() -> None:
    assert kinds(Rounds(local_steps=2, global_steps=1, growth=1.0), 8) == "llgllgll"
    assert kinds(Rounds(local_steps=2, global_steps=2, growth=1.5), 16) == "llggl" + "llggl" + "lllggl"
    assert kinds(Rounds(local_steps=0, global_steps=2, growth=1.0), 4) == "gggg"
    assert kinds(Rounds(local_steps=3, global_steps=0, growth=2.0), 5) == "lllll"


def exchanged(group: Group) -> None:
    plan, exchange = opened(Corrected(local_steps=2, global_steps=1), group)
    assert isinstance(exchange, CorrectedExchange)
    before = group.snapshot()
    for number, kind in enumerate("llgllg"):
        exchange.begin(step(number))
        halo = exchange.to_halo(values(plan.wanted_original, number), FORWARD).wait()
        assert exchange.secluded == (kind == "l")
        assert torch.equal(halo, values(plan.halo_original, number) * (kind == "g"))
    assert group.since(before) == {"halo/1/forward": 2 * len(plan.wanted) * 3 * 8}


STEPS, RATE, POINTS = 7, 0.1, 9


def by_hand(workers: int, kind_of_steps: str) -> Tensor:
    """LLCG on a line of points with plain SGD: a local gradient is that of a worker's part, times the workers."""
    x, y = points()
    weights = [torch.zeros(2, dtype=torch.float64) for _ in range(workers)]
    for number, kind in enumerate(kind_of_steps):
        parts = [gradient_of(weights[rank], x[rank::workers], y[rank::workers]) for rank in range(workers)]
        for rank in range(workers):
            weights[rank] = weights[rank] - RATE * (workers * parts[rank] if kind == "l" else sum(parts))
        if kind == "l" and kind_of_steps[number + 1 : number + 2] != "l":
            weights = [torch.stack(weights).mean(0)] * workers
    return weights[0]


def points() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 2, POINTS, dtype=torch.float64)
    return x, torch.sin(3 * x)


def gradient_of(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the sum of squares over some points, divided by the number of all."""
    error = 2 * (weights[0] * x + weights[1] - y) / POINTS
    return torch.stack([(error * x).sum(), error.sum()])


def learned(group: Group) -> list[float]:
    exchanged(group)
    model = torch.nn.Linear(1, 1).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = (column[group.rank :: group.size] for column in points())
    with gradient.Corrected(local_steps=2, global_steps=1, growth=1.5).open(model, optimizer, group) as synchronizer:
        for _ in range(STEPS):
            optimizer.zero_grad()
            (((synchronizer.module(x.unsqueeze(1)).squeeze(1) - y) ** 2).sum() / POINTS).backward()
            synchronizer.step()
        assert synchronizer.shared
        return [float(model.weight), float(model.bias)]


def test_steps_are_llcg_s() -> None:
    answers = together(3, learned)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] == pytest.approx(by_hand(3, "llglllg").tolist(), rel=1e-12)


def test_rounds_are_looked_for_beneath_what_quantises() -> None:
    with pytest.raises(InputError, match="expected the same rounds"):
        require_same_rounds(Quantized(inner=Corrected(local_steps=4)), gradient.Corrected(local_steps=8))
    require_same_rounds(Quantized(inner=Corrected(local_steps=4)), gradient.Corrected(local_steps=4))


def test_the_gradient_s_limits(tmp_path: Path) -> None:
    sgd, momentum, adam = SGD(lr=0.02, momentum=0.0), SGD(lr=0.02, momentum=0.9), Adam(lr=0.01)
    rounds, cut = gradient.Corrected(local_steps=3, global_steps=2, growth=1.4), 6
    cases = {
        "all-reduce": Case(gradient=AllReduce(), optimizer=momentum),
        "global": Case(gradient=gradient.Corrected(local_steps=0), optimizer=momentum),
        "all-reduce, sgd": Case(gradient=AllReduce(), optimizer=sgd),
        "one": Case(gradient=gradient.Corrected(local_steps=1, global_steps=2), optimizer=sgd),
        "local-steps": Case(gradient=LocalSteps(every=3, moments="averaged"), optimizer=adam),
        "local": Case(gradient=gradient.Corrected(local_steps=3, global_steps=0), optimizer=adam),
        "whole": Case(gradient=rounds, optimizer=adam),
        "resumed": Case(gradient=rounds, optimizer=adam, stop_at=cut),
        "resumed later": Case(gradient=rounds, optimizer=adam, stop_at=cut + 2),
    }
    told = together(2, made, str(tmp_path), cases)[0]
    for name, equal in (("global", "all-reduce"), ("one", "all-reduce, sgd"), ("local", "local-steps")):
        assert told[name]["loss"] == pytest.approx(told[equal]["loss"], rel=1e-12), name
        assert told[name]["metrics"] == pytest.approx(told[equal]["metrics"], rel=1e-12), name
    for name in ("resumed", "resumed later"):
        assert told[name]["weights_digest"] == told["whole"]["weights_digest"]
        assert told[name]["loss"] == told["whole"]["loss"]


def test_a_run_s_limit_and_its_resumption(tmp_path: Path) -> None:
    never_local, rounds = {"local_steps": 0}, {"local_steps": 2, "global_steps": 1}
    corrected: dict[str, Any] = {"halo": Corrected(**rounds), "gradient": gradient.Corrected(**rounds)}
    runs = {
        "exact": halo_run(tmp_path / "exact", Exact(), epochs=SHORT),
        "limit": halo_run(
            tmp_path / "limit", Corrected(**never_local), gradient=gradient.Corrected(**never_local), epochs=SHORT
        ),
        "whole": halo_run(tmp_path / "whole", **corrected),
        "cut": halo_run(tmp_path / "cut", **corrected, epochs=STOP),
        "resumed": halo_run(tmp_path / "cut", **corrected),
    }
    told = dict(zip(runs, reports(tmp_path, 2, list(runs.values())), strict=True))
    assert told["limit"]["loss"] == pytest.approx(told["exact"]["loss"], rel=1e-12)
    assert told["resumed"]["loss"] == told["whole"]["loss"]
    assert told["resumed"]["weights_digest"] == told["whole"]["weights_digest"]
    assert told["whole"]["loss"][:SHORT] != told["exact"]["loss"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_steps": -1}, r"\.local-steps is -1; expected"),
        ({"local_steps": 0, "global_steps": 0}, r"\.local-steps and .* are both 0; expected"),
        ({"growth": 0.5}, r"\.growth is 0\.5; expected"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="--halo" + message):
        Corrected(**fields)
    with pytest.raises(InputError, match="--gradient" + message):
        gradient.Corrected(**fields)


def test_both_strategies_go_by_the_same_rounds(tmp_path: Path) -> None:
    run = halo_run(tmp_path, Corrected(local_steps=3), gradient=gradient.Corrected(local_steps=4))
    with pytest.raises(InputError, match="expected the same rounds"):
        run.workload.open(run, None)  # type: ignore[arg-type]

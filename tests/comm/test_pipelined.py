"""Pipelining: rows are as old as it says, waits are hidden, averages are the formula's, resumed = never stopped."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch
from halo_plans import BACKWARD, FORWARD, forwards, opened, step, tiny_plan, values
from halo_runs import SHORT, STOP, halo_run, reports
from torch import Tensor
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Arrival, Lane, Route, Step
from framework.comm.halo.pipelined import Pipelined, PipelinedExchange
from framework.comm.halo.strategy import HaloStrategy
from framework.errors import InputError

STEPS = 6


def delayed(group: Group) -> None:
    """What holds on every worker."""
    for staleness in (0, 1, 2):
        plan, exchange = opened(Pipelined(staleness=staleness), group)
        assert isinstance(exchange, PipelinedExchange)
        for number in range(STEPS):
            exchange.begin(step(number))
            sent, came = values(plan.wanted_original, number), values(plan.halo_original, number)
            late = max(0, number - staleness)
            halo = exchange.to_halo(sent, FORWARD)
            again = exchange.to_halo(10 * sent, FORWARD)  # a layer that asks twice
            assert torch.equal(halo.wait(), values(plan.halo_original, late))
            assert torch.equal(again.wait(), 10 * values(plan.halo_original, late))
            back = exchange.to_owners(came, BACKWARD).wait()
            assert torch.equal(back, values(plan.wanted_original, late))
            assert exchange.staleness == {"1/forward": min(number, staleness), "1/backward": min(number, staleness)}
    smooth(group)
    resumed(group)


def smooth(group: Group) -> None:
    plan, exchange = opened(Pipelined(smoothing=0.75, smoothed="features"), group)
    average = values(plan.halo_original, 0)
    for number in range(STEPS):
        (came,) = forwards(exchange, plan, [number])
        if number > 1:
            average = 0.75 * average + 0.25 * values(plan.halo_original, number - 1)
        assert torch.allclose(came, average, rtol=1e-13, atol=0)
        back = exchange.to_owners(values(plan.halo_original, number), BACKWARD).wait()
        assert torch.equal(back, values(plan.wanted_original, max(0, number - 1))), "gradients are not smoothed"


def resumed(group: Group) -> None:
    strategy = Pipelined(staleness=2, smoothing=0.9)
    for stop in range(STEPS):
        plan, whole = opened(strategy, group)
        _, before = opened(strategy, group)
        _, after = opened(strategy, group)
        expected = forwards(whole, plan, range(STEPS))
        forwards(before, plan, range(stop))
        after.load_state(before.state())
        for got, wanted in zip(forwards(after, plan, range(stop, STEPS)), expected[stop:], strict=True):
            assert torch.equal(got, wanted)


def test_rows_are_late_smoothed_and_kept() -> None:
    together(2, delayed)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Due:
    """Rows that are here at a time of the clock."""

    rows: Tensor
    at: float

    def wait(self) -> Tensor:
        time.sleep(max(0.0, self.at - time.perf_counter()))
        return self.rows


class SlowLink:
    """A wire to oneself that takes a while and holds nothing up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, step: Step) -> None:
        """Nothing depends on it."""

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        return Due(rows=rows, at=time.perf_counter() + self.seconds)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""


def waited(strategy: HaloStrategy) -> float:
    """Seconds of waiting in steps whose computing takes somewhat longer than a transfer."""
    exchange, seconds = strategy.open(tiny_plan(Group.alone()), SlowLink(0.02)), 0.0
    for number in range(10):
        exchange.begin(step(number))
        began = time.perf_counter()
        exchange.to_halo(torch.zeros(0, 3), FORWARD).wait()
        seconds += time.perf_counter() - began
        time.sleep(0.025)
    return seconds


def test_the_wait_is_hidden() -> None:
    assert waited(Pipelined()) < 0.2 * waited(Exact())


def test_a_checkpoint_waits_for_what_is_under_way() -> None:
    exchange = Pipelined().open(tiny_plan(Group.alone()), SlowLink(0.02))
    exchange.begin(step(0))
    exchange.to_halo(torch.ones(2, 3), FORWARD)
    assert [rows.tolist() for rows in exchange.state().values()] == [[[1.0] * 3] * 2]


def test_rows_that_were_kept_are_not_those_of_another_partition(tmp_path: Path) -> None:
    reports(tmp_path, 2, [halo_run(tmp_path / "run", Pipelined(), epochs=STOP)])
    with pytest.raises(AssertionError, match="InputError: the halo strategy keeps rows .* cut otherwise than it was"):
        reports(tmp_path, 2, [halo_run(tmp_path / "run", Pipelined(), epochs=SHORT, parts=3)])
    (report,) = reports(tmp_path, 2, [halo_run(tmp_path / "run", Pipelined(), epochs=SHORT)])
    assert report["epochs"] == SHORT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"staleness": -1}, r"--halo\.staleness is -1; expected"),
        ({"smoothing": 1.0}, r"--halo\.smoothing is 1\.0; expected"),
        ({"smoothed": "rows"}, r"--halo\.smoothed is 'rows'; expected"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pipelined(**fields)  # type: ignore[arg-type]

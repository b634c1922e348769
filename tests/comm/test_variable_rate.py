"""The variable rate: the ratio's course, the columns of a step at both ends and in both passes, bytes, the limit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from halo_plans import BACKWARD, FORWARD, opened, step
from halo_runs import EPOCHS, STOP, halo_run, reports
from torch import Tensor
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import DirectLink, Lane, Route
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.quantized import Quantized
from framework.comm.halo.variable_rate import VariableLink, VariableRate
from framework.errors import InputError
from framework.kernels.quantize import HEADER

COLUMNS = 12


def features(original: Tensor, number: int) -> Tensor:
    """Rows without a zero, a function of node and step: float64 [n, COLUMNS]."""
    return (original.double() + 1).unsqueeze(1) + torch.arange(COLUMNS) / 100 + 1000 * number


def narrow(group: Group) -> None:
    strategy = VariableRate(first=6, last=1, epochs=5)
    plan, exchange = opened(strategy, group)
    seen = set()
    for number in range(7):
        exchange.begin(step(number))
        before = group.snapshot()
        halo = exchange.to_halo(features(plan.wanted_original, number), FORWARD).wait()
        back = exchange.to_owners(features(plan.halo_original, number), BACKWARD).wait()
        came, count = halo[0] != 0, -(-COLUMNS // max(6 - number, 1))
        assert int(came.sum()) == count
        assert torch.equal(halo, torch.where(came, features(plan.halo_original, number), 0))
        assert torch.equal(back, torch.where(came, features(plan.wanted_original, number), 0)), "the rows' own columns"
        sent = group.since(before)
        assert sent["halo/1/forward"] == len(plan.wanted) * count * 8
        assert sent["halo/1/backward"] == plan.num_halo * count * 8
        seen.add(tuple(came.tolist()))
    assert len(seen) > 4, "another draw in every step"
    composed(group)


def composed(group: Group) -> None:
    """Late rows are read in the columns that they were sent by; the columns that are left can be quantised."""
    plan, late = opened(VariableRate(first=4, last=4, inner=Pipelined()), group)
    _, now = opened(VariableRate(first=4, last=4), group)
    _, rounded = opened(Quantized(bits=8, inner=VariableRate(first=4, last=4)), group)
    last = None
    for number in range(3):
        for exchange in (late, now, rounded):
            exchange.begin(step(number))
        sent = features(plan.wanted_original, number)
        exact, came = (exchange.to_halo(sent, FORWARD).wait() for exchange in (now, late))
        assert last is None or torch.equal(came, last)
        before = group.snapshot()
        near = rounded.to_halo(sent, FORWARD).wait()
        assert group.since(before)["halo/1/forward"] == len(plan.wanted) * (HEADER + COLUMNS // 4)
        assert torch.equal(near == 0, exact == 0)
        torch.testing.assert_close(near, exact, rtol=1e-2, atol=0)
        last = exact


def test_columns_of_a_step_go_both_ways() -> None:
    together(2, narrow)


def test_lanes_draw_apart() -> None:
    link, itself = VariableLink(VariableRate(first=4, last=4), DirectLink(Group.alone())), Route(sent=[1], received=[1])
    link.begin(step(0))
    drawn = set()
    for lane in (
        FORWARD,
        Lane(layer=2, towards="halo", backward=False),
        Lane(layer=1, towards="owners", backward=False),
    ):
        rows = link.send(torch.ones(1, 400), itself, lane).wait()
        drawn.add(tuple(rows[0].tolist()))
        assert int(rows.sum()) == 100
    assert len(drawn) == 3


def test_the_ratio_falls_as_it_is_told() -> None:
    linear, exponential = (
        VariableRate(first=16, last=2, epochs=10, decay=decay) for decay in ("linear", "exponential")
    )  # type: ignore[arg-type]
    assert [linear.ratio(epoch) for epoch in (0, 5, 10, 99)] == [16, 9, 2, 2]
    assert [exponential.ratio(epoch) for epoch in (0, 10, 99)] == [16, 2, 2]
    assert exponential.ratio(5) == pytest.approx(32**0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": 0.5}, r"--halo\.first is 0\.5; expected"),
        ({"first": float("inf")}, r"--halo\.first is inf; expected"),
        ({"last": 0.0}, r"--halo\.last is 0\.0; expected"),
        ({"epochs": 0}, r"--halo\.epochs is 0; expected"),
        ({"decay": "sudden"}, r"--halo\.decay is 'sudden'; expected linear or exponential"),
        ({"inner": Quantized()}, "expected quantized with variable-rate inside"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VariableRate(**fields)


def test_feedback_is_refused_where_columns_change() -> None:
    with pytest.raises(InputError, match="variable-rate sends others"):
        Quantized(error_feedback=True, inner=VariableRate())


def test_runs_at_the_limit_and_resumed(tmp_path: Path) -> None:
    rising = VariableRate(first=3, last=1, epochs=4)
    exact, limit, whole, _, resumed = reports(
        tmp_path,
        2,
        [
            halo_run(tmp_path / "exact", Exact()),
            halo_run(tmp_path / "limit", VariableRate(first=1, last=1)),
            halo_run(tmp_path / "whole", rising),
            halo_run(tmp_path / "stopped", rising, epochs=STOP),
            halo_run(tmp_path / "stopped", rising, epochs=EPOCHS),
        ],
    )
    assert limit["loss"] == exact["loss"]
    assert whole["loss"] != exact["loss"]
    assert whole["sent"]["halo/1/forward"] < exact["sent"]["halo/1/forward"]
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["loss"] == whole["loss"]

"""Bounded staleness: who sends when, by each bound; what is used is what came last; resumed equals never stopped."""

import pytest
import torch
from halo_plans import BACKWARD, FORWARD, forwards, opened, step, values
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.bounded import Bounded, BoundedExchange
from framework.errors import InputError

STEPS, ROW = 9, 3 * 8


def bounded(group: Group) -> None:
    """What holds on every worker."""
    by_rule(group, Bounded(gap=0), [0, 1, 2, 3, 4, 5, 6, 7, 8])
    by_rule(group, Bounded(gap=2), [0, 0, 0, 3, 3, 3, 6, 6, 6])
    by_rule(group, Bounded(bound="adaptive", gap=2), [0, 0, 2, 2, 2, 5, 5, 5, 8])  # allowed: 0, 1, 1, 2, 2, 2, ...
    by_change(group)
    resumed(group)


def by_rule(group: Group, strategy: Bounded, sent_in: list[int]) -> None:
    plan, exchange = opened(strategy, group)
    before = group.snapshot()
    for number in range(STEPS):
        exchange.begin(step(number))
        halo = exchange.to_halo(values(plan.wanted_original, number), FORWARD).wait()
        back = exchange.to_owners(values(plan.halo_original, number), BACKWARD).wait()
        assert torch.equal(halo, values(plan.halo_original, sent_in[number]))
        assert torch.equal(back, values(plan.wanted_original, sent_in[number]))
        assert isinstance(exchange, BoundedExchange)
        assert exchange.staleness == dict.fromkeys(("1/forward", "1/backward"), number - sent_in[number])
    times, sent = len(set(sent_in)), group.since(before)
    assert sent["halo/1/forward"] == times * len(plan.wanted) * ROW
    assert sent["halo/1/backward"] == times * plan.num_halo * ROW


def by_change(group: Group) -> None:
    """Worker r's rows grow by (r + 1) % a step: it sends again where that has come to more than 2.5 %."""
    plan, exchange = opened(Bounded(bound="variation", variation=0.025), group)
    grown = [[(1 + 0.01 * (rank + 1)) ** number for number in range(STEPS)] for rank in range(group.size)]
    last = [0] * group.size
    before, sent_rows = group.snapshot(), 0
    for number in range(STEPS):
        for rank in range(group.size):
            if number == 0 or grown[rank][number] / grown[rank][last[rank]] - 1 > 0.025:
                last[rank] = number
                sent_rows += len(plan.wanted) if rank == group.rank else 0
        exchange.begin(step(number))
        halo = exchange.to_halo(values(plan.wanted_original, 0) * grown[group.rank][number], FORWARD).wait()
        scale = torch.tensor([grown[rank][last[rank]] for rank in range(group.size)], dtype=torch.float64)
        owner = torch.repeat_interleave(torch.arange(group.size), torch.tensor(plan.received))
        assert torch.equal(halo, values(plan.halo_original, 0) * scale[owner].unsqueeze(1))
    sent = group.since(before)
    assert sent["halo/1/forward"] == sent_rows * ROW
    assert sent["halo/1/forward/flags"] == (STEPS - 1) * (group.size - 1)


def resumed(group: Group) -> None:
    for strategy in (Bounded(gap=2), Bounded(bound="variation", variation=0.6)):
        for stop in (0, 2, 4):
            plan, whole = opened(strategy, group)
            _, before = opened(strategy, group)
            _, after = opened(strategy, group)
            expected = forwards(whole, plan, range(STEPS))
            forwards(before, plan, range(stop))
            after.load_state({name: rows.clone() for name, rows in before.state().items()})
            for got, wanted in zip(forwards(after, plan, range(stop, STEPS)), expected[stop:], strict=True):
                assert torch.equal(got, wanted)


def test_rows_come_by_the_bound() -> None:
    together(3, bounded)


def test_what_counts_as_unchanged() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    other = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert Bounded(variation=0.0).unchanged(rows, rows)
    assert not Bounded(variation=0.1).unchanged(other, rows)  # 1 / 5
    assert Bounded(variation=0.2, measure="max").unchanged(other, rows)
    nothing = torch.zeros(2, 2)
    assert Bounded(variation=0.0).unchanged(nothing, nothing)
    assert not Bounded(variation=9.0).unchanged(rows, nothing)
    assert not Bounded(variation=9.0).unchanged(rows * float("nan"), rows)
    for measure in ("mean", "max"):
        assert Bounded(measure=measure).unchanged(rows[:0], rows[:0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bound": "age"}, r"--halo\.bound is 'age'; expected"),
        ({"gap": -1}, r"--halo\.gap is -1; expected"),
        ({"variation": float("nan")}, r"--halo\.variation is nan; expected"),
        ({"measure": "sum"}, r"--halo\.measure is 'sum'; expected"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bounded(**fields)  # type: ignore[arg-type]

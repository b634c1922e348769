"""Delayed partial sums: bins take turns and land r steps later; r=0 is exact; resumed = never stopped."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from halo_plans import BACKWARD, FORWARD, step, tiny_plan, values
from halo_runs import ATTENTION, EPOCHS, STOP, SUMS, halo_run, reports
from replica_reference import replica_losses
from torch import Tensor
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.delayed import _BINS, Delayed, DelayedExchange
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import DirectLink, Lane
from framework.comm.halo.plan import HaloPlan
from framework.errors import InputError
from framework.random import Key, bits
from partitioners.dbh import DegreeBasedHashing

STEPS = 9
PARTIAL = Lane(layer=1, towards="owners", backward=False)


def opened(r: int, group: Group) -> tuple[HaloPlan, DelayedExchange]:
    plan = dataclasses.replace(tiny_plan(group), kind="vertex-cut")
    exchange = Delayed(r=r).open(plan, DirectLink(group))
    assert isinstance(exchange, DelayedExchange)
    return plan, exchange


def in_use(original: Tensor, number: int, r: int) -> Tensor:
    """What the rows of some nodes should be in a step: those of the last step whose bin was theirs, r steps ago."""
    if r == 0:
        return values(original, number)
    bins = bits(Key.root(0).fold(_BINS), original) % r
    out = values(original, 0)
    for sent in range(1, number - r + 1):
        out = torch.where((bins == sent % r)[:, None], values(original, sent), out)
    return out


def moved(plan: HaloPlan, exchange: DelayedExchange, numbers: Iterable[int]) -> list[tuple[Tensor, ...]]:
    """What three lanes of a layer give in each of some steps, and one that is taken twice."""
    came = []
    for number in numbers:
        exchange.begin(step(number))
        lanes = [
            exchange.to_halo(values(plan.wanted_original, number), FORWARD),
            exchange.to_halo(10 * values(plan.wanted_original, number), FORWARD),
            exchange.to_owners(values(plan.halo_original, number), PARTIAL),
            exchange.to_owners(values(plan.halo_original, number), BACKWARD),
        ]
        came.append(tuple(lane.wait() for lane in lanes))
    return came


def delayed(group: Group) -> None:
    """What holds on every worker."""
    for r in (0, 1, 2, 3):
        plan, exchange = opened(r, group)
        before = group.snapshot()
        for number, (halo, twice, partial, gradients) in enumerate(moved(plan, exchange, range(STEPS))):
            assert torch.equal(halo, in_use(plan.halo_original, number, r))
            assert torch.equal(twice, 10 * in_use(plan.halo_original, number, r))
            assert torch.equal(partial, in_use(plan.wanted_original, number, r))
            assert torch.equal(gradients, partial)
        row, sent = 3 * 8, group.since(before)["halo/1/forward"]
        if r:  # all once, and every bin (STEPS - 1) / r times, of two lanes towards mirrors and one towards owners
            bins = [bits(Key.root(0).fold(_BINS), nodes) % r for nodes in (plan.wanted_original, plan.halo_original)]
            wanted, halo = (torch.bincount(one, minlength=r) for one in bins)
            steps = torch.bincount(torch.arange(1, STEPS) % r, minlength=r)
            counted = 2 * (wanted.sum() + wanted @ steps) + halo.sum() + halo @ steps
            assert sent == int(counted) * row
            assert r <= exchange.staleness["1/forward"] < 2 * r
    resumed(group)


def resumed(group: Group) -> None:
    for stop in range(1, STEPS):
        plan, whole = opened(3, group)
        _, before = opened(3, group)
        _, after = opened(3, group)
        expected = moved(plan, whole, range(STEPS))
        moved(plan, before, range(stop))
        after.load_state(before.state())
        for found, wanted in zip(moved(plan, after, range(stop, STEPS)), expected[stop:], strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_bins_take_turns_and_land_late() -> None:
    together(2, delayed)


def test_an_edge_cut_is_refused() -> None:
    with pytest.raises(InputError, match="only a vertex-cut has; choose --partitioner dbh or hdrf"):
        Delayed().open(tiny_plan(Group.alone()), DirectLink(Group.alone()))


def test_an_edge_cut_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only a vertex-cut has; choose --partitioner dbh or hdrf"):
        halo_run(tmp_path, Delayed(), SUMS)


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(InputError, match=r"--halo\.r is -1; expected a number of steps"):
        Delayed(r=-1)


@pytest.mark.parametrize("workers", [2, 3])
def test_mirrors_compute_for_themselves_and_others_sums_are_late(tmp_path: Path, workers: int) -> None:
    """As a replay of everything that was ever sent, in one process."""
    cut = {"partitioner": DegreeBasedHashing(), "parts": workers, "epochs": 9}
    runs = {r: halo_run(tmp_path / str(r), Delayed(r=r), SUMS, **cut) for r in (0, 1, 2, 3)}
    losses = {}
    for (r, run), report in zip(runs.items(), reports(tmp_path, workers, list(runs.values())), strict=True):
        losses[r] = replica_losses(run, r)
        assert report["loss"] == pytest.approx(losses[r], rel=1e-9)
    assert losses[1] != pytest.approx(losses[2], rel=1e-6)
    assert losses[2] != pytest.approx(losses[3], rel=1e-6)


def test_runs_at_the_limit_away_from_it_and_resumed(tmp_path: Path) -> None:
    cut = {"partitioner": DegreeBasedHashing(), "parts": 3}
    runs = []
    for name, model in {"sage": SUMS, "gat": ATTENTION}.items():
        runs += [
            halo_run(tmp_path / f"{name}-exact", Exact(), model, **cut),
            halo_run(tmp_path / f"{name}-limit", Delayed(r=0), model, **cut),
            halo_run(tmp_path / f"{name}-late", Delayed(r=2), model, **cut),
            halo_run(tmp_path / f"{name}-stopped", Delayed(r=2), model, epochs=STOP, **cut),
            halo_run(tmp_path / f"{name}-stopped", Delayed(r=2), model, **cut),
        ]
    told = reports(tmp_path, 2, runs)
    for exact, limit, late, _, resumed_run in (told[:5], told[5:]):
        assert limit["loss"] == pytest.approx(exact["loss"], rel=1e-12)
        assert late["loss"][0] == pytest.approx(exact["loss"][0], rel=1e-12)  # the first step is exact
        assert late["loss"] != pytest.approx(exact["loss"], rel=1e-6)
        assert late["weights_digest"] == resumed_run["weights_digest"]
        assert len(late["loss"]) == EPOCHS

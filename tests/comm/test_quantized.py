"""Quantised links: rows as the kernel rounds them, bytes as counted, feedback that loses nothing, bits worth having."""

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from halo_plans import BACKWARD, FORWARD, opened, step, tiny_plan
from halo_runs import ATTENTION, EPOCHS, STOP, halo_run, reports
from torch import Tensor
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.allotment import CHOICES, Rows, allot, costs
from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.corrected import Corrected
from framework.comm.halo.exact import Exact
from framework.comm.halo.hierarchical import Hierarchical
from framework.comm.halo.link import DirectLink
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.planned import Planned
from framework.comm.halo.quantized import QUANTIZING, Quantized, two_means
from framework.comm.halo.rematerialized import Rematerialized
from framework.comm.halo.strategy import HaloExchange, HaloStrategy
from framework.comm.halo.variable_rate import VariableRate
from framework.config import decode, encode
from framework.errors import InputError
from framework.kernels.quantize import HEADER, dequantize, quantize
from launch.arguments import parse_run
from partitioners.dbh import DegreeBasedHashing

COLUMNS = 9


def features(original: Tensor, number: int = 0, columns: int = COLUMNS) -> Tensor:
    """Rows as unlike as rows are, a function of node and step: float64 [n, columns]."""
    place = torch.arange(1, columns + 1, dtype=torch.float64)
    return torch.sin((original.double() + 1).unsqueeze(1) * place + number) * (1 + original.unsqueeze(1) % 5) ** 3


def halves(
    exchange: HaloExchange, plan: HaloPlan, numbers: Iterable[int], columns: int = COLUMNS
) -> list[tuple[Tensor, Tensor]]:
    """What comes to the halo, and what comes back, in each of some steps."""
    came = []
    for number in numbers:
        exchange.begin(step(number))
        halo = exchange.to_halo(features(plan.wanted_original, number, columns), FORWARD)
        back = exchange.to_owners(features(plan.halo_original, number, columns), BACKWARD)
        came.append((halo.wait().clone(), back.wait().clone()))
    return came


def rounding(group: Group) -> None:
    exact_plan, exact = opened(Exact(), group)
    ((halo, back),) = halves(exact, exact_plan, [0])
    for bits in (1, 2, 4, 8, 16):
        plan, exchange = opened(Quantized(bits=bits), group)  # type: ignore[arg-type]
        before = group.snapshot()
        ((rounded, returned),) = halves(exchange, plan, [0])
        size = HEADER + -(-COLUMNS * bits // 8)
        assert group.since(before) == {
            "halo/1/forward": size * len(plan.wanted_original),
            "halo/1/backward": size * len(plan.halo_original),
        }
        every = torch.full((len(halo),), bits, dtype=torch.uint8)
        key = step(0).key.fold(QUANTIZING, 0)
        expected = dequantize(quantize(halo, every, key, plan.halo_original), every, COLUMNS, halo.dtype)
        assert torch.equal(rounded, expected), "placement does not show: the receiver can round alike"
        assert not torch.equal(returned, back)
        widest = (back.amax(1) - back.amin(1) + back.abs().amax(1) / 64) / (2**bits - 1)
        assert bool(((returned - back).abs() <= widest[:, None] * 1.01).all())
    plan, exchange = opened(Quantized(bits=32, error_feedback=True), group)
    assert all(map(torch.equal, (halo, back), halves(exchange, plan, [0])[0]))
    whole_numbers(group)


def whole_numbers(group: Group) -> None:
    """Flags and counts are no rows to round."""
    plan, exchange = opened(Quantized(bits=1), group)
    exchange.begin(step(0))
    flags = (plan.wanted_original % 2).to(torch.uint8).unsqueeze(1)
    came = exchange.to_halo(flags, FORWARD).wait()
    assert torch.equal(came.squeeze(1), (plan.halo_original % 2).to(torch.uint8))


def feedback(group: Group) -> None:
    """Over steps what arrives is what would arrive of rows as they are, less what is left; and little is left."""
    for bits, inner in itertools.product((1, 2, 4), (Exact(), BoundarySampled(p=0.6), Hierarchical())):
        forgetting = Quantized(bits=bits, inner=inner)  # type: ignore[arg-type]
        plan, exchange = opened(dataclasses.replace(forgetting, error_feedback=True), group)
        arrived = returned(exchange, plan)
        expected, forgetful = (returned(opened(each, group)[1], plan) for each in (inner, forgetting))
        left = [kept for name, kept in exchange.state().items() if "residual" in name]
        assert left, "there is something to keep"
        if not isinstance(inner, Hierarchical):  # where rows go on from host to host, every hop has something left
            travelled = group.exchange(left[0], plan.received, plan.sent, "test")
            assert torch.allclose(arrived, expected - travelled, rtol=1e-12, atol=1e-9)
            widest = features(plan.halo_original).abs().amax(1) * 2
            assert bool((left[0].abs().amax(1) < 3 * widest).all()), "many steps leave no more than a few would"
        missing = torch.stack([(arrived - expected).square().sum(), (forgetful - expected).square().sum()])
        fed, lost = group.all_reduce(missing, "test").sqrt().tolist()
        assert 2 * fed < lost


def returned(exchange: HaloExchange, plan: HaloPlan) -> Tensor:
    """The sum of all gradients that come back in some steps."""
    arrived = torch.zeros(len(plan.wanted), COLUMNS)
    for number in range(25):
        exchange.begin(step(number))
        arrived = arrived + exchange.to_owners(features(plan.halo_original, number % 3), BACKWARD).wait()
    return arrived


def resumed(group: Group) -> None:
    strategies = [
        Quantized(bits=2, error_feedback=True),
        Quantized(bits="auto", period=3, bandwidth=1e4),
        Quantized(bits=1, error_feedback=True, inner=Pipelined()),
        Quantized(bits="auto", period=2, error_feedback=True, inner=BoundarySampled(p=0.5), bandwidth=1e4),
    ]
    for strategy, stop in itertools.product(strategies, (1, 4)):
        plan, whole = opened(strategy, group)
        _, before = opened(strategy, group)
        _, after = opened(strategy, group)
        expected = halves(whole, plan, range(6))
        halves(before, plan, range(stop))
        after.load_state({name: tensor.clone() for name, tensor in before.state().items()})
        for got, wanted in zip(halves(after, plan, range(stop, 6)), expected[stop:], strict=True):
            assert all(map(torch.equal, got, wanted))


def composed(group: Group) -> None:
    """A pipelined row is the rounded row of the step before; a sampled one comes rounded or not at all."""
    plan, now = opened(Quantized(bits=4), group)
    _, late = opened(Quantized(bits=4, inner=Pipelined()), group)
    expected, came = halves(now, plan, range(3)), halves(late, plan, range(3))
    for number in (1, 2):
        assert all(map(torch.equal, came[number], expected[number - 1]))
    _, sampled = opened(Quantized(bits=4, inner=BoundarySampled(p=0.5)), group)
    ((some, _),) = halves(sampled, plan, [0])
    kept = some.abs().sum(1) > 0
    assert 0 < int(kept.sum()) < len(kept)
    assert torch.equal(some[kept], expected[0][0][kept])


def allotted(group: Group) -> None:
    """Both ends know the bits; rows of a wide range get more; a period's bits stay; they cost what they say."""
    columns, strategy = 64, Quantized(bits="auto", period=2, bandwidth=2e4)
    plan, exchange = opened(strategy, group)
    for number in range(4):
        before = group.snapshot()
        ((halo, back),) = halves(exchange, plan, [number], columns)
        kept = {name.removeprefix("own/"): tensor for name, tensor in exchange.state().items()}
        bits = kept["sent/1/forward/halo/0"]
        payload = int((HEADER + columns * bits.long() // 8).sum())
        sent = group.since(before)["halo/1/forward"]
        assert sent == payload if number % 2 else sent > payload, "a new allotment has to be told"
        assert set(bits.tolist()) <= set(CHOICES)
        assert len(set(bits.tolist())) > 1
        told = group.exchange(bits.unsqueeze(1), plan.sent, plan.received, "test").squeeze(1)
        assert torch.equal(told, kept["received/1/forward/halo/0"])
        span = features(plan.wanted_original, number, columns)
        span = span.amax(1) - span.amin(1)
        if number % 2 == 0:
            assert span[bits == bits.max()].min() > span[bits == bits.min()].max() / 30
        exact = features(plan.halo_original, number, columns)
        widest = (exact.amax(1) - exact.amin(1)) / (2.0 ** told.double() - 1)
        assert bool(((halo - exact).abs() <= widest[:, None] * 1.05).all())
        assert back.shape == (len(plan.wanted), columns)


def everything(group: Group) -> None:
    for check in (rounding, feedback, resumed, composed, allotted):
        check(group)


def test_rows_are_rounded_sent_kept_and_resumed() -> None:
    together(3, everything, deadline=60.0)


def test_a_worker_alone_sends_nothing() -> None:
    for strategy in (Quantized(), Quantized(bits="auto"), Quantized(bits=1, error_feedback=True)):
        exchange = strategy.open(tiny_plan(Group.alone()), DirectLink(Group.alone()))
        exchange.begin(step(0))
        assert exchange.to_halo(torch.empty(0, 4), FORWARD).wait().shape == (0, 4)
        assert exchange.to_owners(torch.empty(0, 4), BACKWARD).wait().shape == (0, 4)


def best_of_all(group: Group) -> None:
    settings = [(1e5, 0.5), (1e6, 0.5), (1e7, 0.2), (1e5, 0.0), (1e5, 1.0)]
    for (bandwidth, weight), seed in itertools.product(settings, range(4)):
        generator = np.random.default_rng(seed)
        everyones = [
            [Rows(count=int(generator.integers(1, 12)), spread=float(generator.lognormal(0, 2))) for _ in range(groups)]
            for groups in range(1, group.size + 1)
        ]
        mine = allot(everyones[group.rank], 16, bandwidth, weight, group, "test")
        answer = tuple(CHOICES.index(bits) for each in group.gather_json(mine) for bits in each)
        objectives = all_objectives(everyones, bandwidth, weight)
        assert objectives[answer] == pytest.approx(min(objectives.values()), rel=1e-9, abs=1e-15)


def all_objectives(everyones: list[list[Rows]], bandwidth: float, weight: float) -> dict[tuple[int, ...], float]:
    """What every choice for all workers' groups would come to."""
    several = [rows for each in everyones for rows in each]
    senders = np.array([sender for sender, each in enumerate(everyones) for _ in each])
    variance, sizes = costs(several, 16)
    found = {}
    for choices in itertools.product(range(len(CHOICES)), repeat=len(several)):
        chosen = (np.arange(len(several)), np.array(choices))
        longest = max(sizes[chosen][senders == sender].sum() for sender in set(senders))
        share = variance[chosen].sum() / variance[:, 0].sum()
        found[choices] = float(weight * share + (1 - weight) * longest * 8 / bandwidth)
    return found


def test_the_allotment_is_the_best_of_all() -> None:
    best_of_all(Group.alone())
    together(3, best_of_all)


def test_a_fast_link_gets_more_bits() -> None:
    several = [Rows(count=10_000, spread=1.0 + number) for number in range(4)]
    alone = Group.alone()
    mean = [float(np.mean(allot(several, 128, bandwidth, 0.5, alone, "test"))) for bandwidth in (1e6, 1e8, 1e12)]
    assert mean == [2.0, 4.0, 8.0]
    assert allot([], 128, 1e9, 0.5, alone, "test") == []


def test_two_means_leave_less_than_there_was() -> None:
    rows = torch.randn(50, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) ** 3
    rows[0], rows[1, 1:] = 0.7, 0
    means = two_means(rows)
    assert all(len(row.unique()) <= 2 for row in means)
    torch.testing.assert_close(means.mean(1), rows.mean(1))
    centred = rows - rows.mean(1, keepdim=True)
    bound = centred.square().sum(1) - 33 * centred.abs().mean(1).square()  # what a sign and a magnitude would leave
    assert bool(((rows - means).square().sum(1) <= bound + 1e-12).all())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 3}, r"--halo\.bits is 3; expected 1, 2, 4, 8, 16, 32 or auto"),
        ({"period": 0}, r"--halo\.period is 0; expected"),
        ({"bandwidth": 0.0}, r"--halo\.bandwidth is 0\.0; expected"),
        ({"variance_weight": 1.5}, r"--halo\.variance-weight is 1\.5; expected"),
    ],
)
def test_settings_without_a_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Quantized(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing:
    """A command without options of its own."""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--halo.bits", "4"], Quantized(bits=4)),
        (["--halo.bits", "auto", "--halo.bandwidth", "1e8"], Quantized(bits="auto", bandwidth=1e8)),
        (["--halo.bits=32", "--halo.error-feedback"], Quantized(bits=32, error_feedback=True)),
        (
            ["--halo.inner", "pipelined", "--halo.inner.smoothing", "0.5"],
            Quantized(inner=Pipelined(smoothing=0.5)),
        ),
        (
            ["--halo.inner", "variable-rate", "--halo.inner.inner", "boundary-sampled", "--halo.inner.inner.p", "0.3"],
            Quantized(inner=VariableRate(inner=BoundarySampled(p=0.3))),
        ),
    ],
)
def test_it_is_chosen_by_flags(tmp_path: Path, arguments: list[str], expected: Quantized) -> None:
    run, given = halo_run(tmp_path, Exact()), ["--halo", "quantized", *arguments]
    parsed, _ = parse_run(run, given, Nothing, command="train", example="", about="")
    assert parsed.workload.halo == expected  # type: ignore[attr-defined]
    assert decode(encode(parsed)) == parsed


def test_runs_at_the_limit_and_resumed(tmp_path: Path) -> None:
    fed_back = Quantized(bits=2, error_feedback=True)
    automatic = Quantized(bits="auto", period=3, bandwidth=1e5, inner=Pipelined())
    runs = [
        halo_run(tmp_path / "exact", Exact(), ATTENTION),
        halo_run(tmp_path / "limit", Quantized(bits=32), ATTENTION),
        halo_run(tmp_path / "fine", Quantized(bits=16), ATTENTION),
        halo_run(
            tmp_path / "vertex-cut",
            Quantized(bits=16, error_feedback=True),
            ATTENTION,
            partitioner=DegreeBasedHashing(),
        ),
    ]
    for name, strategy in (("fed-back", fed_back), ("automatic", automatic)):
        runs += [
            halo_run(tmp_path / f"{name}-whole", strategy),
            halo_run(tmp_path / f"{name}-stopped", strategy, epochs=STOP),
            halo_run(tmp_path / f"{name}-stopped", strategy, epochs=EPOCHS),
        ]
    exact, limit, fine, partials, *others = reports(tmp_path, 2, runs)
    assert limit["loss"] == exact["loss"]
    assert limit["sent"]["halo/1/forward"] == exact["sent"]["halo/1/forward"]
    for near in (fine, partials):
        assert near["loss"] == pytest.approx(exact["loss"], rel=1e-3)
        assert near["loss"] != exact["loss"]
    for whole, _, resumed_run in (others[:3], others[3:]):
        assert resumed_run["weights_digest"] == whole["weights_digest"]
        assert resumed_run["loss"] == whole["loss"]
        assert whole["sent"]["halo/1/forward"] < exact["sent"]["halo/1/forward"]


def test_whatever_strategy_sends_its_rows_are_rounded(tmp_path: Path) -> None:
    inner: list[HaloStrategy] = [Bounded(), Planned(), Rematerialized(), Corrected(local_steps=1)]
    runs = [
        halo_run(tmp_path / f"{number}-{place}", strategy, epochs=2)
        for number, each in enumerate(inner)
        for place, strategy in enumerate((each, Quantized(bits=16, inner=each)))
    ]
    told = reports(tmp_path, 2, runs)
    for alone, rounded in zip(told[::2], told[1::2], strict=True):
        assert rounded["loss"] == pytest.approx(alone["loss"], rel=1e-3)
        sent, sent_rounded = (sum_of(report["sent"], "halo/") for report in (alone, rounded))
        assert 2 * sent_rounded < sent, "of 64 bits 16 and the header's share are left"


def sum_of(sent: dict[str, int], beginning: str) -> int:
    """Bytes of all purposes that begin so."""
    return sum(size for purpose, size in sent.items() if purpose.startswith(beginning))

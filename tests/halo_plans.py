"""A tiny plan between a few workers, and what a strategy makes of it: for tests of exchanges without a run."""

from collections.abc import Iterable

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.halo.link import DirectLink, Lane, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange, HaloStrategy
from framework.kernels.csr import build_csr
from framework.random import Key

OWNED = 12  # nodes of each worker; worker r owns the original ids r * OWNED and so on
FORWARD = Lane(layer=1, towards="halo", backward=False)
BACKWARD = Lane(layer=1, towards="owners", backward=True)


def tiny_plan(group: Group, owned: int = OWNED) -> HaloPlan:
    """Worker r wants of worker s the nodes whose place plus r is not divisible by 3: two thirds of them."""

    def wanted_by(worker: int) -> Tensor:
        places = torch.arange(owned)
        return places[(places + worker) % 3 != 0]

    others = [worker for worker in range(group.size) if worker != group.rank]
    wanted = torch.cat([torch.empty(0, dtype=torch.int64), *(wanted_by(worker) for worker in others)])
    mine = wanted_by(group.rank)
    halo = torch.cat([torch.empty(0, dtype=torch.int64), *(mine + owner * owned for owner in others)])
    boundary, row = torch.unique(wanted, return_inverse=True)
    return HaloPlan(
        group=group,
        num_owned=owned,
        wanted=wanted,
        boundary=boundary,
        returning=build_csr(row, torch.arange(len(wanted), dtype=torch.int32), len(boundary)),
        sent=[0 if worker == group.rank else len(wanted_by(worker)) for worker in range(group.size)],
        received=[0 if worker == group.rank else len(mine) for worker in range(group.size)],
        wanted_original=wanted + group.rank * owned,
        halo_original=halo,
    )


def opened(strategy: HaloStrategy, group: Group) -> tuple[HaloPlan, HaloExchange]:
    """The strategy at work over the tiny plan."""
    plan = tiny_plan(group)
    return plan, strategy.open(plan, DirectLink(group))


def step(number: int) -> Step:
    """Step `number` of a run with one step an epoch."""
    return Step(epoch=number, number=0, key=Key.root(7).fold(number))


def values(original: Tensor, number: int, columns: int = 3) -> Tensor:
    """What the row of a node is in a step: another one for every node, step and column. float64 [n, columns]."""
    return (original.to(torch.float64) + 1).unsqueeze(1) * (1 + number) + torch.arange(columns) / 10


def forwards(exchange: HaloExchange, plan: HaloPlan, numbers: Iterable[int]) -> list[Tensor]:
    """What comes to the halo in each of some steps, in one lane."""
    came = []
    for number in numbers:
        exchange.begin(step(number))
        came.append(exchange.to_halo(values(plan.wanted_original, number), FORWARD).wait().clone())
    return came

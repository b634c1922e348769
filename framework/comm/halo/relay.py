"""Rows that are passed on: each goes along a tree of workers from its owner, and what returns is summed along it.

Assumptions: the owner of a row plans the row's tree and tells every worker of it what to send to whom, once; rows are
known by their original ids. A tree's transfers are made in legs, one exchange of all workers each: a worker passes on
in a leg what it has had in one before. A worker has a row from one other at most. Rows whose copies differ (`apart`)
go straight to where they are wanted.
"""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.exact import ExactExchange
from framework.comm.halo.link import Arrival, Lane, Link, Route, Step
from framework.comm.halo.plan import HaloPlan
from framework.graph.block import Block
from framework.kernels.aggregate import spmm_into
from framework.kernels.csr import CSR, build_csr
from framework.kernels.sample import gather_rows, scatter_rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transfers:
    """Who hands rows of this worker to whom, in which leg: t transfers of a row each."""

    leg: Tensor
    """int64 [t]: the leg, from 0."""
    sender: Tensor
    """int64 [t]: the worker that sends."""
    receiver: Tensor
    """int64 [t]: the worker that receives."""
    row: Tensor
    """int64 [t]: the row's original id."""

    @classmethod
    def of(cls, leg: int, sender: Tensor | int, receiver: Tensor | int, row: Tensor) -> "Transfers":
        """Transfers of a leg, which may have a sender or a receiver in common."""
        return cls(
            leg=torch.full_like(row, leg),
            sender=torch.as_tensor(sender).expand_as(row),
            receiver=torch.as_tensor(receiver).expand_as(row),
            row=row,
        )

    @classmethod
    def concatenate(cls, several: Sequence["Transfers"]) -> "Transfers":
        """All of them."""
        legs = torch.cat([each.leg for each in several])
        senders = torch.cat([each.sender for each in several])
        receivers = torch.cat([each.receiver for each in several])
        return cls(leg=legs, sender=senders, receiver=receivers, row=torch.cat([each.row for each in several]))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Leg:
    """One exchange of all workers, as this worker sees it. It has a table of rows: the copies that the plan sends, then
    what arrived leg by leg."""

    name: str
    """What its bytes are counted under."""
    outward: Route
    """Towards the halo: s rows sent, r received."""
    homeward: Route
    """Towards the owners: the other way round."""
    taken: Tensor
    """int64 [s]: places in the table of the rows sent."""
    received: slice
    """Places in the table of the rows received."""
    places: Tensor
    """int64 [p]: the places that `taken` names, each once."""
    returning: CSR
    """[p, s]: which of the rows sent each of them is; sums what comes back for it, in a fixed order."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Relay:
    """What this worker sends, receives and passes on."""

    legs: Sequence[Leg]
    """In order; those in which no worker sends anything are left out."""
    rows: int
    """Rows of the table."""
    copies: int
    """Rows of the plan's copies, the first of the table."""
    halo: Tensor
    """int64 [h]: places in the table of the halo's rows."""

    @classmethod
    def open(cls, plan: HaloPlan, transfers: Transfers, names: Sequence[str]) -> "Relay":
        """Tells the workers of each transfer what to do, once. All workers call this together, with a name a leg."""
        known, group = _told(plan, transfers), plan.group
        used = group.all_reduce(torch.bincount(known.leg, minlength=len(names)), "state").tolist()
        table = _Table.of(plan.wanted_original)
        legs, rows = [], len(plan.wanted_original)
        for number, name in enumerate(names):
            if not used[number]:
                continue
            out = _chosen(known, (known.leg == number) & (known.sender == group.rank), known.receiver)
            into = _chosen(known, (known.leg == number) & (known.receiver == group.rank), known.sender)
            sent = torch.bincount(out.receiver, minlength=group.size).tolist()
            received = torch.bincount(into.sender, minlength=group.size).tolist()
            taken, arriving = table.places_of(out.row), slice(rows, rows + len(into.row))
            places, position = torch.unique(taken, return_inverse=True)
            returning = build_csr(position, torch.arange(len(taken), dtype=torch.int32), len(places))
            device = plan.wanted.device
            leg = Leg(
                name=name,
                outward=Route(sent=sent, received=received, sent_original=out.row),
                homeward=Route(sent=received, received=sent, sent_original=into.row),
                taken=taken.to(device),
                received=arriving,
                places=places.to(device),
                returning=returning.to(device),
            )
            legs.append(leg)
            table, rows = table.with_rows(into.row, rows), arriving.stop
        halo = table.places_of(plan.halo_original).to(plan.wanted.device)
        return cls(legs=legs, rows=rows, copies=len(plan.wanted_original), halo=halo)


class RelayedExchange:
    """A HaloExchange whose rows take the ways of a relay."""

    share = 1.0

    def __init__(self, plan: HaloPlan, link: Link, relay: Relay) -> None:
        self.link, self.relay, self.direct = link, relay, ExactExchange(plan, link)

    def begin(self, step: Step) -> None:
        """Every step is alike."""
        self.link.begin(step)

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns]. The first leg is under way at once, the others when it is waited for."""
        if lane.apart:
            return self.direct.to_halo(copies, lane)
        return _Passed(_outward(self.relay, self.link, lane, copies))

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns]: of a row's copies one is the sum of all that came, the others are 0."""
        if lane.apart:
            return self.direct.to_owners(halo, lane)
        return _Passed(_homeward(self.relay, self.link, lane, halo))

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """The link's."""
        return self.link.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The link's."""
        self.link.load_state(state)


Journey = Generator[Arrival, Tensor, Tensor]
"""Sends rows leg by leg: gives what is under way, is sent what has arrived, and returns what came of it."""


class _Passed:
    """Rows that are passed on (an Arrival)."""

    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self._arrival: Arrival | None = None
        self._rows: Tensor | None = None
        self._go_on(next, journey)

    def wait(self) -> Tensor:
        """Goes all the way."""
        while self._rows is None:
            assert self._arrival is not None
            self._go_on(self._journey.send, self._arrival.wait())
        return self._rows

    def _go_on(self, step: Callable[[Any], Arrival], given: Any) -> None:
        try:
            self._arrival = step(given)
        except StopIteration as end:
            self._rows = end.value


def _outward(relay: Relay, link: Link, lane: Lane, copies: Tensor) -> Journey:
    """[copies, columns] -> [h, columns]."""
    table = copies.new_empty(relay.rows, copies.shape[1])
    table[: relay.copies] = copies
    for leg in relay.legs:
        rows = gather_rows(table, leg.taken)
        table[leg.received] = yield link.send(rows, leg.outward, dataclasses.replace(lane, leg=leg.name))
    return gather_rows(table, relay.halo)


def _homeward(relay: Relay, link: Link, lane: Lane, halo: Tensor) -> Journey:
    """[h, columns] -> [copies, columns]."""
    table = halo.new_zeros(relay.rows, halo.shape[1])
    scatter_rows(table, relay.halo, halo)
    for leg in reversed(relay.legs):
        rows = table[leg.received]
        back = yield link.send(rows, leg.homeward, dataclasses.replace(lane, leg=leg.name))
        spmm_into(table, leg.places, leg.returning.indptr, leg.returning.indices, back)
    return table[: relay.copies]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """Which rows a worker has had, and where it keeps them."""

    ids: Tensor
    """int64 [r]: original ids, increasing."""
    places: Tensor
    """int64 [r]."""

    @classmethod
    def of(cls, ids: Tensor) -> "_Table":
        """Rows as they stand; of equal ones the first."""
        order = torch.argsort(ids, stable=True)
        distinct, counts = torch.unique_consecutive(ids[order], return_counts=True)
        return cls(ids=distinct, places=order[counts.cumsum(0) - counts])

    def with_rows(self, ids: Tensor, first: int) -> "_Table":
        """With rows that have arrived, kept from place `first` on."""
        ids, order = torch.cat([self.ids, ids]).sort()
        places = torch.cat([self.places, torch.arange(first, first + len(ids) - len(self.ids))])
        assert bool((ids.diff() > 0).all()), "a row is had from one worker alone"
        return _Table(ids=ids, places=places[order])

    def places_of(self, ids: Tensor) -> Tensor:
        """Where rows are kept: int64 [n] -> int64 [n]."""
        found = torch.searchsorted(self.ids, ids)
        assert torch.equal(self.ids[found.clamp(max=max(0, len(self.ids) - 1))], ids), "a row is had before it is sent"
        return self.places[found]


def _told(plan: HaloPlan, mine: Transfers) -> Transfers:
    """The transfers that this worker makes or is made, of rows of all workers."""
    group = plan.group
    each = torch.stack([mine.leg, mine.sender, mine.receiver, mine.row], dim=1)
    told = torch.cat([mine.sender, mine.receiver])
    counts = torch.bincount(told, minlength=group.size).tolist()
    coming = group.exchange_counts(counts, "state")
    rows = each.repeat(2, 1)[torch.argsort(told, stable=True)]
    leg, sender, receiver, row = group.exchange(rows, counts, coming, "state").t().contiguous()
    return Transfers(leg=leg, sender=sender, receiver=receiver, row=row)


def _chosen(transfers: Transfers, chosen: Tensor, other: Tensor) -> Transfers:
    """Those chosen, by the other worker and then by row: both ends have them in this order."""
    places = torch.nonzero(chosen).squeeze(1)
    places = places[torch.argsort(transfers.row[places], stable=True)]
    places = places[torch.argsort(other[places], stable=True)]
    return Transfers(
        leg=transfers.leg[places],
        sender=transfers.sender[places],
        receiver=transfers.receiver[places],
        row=transfers.row[places],
    )

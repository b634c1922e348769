"""Bounded staleness: rows are sent only when those that the others keep are older, or other, than a bound allows.

Peng et al., "Sancus: Staleness-aware communication-avoiding full-graph decentralized training in large-scale graph
neural networks", PVLDB 15(9), 2022; the bound on age is that of Thorpe et al., "Dorylus", OSDI 2021, without its
asynchrony. Three bounds:

    epochs      rows may be `gap` steps old: all lanes are sent in every (gap + 1)-th step
    adaptive    the age allowed grows as training settles: log2(epoch + 1), rounded down, up to `gap`
    variation   a worker sends a peer its rows when they differ from those it sent last by more than `variation`

How the age grows in the second is ours. By the first two both sides know when rows come. By the third the sender alone
does, and says so first: a byte for every worker and lane, counted under the lane's `flags`. Dropout of p changes rows
by a share of sqrt(2 p) in every step, whatever the network learns: `variation` has to be above that to save anything.

Gradients of halo rows are treated as rows are. Exact limit: gap=0, or variation=0.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from framework.comm.halo.chosen import Slots, send_some
from framework.comm.halo.lanes import Visits, load_link, with_link
from framework.comm.halo.link import Arrival, Arrived, Lane, Link, Route, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.errors import InputError
from framework.graph.block import Block
from framework.registry import HALOS


@HALOS.register("bounded")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded:
    """Rows only when older or other than a bound allows (SANCUS; Peng et al., VLDB 2022). gap=0, variation=0: exact."""

    bound: Literal["epochs", "adaptive", "variation"] = "epochs"
    """What is bounded: the age of rows (`epochs`), the same by a bound that grows (`adaptive`), or their change."""
    gap: int = 2
    """Steps that rows may be old, or may come to be."""
    variation: float = 0.1
    """Change of a worker's rows for a peer since it sent them last, as a share of their size, that is not sent."""
    measure: Literal["mean", "max"] = "mean"
    """The size of rows and of their change: root `mean` square over rows, or the `max` of a row."""

    def __post_init__(self) -> None:
        if self.bound not in ("epochs", "adaptive", "variation"):
            raise InputError(f"--halo.bound is {self.bound!r}; expected epochs, adaptive or variation.")
        if self.measure not in ("mean", "max"):
            raise InputError(f"--halo.measure is {self.measure!r}; expected mean or max.")
        if self.gap < 0:
            raise InputError(f"--halo.gap is {self.gap!r}; expected a number of steps, at least 0.")
        if not self.variation >= 0:
            raise InputError(f"--halo.variation is {self.variation!r}; expected a share, at least 0.")

    def age_allowed(self, epoch: int) -> int:
        """Steps that rows may be old in an epoch."""
        return min(self.gap, (epoch + 1).bit_length() - 1) if self.bound == "adaptive" else self.gap

    def unchanged(self, rows: Tensor, before: Tensor) -> bool:
        """Whether rows [rows, columns] are, within the bound, those sent before; rows of no size are when equal."""
        changed, size = (some.norm(dim=1) for some in (rows - before, before))
        if self.measure == "mean":
            return bool(changed.norm() <= self.variation * size.norm())
        return not len(rows) or bool(changed.max() <= self.variation * size.max())

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return BoundedExchange(self, plan, link)


class BoundedExchange:
    """Rows to the halos and gradients to the owners, kept there until others come."""

    share = 1.0

    def __init__(self, strategy: Bounded, plan: HaloPlan, link: Link) -> None:
        self.strategy, self.plan, self.link = strategy, plan, link
        self.staleness: dict[str, int] = {}  # lane -> steps since the oldest rows that it used last were sent
        self._caches: dict[str, _Cache] = {}
        self._visits = Visits()
        self._epoch = 0

    def begin(self, step: Step) -> None:
        """The age allowed may depend on the epoch."""
        self.link.begin(step)
        self._visits.begin()
        self._epoch = step.epoch

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns], some of an earlier step."""
        return self._bounded(copies, self.plan.route("halo"), lane)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns], some of an earlier step."""
        return self._bounded(halo, self.plan.route("owners"), lane)

    def _bounded(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        cache = self._caches.setdefault(self._visits.name(lane), _Cache())
        if self.strategy.bound == "variation":
            arrival = self._changed(cache, rows, route, lane)
        else:
            arrival = self._aged(cache, rows, route, lane)
        self.staleness[lane.name] = max(
            (age for age, n in zip(cache.ages, route.received, strict=True) if n), default=0
        )
        return arrival

    def _aged(self, cache: "_Cache", rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """All workers send, or none does."""
        due = cache.kept is None or cache.ages[0] >= self.strategy.age_allowed(self._epoch)
        cache.grow_older([due] * len(route.received))
        return _Kept(arrival=self.link.send(rows, route, lane), cache=cache) if due else cache.arrived()

    def _changed(self, cache: "_Cache", rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Every worker sends those peers to which its rows are news."""
        if cache.sent is None:  # nobody has sent anything yet
            cache.sent = rows.clone()
            cache.grow_older([True] * len(route.received))
            return _Kept(arrival=self.link.send(rows, route, lane), cache=cache)
        pairs = zip(*(some.split_with_sizes(route.sent) for some in (rows, cache.sent)), strict=True)
        news = [not self.strategy.unchanged(new, old) for new, old in pairs]
        coming = self._told(news, lane)
        here, there = _all_of(route.sent, news, rows.device), _all_of(route.received, coming, rows.device)
        cache.sent.index_copy_(0, here.places, rows[here.places])
        cache.grow_older(coming)
        return _Kept(arrival=send_some(rows, here, there, self.link, lane), cache=cache, slots=there)

    def _told(self, news: Sequence[bool], lane: Lane) -> list[bool]:
        """Which workers will send, each having been told which this one will send to."""
        ones = [1] * len(news)
        told = self.plan.group.exchange(torch.tensor(news, dtype=torch.uint8), ones, ones, f"halo/{lane.name}/flags")
        return [bool(flag) for flag in told.tolist()]

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """For every lane the rows that came last, their ages and, where it matters, the rows sent last."""
        own = {f"{name}/{part}": rows for name, cache in self._caches.items() for part, rows in cache.state().items()}
        return with_link(own, self.link)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        for path, rows in load_link(state, self.link).items():
            name, _, part = path.rpartition("/")
            self._caches.setdefault(name, _Cache()).load(part, rows, self.plan.wanted.device)


class _Cache:
    """What one lane keeps between steps."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None  # the rows that came last, from every worker
        self.sent: Tensor | None = None  # the rows sent last, to every worker
        self.ages: list[int] = []  # steps since each worker's rows were sent

    def grow_older(self, news: list[bool]) -> None:
        """A step has come; `news`: from which workers new rows come."""
        ages = self.ages or [0] * len(news)
        self.ages = [0 if new else age + 1 for new, age in zip(news, ages, strict=True)]

    def arrived(self) -> Arrived:
        """What there is."""
        assert self.kept is not None, "rows are kept from the first step on"
        return Arrived(rows=self.kept)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name."""
        state = {"kept": self.arrived().rows, "ages": torch.tensor(self.ages)}
        return state if self.sent is None else {**state, "sent": self.sent}

    def load(self, part: str, rows: Tensor, device: torch.device) -> None:
        """One entry of `state`."""
        if part == "ages":
            self.ages = rows.tolist()
        elif part == "sent":
            self.sent = rows.to(device)
        else:
            self.kept = rows.to(device)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """New rows on their way into a cache; with them all rows of the lane are as they are to be used (an Arrival)."""

    arrival: Arrival
    """The rows."""
    cache: _Cache
    """Where they are kept."""
    slots: Slots | None = None
    """Their places. None: they are all."""

    def wait(self) -> Tensor:
        """All rows, new and old."""
        rows = self.arrival.wait()
        if self.slots is None:
            self.cache.kept = rows
        else:
            self.cache.arrived().rows.index_copy_(0, self.slots.places, rows)
        return self.cache.arrived().rows


def _all_of(counts: list[int], chosen: Sequence[bool], device: torch.device) -> Slots:
    """Every row of the workers that are chosen."""
    return Slots.choose(
        counts, lambda worker, rows: torch.arange((rows.stop - rows.start) if chosen[worker] else 0), device
    )

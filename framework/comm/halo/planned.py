"""Planned halo exchange: rows that several workers want go along trees over the links that there are.

Cai et al., "DGCL: An efficient communication library for distributed GNN training", EuroSys 2021. Where links are
unlike (hosts of several workers, rings, pairs with a link of their own) a row is better passed on by a worker that is
near than sent by its owner to everybody. Where all links are alike and a switch joins them, next to nothing is gained:
every worker has to receive its halo, and the direct exchange keeps no link busy for longer, but a sender's whose
boundary is above the others' halos.
"""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from framework.comm.halo.link import Link
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.relay import Relay, RelayedExchange, Transfers
from framework.comm.halo.spanning import Heap, Links, spanning_trees
from framework.comm.halo.strategy import HaloExchange
from framework.comm.rows import all_rows
from framework.errors import InputError
from framework.registry import HALOS


@HALOS.register("planned")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """Rows go along trees that keep the busiest link short, and gradients are summed along them (DGCL, 2021). Exact."""

    faithful: ClassVar[bool] = True
    """Every row comes as it is."""
    within: float = 0.1
    """Time of a row between workers of a host, in any unit."""
    between: float = 1.0
    """Time of a row over a host's link to the others, in the same unit. What a host sends and what it receives do not
    get into each other's way."""
    seconds: tuple[float, ...] = ()
    """Instead of both, where pairs have links of their own: time of a row from worker i to j at i * workers + j."""
    stages: int = 2
    """Exchanges in which a row comes from its owner to everybody: 1 is the direct exchange."""
    heaps: int = 256
    """Heaps into which the rows of all workers are divided; each is planned on its own."""
    sets: int = 4096
    """Sets of wanting workers whose rows are planned, over all workers; rows of rarer sets go straight."""

    def __post_init__(self) -> None:
        times = {"within": (self.within,), "between": (self.between,), "seconds": self.seconds}
        for name, given in times.items():
            if not all(0 < time < math.inf for time in given):
                raise InputError(f"--halo.{name} is {given[0] if len(given) == 1 else given}; expected times above 0.")
        for name, number in {"stages": self.stages, "heaps": self.heaps, "sets": self.sets}.items():
            if number < 1:
                raise InputError(f"--halo.{name} is {number}; expected a whole number of at least 1.")

    def links(self, hosts: tuple[str, ...]) -> Links:
        """What transfers between workers on `hosts` keep busy. Raises InputError for times of other pairs."""
        if not self.seconds:
            return Links.of_hosts(hosts, self.within, self.between)
        if len(self.seconds) != len(hosts) ** 2:
            raise InputError(
                f"--halo.seconds has {len(self.seconds)} times; expected {len(hosts) ** 2}, one from each of "
                f"{len(hosts)} workers to each."
            )
        return Links.of_pairs(self.seconds, len(hosts))

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`. All workers plan the trees of all rows alike."""
        names = [f"stage-{stage}" for stage in range(self.stages)]
        return RelayedExchange(plan, link, Relay.open(plan, self._along_trees(plan), names))

    def _along_trees(self, plan: HaloPlan) -> Transfers:
        """The ways of this worker's rows. All workers call this together."""
        group = plan.group
        receiver = torch.repeat_interleave(torch.arange(group.size), torch.tensor(plan.sent))
        ids, row = torch.unique(plan.wanted_original, return_inverse=True)
        wanting = torch.zeros(len(ids), group.size, dtype=torch.int64)
        wanting[row, receiver] = 1
        rows_of_all = int(group.all_reduce(torch.tensor(len(ids)), "state"))
        own, heap = _heaped(wanting, rows_of_all // self.heaps + 1, self.sets // group.size)
        straight = heap[row] < 0
        direct = all_rows(group, wanting[heap < 0].sum(0, keepdim=True), "state")
        every = all_rows(
            group, torch.cat([own[:, :1], torch.full_like(own[:, :1], group.rank), own[:, 1:]], dim=1), "state"
        )
        every = every[torch.argsort(every[:, 0], stable=True)]  # owners take turns; one's own stay in order
        found = [
            Heap(owner=owner, wanting=tuple(worker for worker, wanted in enumerate(wants) if wanted), rows=rows)
            for _, owner, rows, *wants in every.tolist()
        ]
        trees = spanning_trees(found, self.links(group.hosts), self.stages, direct.numpy())
        mine = [tree for tree, each in zip(trees, found, strict=True) if each.owner == group.rank]
        ways = [Transfers.of(0, group.rank, receiver[straight], plan.wanted_original[straight])]
        for number, tree in enumerate(mine):
            rows_of_heap = ids[heap == number]
            ways += [Transfers.of(stage, sender, taker, rows_of_heap) for stage, sender, taker in tree]
        return Transfers.concatenate(ways)


def _heaped(wanting: Tensor, size: int, most_sets: int) -> tuple[Tensor, Tensor]:
    """Divides rows into heaps of at most `size` that the same workers want; those of rare sets of workers into none.

    `wanting` int64 [rows, workers], 0 or 1. Returns for each heap its place among those of its set, its rows, and the
    workers that want it, int64 [heaps, 2 + workers], by place; and the heap of each row, or -1, int64 [rows]."""
    sets, member, counts = torch.unique(wanting, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(member, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[member[order]]
    frequent = torch.zeros(len(sets), dtype=torch.bool)
    frequent[torch.argsort(counts, descending=True, stable=True)[:most_sets]] = True
    planned = frequent[member]
    names = torch.stack([place // size, member], dim=1)[planned]
    heaps, heap_of_planned, rows = torch.unique(names, dim=0, return_inverse=True, return_counts=True)
    heap = torch.full_like(member, -1)
    heap[planned] = heap_of_planned
    return torch.cat([heaps[:, :1], rows.unsqueeze(1), sets[heaps[:, 1]]], dim=1), heap

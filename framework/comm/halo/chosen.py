"""Some of the plan's rows on their way, and the edges from them: what strategies that leave rows out have in common.

Assumptions: rows that do not come read as 0, in their full place; a layer that looks at single edges gets the edges
from sources that came. What is chosen stays chosen for as long as an object of these lives: a step, or a run.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from framework.comm.halo.link import Arrival, Lane, Link, Route
from framework.graph.block import Block
from framework.graph.split import only_sources


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """The chosen ones of the rows that a plan has at one of its ends."""

    places: Tensor
    """int64 [chosen]: their places among the plan's rows, increasing. On the device."""
    counts: list[int]
    """How many of them belong to each worker."""
    rows: int
    """Rows that the plan has at this end."""

    @classmethod
    def choose(cls, counts: list[int], pick: Callable[[int, slice], Tensor], device: torch.device) -> "Slots":
        """Of the `counts` rows that belong to each worker those that `pick(worker, rows)` gives: int64, increasing,
        counted from the worker's first."""
        picked, first = [torch.empty(0, dtype=torch.int64)], 0
        for worker, count in enumerate(counts):
            picked.append(pick(worker, slice(first, first + count)) + first)
            first += count
        places = torch.cat(picked).to(device)
        return cls(places=places, counts=[len(some) for some in picked[1:]], rows=first)

    def spread(self, some: Tensor) -> Tensor:
        """[chosen, columns] -> [rows, columns]: 0 where nothing came."""
        return some.new_zeros(self.rows, *some.shape[1:]).index_copy_(0, self.places, some)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """Some rows on their way to the places of all (an Arrival)."""

    some: Arrival
    """The rows."""
    slots: Slots
    """Their places."""

    def wait(self) -> Tensor:
        """All rows of the plan, those that did not come as 0."""
        return self.slots.spread(self.some.wait())


def send_some(rows: Tensor, here: Slots, there: Slots, link: Link, lane: Lane) -> Arrival:
    """Of all rows of the plan [here.rows, columns] sends those chosen `here`; those chosen `there` will come."""
    route = Route(sent=here.counts, received=there.counts, sent_slots=here.places, received_slots=there.places)
    return link.send(rows[here.places], route, lane)


class KeptEdges:
    """Blocks without the edges from halo nodes whose rows do not come; each block that is asked for is made once."""

    def __init__(self, came: Tensor) -> None:
        """`came`: bool [h], on the device: the halo nodes whose rows come."""
        self._came, self._made = came, list[tuple[Block, Block]]()

    def of(self, local: Block) -> Block:
        """The block's edges from owned nodes, and from halo nodes that came."""
        for whole, kept in self._made:
            if whole is local:
                return kept
        kept = only_sources(local, torch.cat([self._came.new_ones(local.num_owned), self._came]))
        self._made.append((local, kept))
        return kept

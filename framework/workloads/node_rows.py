"""Feature rows of nodes as a worker computes with them.

Those of a step can be under way while the step before is computed; those of the whole graph are kept for the run.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from framework.comm.cache.policy import Cache, Outlook, chosen
from framework.comm.features import Features, RowsUnderWay
from framework.comm.group import CPU
from framework.comm.reach import Shards
from framework.errors import InputError
from framework.graph.block import Block, GraphBlock, Nodes
from framework.kernels.sample import gather_rows, unique_relabel
from framework.memory import RowsOnDisk

T = TypeVar("T")
Begun = tuple[RowsUnderWay, Callable[[], T]]
"""Rows that something waits for, and what makes it of them."""


class NodeRows:
    """A worker's feature rows, on its device and in its type."""

    def __init__(self, features: Features, device: torch.device, dtype: torch.dtype) -> None:
        self.features, self.device, self.dtype = features, device, dtype
        self.kept: list[tuple[Tensor, Tensor, int]] = []
        self._resting: list[RowsOnDisk] = []

    @property
    def shards(self) -> Shards:
        """Where the rows lie."""
        return self.features.shards

    def begin(self, nodes: Nodes) -> RowsUnderWay:
        """Asks for rows of nodes; `finish` gives them. All workers call this together."""
        return self.features.begin(nodes.ids)

    def finish(self, under_way: RowsUnderWay) -> Tensor:
        """The rows that were asked for: [n, columns]."""
        return under_way.wait().to(self.device, self.dtype)

    def of(self, nodes: Nodes) -> Tensor:
        """Both at once."""
        return self.finish(self.begin(nodes))

    def asked(self, nodes: Nodes, *, repeated: bool) -> "Begun[Tensor]":
        """Asks for rows of nodes, and gives them when they are wanted: [n, columns].

        `repeated`: a node may be among them several times; its row is sent, and crosses to the device, once."""
        if not repeated:
            under_way = self.begin(nodes)
            return under_way, lambda: self.finish(under_way)
        ids, places, _ = unique_relabel(nodes.ids[:0], nodes.ids)
        of_each = self.features.begin(ids)
        return of_each, lambda: gather_rows(self.finish(of_each), places.to(self.device))

    def keep(self, cache: Cache, outlook: Outlook) -> None:
        """Fetches what a cache chooses, once. All workers call this together. Raises PluginError."""
        row_bytes = self.shards.store.num_features * torch.float32.itemsize + torch.int64.itemsize
        self.features.keep(chosen(cache, outlook, int(cache.megabytes * 1e6) // row_bytes))

    def of_layer(self, first: GraphBlock) -> Tensor:
        """Rows that a first layer over the whole graph needs, of other workers' nodes too: fetched once and kept.

        Evaluation shares them with training where the layers have the same sources, which most layouts see to. Raises
        InputError where a network has changed them in place: every later step would learn from other features."""
        sources = first.sources
        for ids, rows, version in self.kept:
            if ids is sources.ids:  # the same on every worker, which equal ids need not be
                if rows._version != version:
                    raise InputError(
                        "the network of --model changes the rows that it is given in place (as by x.mul_, or dropout "
                        "with inplace=True), and these are kept for every step; let it make rows of its own."
                    )
                return rows
        rows = self._for_long(sources)
        self.kept.append((sources.ids, rows, rows._version))
        return rows

    def _for_long(self, nodes: Nodes) -> Tensor:
        """Rows that are kept for the whole run: beside the store, where workers compute in its type.

        Sums of them over neighbours are mostly all that a step needs, and those are kept, too."""
        if (self.device, self.dtype) != (CPU, torch.float32):
            return self.of(nodes)
        try:
            kept = RowsOnDisk(len(nodes), self.shards.store.num_features, self.shards.store.path.parent)
        except OSError:  # a store that others have written, on a disk that is theirs or full
            return self.of(nodes)
        self._resting.append(kept)
        return self.features.begin(nodes.ids).wait(kept.rows)

    def rest(self) -> None:
        """What is kept takes no memory until it is used again, where that can be."""
        for kept in self._resting:
            kept.rest()


def finished(begun: Iterator[Begun[T]], ahead: int, *, early: bool = False) -> Iterator[T]:
    """Finishes what was begun, in its order, while the rows of the next `ahead` are under way.

    `early`: it is told one further ahead which rows are wanted, and two how many: so that a worker that is to send
    rows knows them before it is free to, and no link waits for a question. What was begun is held for that long."""
    waiting = deque[Begun[T]]()
    lead = ahead + 2 if early and ahead else ahead
    for one in begun:
        waiting.append(one)
        del one  # or rows that have come would be held here for as long as their batch is computed with
        if len(waiting) > lead:
            yield _first_finished(waiting, ahead)
    while waiting:
        yield _first_finished(waiting, ahead)


def _first_finished(waiting: "deque[Begun[T]]", ahead: int) -> T:
    for place in reversed(range(len(waiting))):  # what is short is sent before what would keep it waiting
        rows, _ = waiting[place]
        if place <= ahead:
            rows.send_rows()
        elif place == ahead + 1:
            rows.send_ids()
    _, finish = waiting.popleft()
    return finish()


def placed(blocks: Sequence[Any], device: torch.device) -> list[Any]:
    """Layers with their edges on `device`."""
    return [block.to(device) if isinstance(block, Block) else block for block in blocks]

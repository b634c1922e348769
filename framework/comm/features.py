"""Feature rows of any nodes: by memory where the shard is mapped, from the owner through the group elsewhere.

Rows of other workers' nodes can be kept (`keep`), and be under way while something else is done (`begin`, `wait`).

Assumption: a table of features is most of a shard. Where its rows are copied once, for a whole training, it is mapped
for that alone: pages of a mapping stay resident for as long as the mapping does.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from framework.comm.group import Pending
from framework.comm.reach import Routes, Shards
from framework.errors import InputError
from framework.kernels.sample import gather_rows, scatter_rows

FILLING = "features/cache"
"""What the rows that are kept are counted as, once."""
Fill = Callable[[Tensor], None]
"""Writes some of the rows [n, columns] it is given."""


class Features:
    """Reads rows of the store's features."""

    def __init__(self, shards: Shards, *, once: bool = False) -> None:
        """`once`: rows are asked for a few times in all, each time many, and copied; no page stays resident."""
        self.shards, self.once = shards, once
        self.kept: KeptRows | None = None
        if shards.store.num_features == 0:
            raise InputError(
                f"{shards.store.path} holds no features; a model of nodes needs at least one column: x in an .npz, "
                "else --data.features or --data.columns."
            )

    def rows(self, ids: Tensor) -> Tensor:
        """The feature rows of `ids` (int64 [n], distinct): float32 [n, columns]. All workers call this together."""
        return self.begin(ids).wait()

    def begin(self, ids: Tensor) -> "RowsUnderWay":
        """Asks the owners of `ids` (int64 [n], distinct) for their rows, and answers what others ask.

        All workers call this together, and wait for the rows in the order in which they were begun."""
        return self._begin(ids, "features")

    def keep(self, ids: Tensor) -> None:
        """From now on has the rows of `ids` (int64 [n], distinct) in memory. All workers call this together."""
        ids = ids.sort().values
        self.kept = KeptRows(ids=ids, rows=self._begin(ids, FILLING).wait())

    def _begin(self, ids: Tensor, purpose: str) -> "RowsUnderWay":
        routes = self.shards.by_part(ids)
        fills: list[Fill] = [lambda out: self._read_near(ids, routes, out)]
        if self.shards.asks:
            asked, counts = routes.order[routes.start :], routes.far
            if self.kept is not None:
                hit, fill = self.kept.among(ids, asked)
                fills.append(fill)
                asked = asked[~hit]
                counts = torch.bincount(self.shards.worker_of(ids[asked]), minlength=len(counts)).tolist()
            far = self._far(ids[asked], counts, purpose)
            fills.append(lambda out: scatter_rows(out, asked, far.wait()))
        return RowsUnderWay(shape=(len(ids), self.shards.store.num_features), fills=tuple(fills))

    def _read_near(self, ids: Tensor, routes: Routes, out: Tensor) -> None:
        """Copies into `out` [n, columns] the rows of those of `ids` that this worker reads by memory."""
        for part, run in routes.near:
            where = routes.order[run]
            if len(where) == len(ids):
                gather_rows(self._table(part), ids - self.shards.mapped[part].first, out=out)
            else:
                scatter_rows(out, where, self._near(part, ids[where]))

    def _near(self, part: int, ids: Tensor) -> Tensor:
        return gather_rows(self._table(part), ids - self.shards.mapped[part].first)

    def _table(self, part: int) -> Tensor:
        table = self.shards.store.column(part, "features") if self.once else self.shards.mapped[part].features
        assert table is not None  # the store's schema has features, so every shard of it does
        return table

    def _far(self, ids: Tensor, counts: list[int], purpose: str) -> Pending:
        group = self.shards.group
        asked = group.exchange_counts(counts)
        wanted = group.exchange(ids, counts, asked, purpose)
        return group.exchange_async(self._served(wanted), asked, counts, purpose)

    def _served(self, ids: Tensor) -> Tensor:
        """Rows that others ask for, all of them owned here."""
        rows = torch.empty(len(ids), self.shards.store.num_features)
        self._read_near(ids, self.shards.by_part(ids), rows)
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeptRows:
    """Rows of other workers' nodes, in memory."""

    ids: Tensor
    """int64 [n], increasing."""
    rows: Tensor
    """float32 [n, columns]."""

    def among(self, ids: Tensor, some: Tensor) -> tuple[Tensor, Fill]:
        """Which of ids[some] are here, `some` int64 [m] -> bool [m]; and what copies their rows to where `ids` are."""
        place = torch.searchsorted(self.ids, ids[some])
        hit = torch.zeros(len(some), dtype=torch.bool)
        inside = place < len(self.ids)
        hit[inside] = self.ids[place[inside]] == ids[some[inside]]
        there, here = some[hit], place[hit]
        return hit, lambda out: scatter_rows(out, there, gather_rows(self.rows, here))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RowsUnderWay:
    """Rows that were asked for: those of other workers come, all others are read when they are waited for."""

    shape: tuple[int, int]
    """Nodes and columns."""
    fills: tuple[Fill, ...]
    """What reads some of the rows each, the last one those that come."""

    def wait(self, out: Tensor | None = None) -> Tensor:
        """The rows: float32 [n, columns]; in `out`, where that is given. Raises LostWorkerError."""
        out = torch.empty(self.shape) if out is None else out
        for fill in self.fills:
            fill(out)
        return out

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
PIECE = 32 << 20
"""Bytes of the rows that a worker asks for at a time to keep them."""
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
        """Asks the owners of `ids` (int64 [n], distinct) for their rows.

        All workers call this together, and do all with such rows in the same order."""
        return RowsUnderWay(self, ids, "features")

    def keep(self, ids: Tensor) -> None:
        """From now on has the rows of `ids` (int64 [n], distinct) in memory. All workers call this together."""
        ids = ids.sort().values
        columns = self.shards.store.num_features
        rows = _empty(len(ids), columns)
        size = max(1, PIECE // (columns * rows.element_size()))
        for piece in range(max(self.shards.group.gather_json(-(-len(ids) // size)))):  # in pieces, for what owners hold
            some = slice(piece * size, (piece + 1) * size)
            RowsUnderWay(self, ids[some], FILLING).wait(rows[some])
        self.kept = KeptRows(ids=ids, rows=rows)

    def read_near(self, ids: Tensor, routes: Routes, out: Tensor) -> None:
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

    def served(self, ids: Tensor) -> Tensor:
        """Rows that others ask for, all of them owned here."""
        rows = _empty(len(ids), self.shards.store.num_features)
        self.read_near(ids, self.shards.by_part(ids), rows)
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


class RowsUnderWay:
    """Rows that were asked for: those of other workers come, all others are read when they are waited for.

    Workers tell each other how many they want, then which, then the rows; each answer is sent when its question has
    come. Whoever has time between the three waits for none of them. All workers call the methods together."""

    def __init__(self, features: Features, ids: Tensor, purpose: str) -> None:
        """Made by Features alone: says how many rows are wanted."""
        shards, group = features.shards, features.shards.group
        self._features, self._ids, self._purpose = features, ids, purpose
        self._routes = shards.by_part(ids)
        self._fill_kept: Fill | None = None
        self._coming: Pending | None = None
        self._steps = [self._send_ids, self._send_rows]
        if shards.asks:
            self._asked, self._counts = self._routes.order[self._routes.start :], self._routes.far
            if features.kept is not None:
                hit, self._fill_kept = features.kept.among(ids, self._asked)
                self._asked = self._asked[~hit]
                owners = shards.worker_of(ids[self._asked])
                self._counts = torch.bincount(owners, minlength=group.size).tolist()
            numbers, ones = torch.tensor(self._counts, dtype=torch.int64), [1] * group.size
            self._coming = group.exchange_async(numbers, ones, ones, "frontier")

    def send_ids(self) -> None:
        """Says which rows are wanted; waits until others have said how many. Twice does no harm."""
        self._go_on(1)

    def send_rows(self) -> None:
        """Sends what others want; waits until they have said which. Twice does no harm."""
        self._go_on(0)

    def wait(self, out: Tensor | None = None) -> Tensor:
        """The rows: float32 [n, columns]; in `out`, where that is given. Raises LostWorkerError."""
        self.send_rows()
        out = _empty(len(self._ids), self._features.shards.store.num_features) if out is None else out
        self._features.read_near(self._ids, self._routes, out)
        if self._fill_kept is not None:
            self._fill_kept(out)
        if self._coming is not None:
            scatter_rows(out, self._asked, self._coming.wait())
            self._coming = None  # what came is in `out`
        return out

    def _go_on(self, left: int) -> None:
        """Until so many of the steps are left."""
        while self._coming is not None and len(self._steps) > left:
            self._coming = self._steps.pop(0)(self._coming.wait())

    def _send_ids(self, numbers: Tensor) -> Pending:
        self._theirs: list[int] = numbers.tolist()
        wanted = self._ids[self._asked]
        return self._features.shards.group.exchange_async(wanted, self._counts, self._theirs, self._purpose)

    def _send_rows(self, wanted: Tensor) -> Pending:
        rows = self._features.served(wanted)
        return self._features.shards.group.exchange_async(rows, self._theirs, self._counts, self._purpose)


def _empty(rows: int, columns: int) -> Tensor:
    """Rows of features to be filled, whatever a network has made torch's defaults."""
    return torch.empty(rows, columns, dtype=torch.float32, device="cpu")

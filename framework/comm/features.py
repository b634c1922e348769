"""Feature rows of any nodes: by memory where the shard is mapped, from the owner through the group elsewhere.

Assumption: a table of features is most of a shard. Where its rows are copied once, for a whole training, it is mapped
for that alone: pages of a mapping stay resident for as long as the mapping does.
"""

import torch
from torch import Tensor

from framework.comm.reach import Shards
from framework.errors import InputError
from framework.kernels.sample import gather_rows, scatter_rows


class Features:
    """Reads rows of the store's features."""

    def __init__(self, shards: Shards, *, once: bool = False) -> None:
        """`once`: rows are asked for a few times in all, each time many, and copied; no page stays resident."""
        self.shards, self.once = shards, once
        if shards.store.num_features == 0:
            raise InputError(
                f"{shards.store.path} holds no features; a model of nodes needs at least one column: x in an .npz, "
                "else --data.features or --data.columns."
            )

    def rows(self, ids: Tensor, out: Tensor | None = None) -> Tensor:
        """The feature rows of `ids` (int64 [n], distinct): float32 [n, columns]; in `out`, where that is given.

        All workers call this together."""
        routes = self.shards.by_part(ids)
        out = torch.empty(len(ids), self.shards.store.num_features) if out is None else out
        for part, run in routes.near:
            where = routes.order[run]
            if len(where) == len(ids):
                gather_rows(self._table(part), ids - self.shards.mapped[part].first, out=out)
            else:
                scatter_rows(out, where, self._near(part, ids[where]))
        if self.shards.asks:
            far = routes.order[routes.start :]
            scatter_rows(out, far, self._far(ids[far], routes.far))
        return out

    def _near(self, part: int, ids: Tensor) -> Tensor:
        return gather_rows(self._table(part), ids - self.shards.mapped[part].first)

    def _table(self, part: int) -> Tensor:
        table = self.shards.store.column(part, "features") if self.once else self.shards.mapped[part].features
        assert table is not None  # the store's schema has features, so every shard of it does
        return table

    def _far(self, ids: Tensor, counts: list[int]) -> Tensor:
        group = self.shards.group
        asked = group.exchange_counts(counts)
        wanted = group.exchange(ids, counts, asked, "features")
        return group.exchange(self._served(wanted), asked, counts, "features")

    def _served(self, ids: Tensor) -> Tensor:
        """Rows that others ask for, all of them owned here."""
        routes = self.shards.by_part(ids)
        rows = torch.empty(len(ids), self.shards.store.num_features)
        for part, run in routes.near:
            where = routes.order[run]
            scatter_rows(rows, where, self._near(part, ids[where]))
        return rows

"""The halo plan: which rows every worker sends to which, settled once.

Halo nodes are sorted by global id and workers own contiguous ranges, so the halo is already sorted by the worker that
sends it; the plan is two lists of counts and the places of the rows others want.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.reach import Shards
from framework.graph.local import LocalGraph


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HaloPlan:
    """Who sends which rows to whom."""

    group: Group
    """The workers."""
    wanted: Tensor
    """int64 [sent]: places, among the owned nodes, of the rows that others want, sorted by worker."""
    sent: list[int]
    """Rows sent to each worker."""
    received: list[int]
    """Rows received from each worker; together the halo."""

    @classmethod
    def open(cls, shards: Shards, local: LocalGraph) -> "HaloPlan":
        """Asks every owner once. All workers call this together."""
        group = shards.group
        received = torch.bincount(shards.worker_of(local.halo.ids), minlength=group.size).tolist()
        sent = group.exchange_counts(received)
        ids = group.exchange(local.halo.ids, received, sent, "state")
        first = int(local.owned.ids[0]) if len(local.owned) else 0
        return cls(group=group, wanted=ids - first, sent=sent, received=received)

    def halo_rows(self, owned: Tensor, purpose: str) -> Tensor:
        """[n, ...] rows of the owned nodes -> [h, ...] rows of the halo. All workers call this together."""
        return self.group.exchange(owned[self.wanted], self.sent, self.received, purpose)

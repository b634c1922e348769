"""Some workers of a group among themselves: rows of one to all of them, and sums at one.

Assumptions: as the group's. Workers are named by their rank in the whole group. What is sent is counted by the group:
`broadcast` (members - 1) times the tensor at the source, `reduce` the tensor at every member but the destination.
"""

import datetime
from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from framework.comm.group import Group, Pending


class Subgroup:
    """A set of workers that this one belongs to."""

    def __init__(self, group: Group, ranks: tuple[int, ...], channel: dist.ProcessGroup | None) -> None:
        """Use `split`."""
        self.group, self.ranks, self._channel = group, ranks, channel

    @classmethod
    def split(cls, group: Group, several: Sequence[Sequence[int]]) -> "Subgroup":
        """The one of `several` disjoint sets of ranks that this worker is in. All workers of the group call this."""
        mine = next(tuple(ranks) for ranks in several if group.rank in ranks)
        channel = None
        for ranks in several:
            if len(ranks) == 1:
                continue
            with group.guard("joining some of the workers"):
                opened = dist.new_group(list(ranks), timeout=datetime.timedelta(seconds=group.deadline))
            channel = opened if group.rank in ranks else channel
        return cls(group, mine, channel)

    def broadcast(self, tensor: Tensor, source: int, purpose: str) -> Pending:
        """The tensor of worker `source` to all members, in place: `tensor`, once it is waited for."""
        work = None
        if self._channel is not None and tensor.numel():
            with self.group.guard(purpose):
                work = dist.broadcast(tensor, source, group=self._channel, async_op=True)
            if self.group.rank == source:
                self.group.count(purpose, (len(self.ranks) - 1) * tensor.numel() * tensor.element_size())
        return Pending(self.group, tensor, [work], purpose)

    def reduce(self, tensor: Tensor, destination: int, purpose: str) -> Pending:
        """The sum of the members' tensors at worker `destination`, in place: `tensor`, once it is waited for.

        Elsewhere what is left in it is undefined."""
        work = None
        if self._channel is not None and tensor.numel():
            with self.group.guard(purpose):
                work = dist.reduce(tensor, destination, group=self._channel, async_op=True)
            if self.group.rank != destination:
                self.group.count(purpose, tensor.numel() * tensor.element_size())
        return Pending(self.group, tensor, [work], purpose)

"""Rows that every worker needs from every other, and how a batch's samples are shared out."""

import torch
from torch import Tensor

from framework.comm.group import Group


def all_rows(group: Group, rows: Tensor, purpose: str) -> Tensor:
    """The rows of every worker, in their order: [n, ...] -> [sum of n, ...]. All workers call this together."""
    counts: list[int] = group.gather_json(len(rows))
    return group.exchange(torch.cat([rows] * group.size), [len(rows)] * group.size, counts, purpose)


def share_out(owner: Tensor, workers: int) -> Tensor:
    """Gives every sample of a batch to its owner while that one has room, the rest to whoever has.

    `owner`: int64 [n], the worker that owns each sample -> int64 [n], the worker that takes it. Nobody takes more than
    n / workers, rounded up; the answer is the same on every worker."""
    room = -(-len(owner) // workers)
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=workers)
    begin = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(owner)) - begin[owner[order]]
    over = order[place >= room]
    free = torch.repeat_interleave(torch.arange(workers), room - counts.clamp(max=room))
    taker = owner.clone()
    taker[over.sort().values] = free[: len(over)]
    return taker

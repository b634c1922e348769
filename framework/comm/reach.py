"""Who reads what from where: the shards a worker maps, and the worker to ask for all others.

A worker owns a contiguous run of parts. How far it may read by itself is the run's choice: its own shards (`owned`),
those of workers on its host (`host`), or every shard (`all`, for a store on a shared file system or copied to every
host). What it cannot map it asks its owner for, in exchanges that all workers enter together; whether any worker has to
ask is settled once, at opening, so that a run where nobody does sends nothing.
"""

import dataclasses
from typing import Literal, TypeVar

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.graph.shard import GraphShard
from framework.graph.store import ShardStore

Reach = Literal["owned", "host", "all"]
Part = TypeVar("Part", int, Tensor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards:
    """The shards one worker can read, and where the others are."""

    store: ShardStore
    """The opened store: offsets and counts of every part."""
    group: Group
    """The workers."""
    mapped: dict[int, GraphShard]
    """Part -> shard, for every part this worker reads by memory."""
    owned: tuple[int, ...]
    """The parts this worker owns; all of them are mapped."""
    asks: bool
    """Whether some worker has to ask another for rows."""
    weighted: bool
    """Whether edges have weights."""

    @classmethod
    def open(cls, store: ShardStore, group: Group, reach: Reach, *, edges_alone: bool = False) -> "Shards":
        """Maps what `reach` allows, with `edges_alone` without features, labels and splits.

        All workers call this together."""
        mapped = {part: store.shard(part, edges_alone=edges_alone) for part in parts_read(store.parts, group, reach)}
        owned = tuple(parts_read(store.parts, group, "owned"))
        weighted = any(shard.edge_weights is not None for shard in mapped.values())
        facts = group.gather_json([len(mapped), weighted])
        return cls(
            store=store,
            group=group,
            mapped=mapped,
            owned=owned,
            asks=any(count < store.parts for count, _ in facts),
            weighted=any(has for _, has in facts),
        )

    def worker_of(self, ids: Tensor) -> Tensor:
        """The worker that owns each node. `ids`: int64 [n] -> int64 [n]."""
        return owner_of_part(self.store.owner_of(ids), self.store.parts, self.group.size)

    def by_part(self, ids: Tensor) -> "Routes":
        """Sorts nodes by the shard that holds them. `ids`: int64 [n]."""
        if len(self.mapped) == 1 == self.store.parts:
            everything = torch.arange(len(ids), dtype=torch.int64)
            return Routes(
                order=everything,
                near=[(next(iter(self.mapped)), slice(0, len(ids)))],
                far=[0] * self.group.size,
                start=len(ids),
            )
        parts = self.store.owner_of(ids)
        readable = torch.zeros(self.store.parts, dtype=torch.bool)
        readable[list(self.mapped)] = True
        # Mapped parts first, then unmapped ones; parts ascend in both, so far nodes are sorted by worker too.
        order = torch.argsort(parts + torch.where(readable[parts], 0, self.store.parts), stable=True)
        counts = torch.bincount(parts, minlength=self.store.parts).tolist()
        near, start = [], 0
        for part in sorted(self.mapped):
            if counts[part]:
                near.append((part, slice(start, start + counts[part])))
                start += counts[part]
        asked = owner_of_part(parts[order[start:]], self.store.parts, self.group.size)
        far = torch.bincount(asked, minlength=self.group.size).tolist()
        return Routes(order=order, near=near, far=far, start=start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routes:
    """Some nodes, sorted by where they are read."""

    order: Tensor
    """int64 [n]: positions of the nodes, those of mapped parts first, then by worker to ask."""
    near: list[tuple[int, slice]]
    """Mapped part -> its run of `order`."""
    far: list[int]
    """Nodes to ask each worker for; from `start` of `order` on."""
    start: int
    """Where far nodes begin in `order`."""


def parts_read(parts: int, group: Group, reach: Reach) -> list[int]:
    """The parts that this worker reads by memory."""
    here = group.hosts[group.rank]
    near = {
        "owned": [rank == group.rank for rank in range(group.size)],
        "host": [host == here for host in group.hosts],
        "all": [True] * group.size,
    }[reach]
    return [part for part in range(parts) if near[owner_of_part(part, parts, group.size)]]


def owner_of_part(part: Part, parts: int, workers: int) -> Part:
    """The worker that owns a part, or those that own several (int64 [n]).

    Contiguous runs, as even as can be; with fewer parts than workers some own none."""
    return part * workers // parts

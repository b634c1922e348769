"""Trees for rows that several workers want: which worker hands them to which, over links of unlike speed.

Cai et al., "DGCL: An efficient communication library for distributed GNN training", EuroSys 2021: a row goes along a
tree from its owner to all who want it; transfers are made in stages; a stage lasts as long as its busiest link, and the
trees are to make the sum over stages small. Its algorithm (SPST) takes one row after the other, finds the path that
adds least time to a worker that lacks the row, and goes on from all that have it by then.

Assumptions: rows that the same workers want are planned together, in a number of heaps. A transfer keeps up to two
links busy, one at each end, for a time that goes with its rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TIE = 1e-3  # of ways that add the same time at the busiest link, the one of less work in all, and of fewer stages

Numbers = NDArray[np.int64]
Times = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Links:
    """What transfers between w workers keep busy, of l links."""

    count: int
    """l."""
    out: Numbers
    """[w, w]: the link that a transfer from worker i to worker j leaves by."""
    into: Numbers
    """[w, w]: the link it arrives by; the same where there is one between the two alone."""
    seconds: Times
    """[w, w]: how long a row keeps both busy, in a unit of its own."""

    @classmethod
    def of_hosts(cls, hosts: Sequence[str], within: float, between: float) -> "Links":
        """Each worker has a link out and one in, for its own host; each host has such a pair, towards the others."""
        size = len(hosts)
        number = np.array([hosts.index(host) for host in hosts])  # of the host's first worker: one number a host
        near = number[:, None] == number[None, :]
        worker = np.arange(size)
        return cls(
            count=4 * size,
            out=np.where(near, worker[:, None], 2 * size + number[:, None]),
            into=np.where(near, size + worker[None, :], 3 * size + number[None, :]),
            seconds=np.where(near, within, between).astype(np.float64),
        )

    @classmethod
    def of_pairs(cls, seconds: Sequence[float], size: int) -> "Links":
        """Each pair of workers has a link each way: seconds of a row from worker i to j at i * size + j."""
        pairs = np.arange(size * size).reshape(size, size)
        return cls(count=size * size, out=pairs, into=pairs, seconds=np.array(seconds, np.float64).reshape(size, size))

    def busy(self, rows: Numbers) -> Times:
        """How long every link is busy with `rows` [w, w] from worker to worker: [l]."""
        times = np.zeros(self.count)
        for link in (self.out, self.into) if self.out is not self.into else (self.out,):
            np.add.at(times, link.ravel(), (rows * self.seconds).ravel())
        return times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heap:
    """Rows of one owner that the same workers want."""

    owner: int
    """The worker that has them."""
    wanting: tuple[int, ...]
    """The workers that want them."""
    rows: int
    """How many there are."""


Tree = list[tuple[int, int, int]]
"""Stage, sender and receiver of every transfer of a row."""


def spanning_trees(heaps: Sequence[Heap], links: Links, stages: int, direct: Numbers) -> list[Tree]:
    """A tree for each heap, in at most `stages` stages; all rows straight where trees would take no less time.

    `direct` int64 [w, w]: further rows that go straight, in the first stage."""
    planner, straight = _Planner(links, stages, direct), [_straight(heap) for heap in heaps]
    trees = [planner.tree(heap) for heap in heaps]
    rows = direct.copy()
    for heap in heaps:
        rows[heap.owner, list(heap.wanting)] += heap.rows
    return trees if planner.times.max(axis=1).sum() < links.busy(rows).max() else straight


def _straight(heap: Heap) -> Tree:
    return [(0, heap.owner, worker) for worker in heap.wanting]


class _Planner:
    """Plans trees one after the other, each with the time in mind that those before it take."""

    def __init__(self, links: Links, stages: int, direct: Numbers) -> None:
        self.links, self.stages = links, stages
        self.times = np.zeros((stages, links.count))
        self.times[0] = links.busy(direct)

    def tree(self, heap: Heap) -> Tree:
        """The transfers of each row of a heap; their time is added to that of the others."""
        tree: Tree = []
        held_from = {heap.owner: 0}  # the stage from which on a worker can send
        missing = set(heap.wanting)
        while missing:
            for stage, sender, receiver in self._cheapest_path(heap.rows, held_from, missing):
                tree.append((stage, sender, receiver))
                held_from[receiver] = stage + 1
                missing.discard(receiver)
                self._add(stage, sender, receiver, heap.rows)
        return tree

    def _cheapest_path(self, rows: int, held_from: dict[int, int], missing: set[int]) -> Tree:
        """From a worker that has the rows to the one, of those that lack them, where they come at the least cost."""
        size = len(self.links.seconds)
        cost = np.full((self.stages + 1, size), np.inf)
        before = np.zeros((self.stages + 1, size), np.int64)  # the worker that had them a stage earlier, perhaps itself
        for worker, stage in held_from.items():
            cost[stage:, worker] = 0.0
        having = list(held_from)  # who has the rows is not to get them twice
        for stage in range(self.stages):
            through = cost[stage][:, None] + self._added(stage, rows)
            best = through.argmin(axis=0)
            arriving = through[best, np.arange(size)]
            arriving[having] = np.inf
            waiting = np.minimum(cost[stage], cost[stage + 1])
            moved = arriving < waiting
            cost[stage + 1] = np.where(moved, arriving, waiting)
            before[stage + 1] = np.where(moved, best, np.arange(size))
        receiver = min(missing, key=lambda worker: (cost[-1, worker], worker))
        return self._traced(before, held_from, receiver)

    def _traced(self, before: Numbers, held_from: dict[int, int], receiver: int) -> Tree:
        path: Tree = []
        for stage in range(self.stages, 0, -1):
            if receiver in held_from:
                break
            sender = int(before[stage, receiver])
            if sender != receiver:
                path.append((stage - 1, sender, receiver))
                receiver = sender
        return path[::-1]

    def _added(self, stage: int, rows: int) -> Times:
        """What sending rows in a stage adds to the time of all, from every worker to every other: [w, w]."""
        links, times = self.links, self.times[stage]
        took = rows * links.seconds
        ends = np.maximum(times[links.out], times[links.into]) + took
        added: Times = np.maximum(0.0, ends - times.max()) + _TIE * (stage + 1) * took
        return added

    def _add(self, stage: int, sender: int, receiver: int, rows: int) -> None:
        links = self.links
        for link in {int(links.out[sender, receiver]), int(links.into[sender, receiver])}:
            self.times[stage, link] += rows * links.seconds[sender, receiver]

"""What the partitioners that decide node by node share: passes over the adjacency, loads, capacity.

Assumptions: a node's load is 1 (balancing nodes) or the number of its in-edges (balancing edges: what owning it means
to a shard), but at least 1 where it has neighbours: its row is a load too, and without one, any number of nodes with
out-edges alone would fit into one part. No part is filled beyond slack * mean load, unless single nodes are too heavy
for that. Memory is O(nodes + parts): owners, loads and one window of the adjacency.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from framework.errors import InputError
from framework.graph.adjacency import Adjacency, open_adjacency
from framework.graph.edges import EdgeStream, Ids
from framework.kernels.partition import Rule, assign_window
from framework.partition import NodeParts

Balance = Literal["nodes", "edges"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """What a rule may be made of."""

    num_nodes: int
    """Number of nodes."""
    mean_degree: float
    """Neighbours of a node, on average."""
    mean_weight: float
    """Load of a node, on average; 1 where there is none."""
    mean_load: float
    """Load of a part, on average; 1 where there is none."""
    capacity: int
    """Load that no part is filled beyond."""


def sweep(
    graph: EdgeStream,
    parts: int,
    rule: Callable[[Sums], Rule],
    *,
    balance: Balance,
    slack: float,
    passes: int,
    start: NodeParts | None = None,
    tolerance: float | None = None,
) -> NodeParts:
    """Look at every node in order, `passes` times, and put it where `rule` scores highest: int32 [num_nodes].

    `start`: the parts before the first pass, int32 [num_nodes], changed in place; none unless given. `tolerance`: stop
    after a pass that brings less than this share of the neighbours together; None: never stop early."""
    if slack < 1 or passes < 1 or balance not in ("nodes", "edges"):
        raise InputError(
            f"slack is {slack}, passes are {passes}, balance is '{balance}'; expected a slack of at least 1, at least "
            "one pass, and a balance of 'nodes' or 'edges'."
        )
    with open_adjacency(graph) as adjacency:
        weights = np.full(graph.num_nodes, 1, np.int64)
        if balance == "edges":
            weights = np.maximum(adjacency.edge_weights, adjacency.degrees > 0)
        sums = _sums(adjacency, weights, parts, slack)
        owners = np.full(graph.num_nodes, -1, np.int32) if start is None else start
        _deal_heavy(owners, weights, parts, (slack - 1) * sums.mean_load)
        loads = np.zeros(parts, np.int64)
        np.add.at(loads, owners[owners >= 0], weights[owners >= 0])
        chosen = rule(sums)
        entries, before = int(adjacency.degrees.sum()), 0
        for _ in range(passes):
            together = 0
            for window in adjacency.windows():
                together += assign_window(
                    chosen, window.first, window.indptr, window.neighbors, weights, owners, loads
                )[1]
            if tolerance is not None and together - before < tolerance * entries:
                break
            before = together
        _spread(owners, np.flatnonzero((adjacency.degrees == 0) & (weights == 0)), parts)
    return owners


def capacity(total: int, parts: int, slack: float) -> int:
    """The load that no part is filled beyond: `slack` times the mean, at least what makes all of it fit."""
    return max(1, math.ceil(total / parts), math.floor(slack * total / parts))


def _sums(adjacency: Adjacency, weights: Ids, parts: int, slack: float) -> Sums:
    nodes = max(1, len(weights))
    total = int(weights.sum())
    return Sums(
        num_nodes=len(weights),
        mean_degree=float(adjacency.degrees.sum()) / nodes,
        mean_weight=total / nodes or 1.0,
        mean_load=total / parts or 1.0,
        capacity=capacity(total, parts, slack),
    )


def _deal_heavy(owners: NodeParts, weights: Ids, parts: int, limit: float) -> None:
    """Give each node heavier than `limit` to the part with the least of such load, the heaviest first.

    Such a node might fit nowhere once the parts are nearly full. Where it has a place from the beginning, it keeps one:
    when its turn comes, its own part has room for it. They are few: at most `parts` / (slack - 1). A limit of 1 or less
    would call every node heavy: then all are treated alike."""
    heavy = np.flatnonzero(weights > limit) if limit > 1 else np.empty(0, np.int64)
    loads = np.zeros(parts, np.int64)
    for node in heavy[np.argsort(-weights[heavy], kind="stable")]:
        part = np.argmin(loads)
        owners[node] = part
        loads[part] += weights[node]


def _spread(owners: NodeParts, free: Ids, parts: int) -> None:
    """Give the nodes `free`, which have neither neighbours nor load, to the parts with the fewest nodes."""
    owners[free] = -1
    counts = np.bincount(owners[owners >= 0], minlength=parts)
    # The level that the free nodes fill the parts up to: parts join the pool in the order of their counts.
    by_count = np.sort(counts)
    pool = np.arange(1, parts + 1)
    levels = (np.cumsum(by_count) + len(free)) / pool
    level = math.floor(levels[np.flatnonzero(levels >= by_count)[-1]])
    room = np.maximum(0, level - counts)
    lowest = np.argsort(counts + room, kind="stable")[: len(free) - int(room.sum())]
    room[lowest] += 1
    owners[free] = np.repeat(np.arange(parts, dtype=np.int32), room)

"""Neighbours drawn for the frontiers of all workers together: who adds up what, and who tosses which coin.

A node may be in the frontiers of several workers and counts once. So frontiers go to the workers that own their nodes,
wherever else the shards are mapped, too: the owner of a node has its in-edges, makes one of what it was asked for
several times, and adds up what these edges say of every source. The owner of a source adds that up once more, over
workers, knows with all others what share of it is the chance, and tosses the source's coin. Its answer goes the same
way back, and the owners of the frontier's nodes tell who asked which neighbours are kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from framework.comm.neighbors import exchanged, restored, rows_at
from framework.comm.reach import Shards
from framework.graph.block import Nodes
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.sample import unique_relabel
from framework.random import Key, uniform
from framework.sample.chances import chances, edge_numbers, summed
from framework.sample.sampler import Neighbors


def drawn_together(
    shards: Shards, in_edges: Callable[[Tensor], Neighbors], nodes: Nodes, budget: int, key: Key
) -> Neighbors:
    """As GraphView's `neighbors_together`. `in_edges`: those of nodes that this worker owns, int64 [n]."""
    group = shards.group
    order, counts = _by_owner(shards, nodes.ids)
    asked = group.exchange_counts(counts)
    wanted = group.exchange(nodes.ids[order], counts, asked, "frontier")
    ids, place = torch.unique(wanted, return_inverse=True)
    kept = _kept(shards, ids, in_edges(ids), budget, key)
    return restored(exchanged(group, rows_at(kept, place), asked, counts), order)


def _kept(shards: Shards, ids: Tensor, found: Neighbors, budget: int, key: Key) -> Neighbors:
    """Of the in-edges `found` of owned nodes (`ids`, increasing), those whose sources are drawn, and self-loops."""
    rows = row_of_entries(found.indptr, len(found.sources))
    loops = found.sources.ids == ids[rows]
    sources, place, _ = unique_relabel(ids[:0], found.sources.ids[~loops])
    numbers = edge_numbers(_owned(shards, ids).degree)[rows[~loops]]
    drawn = _drawn(shards, sources, summed(place, numbers, len(sources)), len(ids), budget, key)
    of_edges = torch.ones(len(rows), dtype=torch.float64)
    of_edges[~loops] = drawn[place]
    kept = of_edges > 0
    return Neighbors(
        indptr=offsets(kept)[found.indptr],
        sources=found.sources[kept],
        edge_weights=None if found.edge_weights is None else found.edge_weights[kept],
        chances=of_edges[kept],
    )


def _drawn(shards: Shards, sources: Tensor, numbers: Tensor, frontier: int, budget: int, key: Key) -> Tensor:
    """The chance that each source was drawn with, 0 for those that were not: float64 [n].

    `sources`: int64 [n], distinct, those of this worker's edges; `numbers`: int64 [n], what these say of them."""
    group = shards.group
    order, counts = _by_owner(shards, sources)
    coming = group.exchange_counts(counts)
    told = group.exchange(torch.stack([sources, numbers], dim=1)[order], counts, coming, "frontier")
    ids, place = torch.unique(told[:, 0], return_inverse=True)
    total = summed(place, told[:, 1].contiguous(), len(ids))
    chance = chances(total, frontier, budget, lambda some: group.all_reduce(some, "frontier"))
    chance[uniform(key, _owned(shards, ids).original) >= chance] = 0
    answer = torch.empty(len(sources), dtype=torch.float64)
    answer[order] = group.exchange(chance[place], coming, counts, "frontier")
    return answer


def _by_owner(shards: Shards, ids: Tensor) -> tuple[Tensor, list[int]]:
    """Positions of `ids`, grouped by the workers that own them, and how many each of these owns."""
    owner = shards.worker_of(ids)
    return torch.argsort(owner, stable=True), torch.bincount(owner, minlength=shards.group.size).tolist()


def _owned(shards: Shards, ids: Tensor) -> Nodes:
    """Nodes that this worker owns, by increasing ids."""
    routes = shards.by_part(ids)
    found = [Nodes.of_shard(shards.mapped[part], ids[run] - shards.mapped[part].first) for part, run in routes.near]
    return Nodes.concatenate(found)

"""A worker's own part of the graph as one bipartite layer: all nodes it owns, all their in-edges, all their sources.

Several shards are joined into one block: the targets are the owned nodes by global id, the sources those and then the
halo. One shard alone is that block already, without a copy. Layer-wise evaluation and full-graph training run on it.
"""

import dataclasses
from collections.abc import Sequence

import torch

from framework.graph.block import Block, Nodes
from framework.graph.shard import GraphShard


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalGraph:
    """What a worker owns. n owned nodes, h halo nodes."""

    block: Block
    """Sources: n owned nodes, then h halo nodes, each by increasing global id; targets: the owned nodes."""

    @property
    def owned(self) -> Nodes:
        """The owned nodes."""
        return self.block.targets

    @property
    def halo(self) -> Nodes:
        """The sources that others own."""
        return self.block.sources[self.block.num_targets :]

    @classmethod
    def join(cls, shards: Sequence[GraphShard]) -> "LocalGraph":
        """Joins shards of consecutive parts; none give an empty graph."""
        if not shards:
            empty = torch.zeros(1, dtype=torch.int64)
            block = Block(sources=Nodes.none(), num_targets=0, indptr=empty, indices=torch.empty(0, dtype=torch.int32))
            return cls(block=block)
        if len(shards) == 1:
            shard = shards[0]
            sources = Nodes.of_shard(shard, torch.arange(shard.num_owned + shard.num_halo))
            block = Block(
                sources=sources,
                num_targets=shard.num_owned,
                indptr=shard.indptr,
                indices=shard.indices,
                edge_weights=shard.edge_weights,
            )
            return cls(block=block)
        return cls(block=_joined(shards))


def _joined(shards: Sequence[GraphShard]) -> Block:
    first, count = shards[0].first, sum(shard.num_owned for shard in shards)
    owned = Nodes.owned_by(shards)
    outside = Nodes.concatenate(
        [Nodes.of_shard(shard, torch.arange(shard.num_halo) + shard.num_owned) for shard in shards]
    )
    foreign = (outside.ids < first) | (outside.ids >= first + count)
    halo_ids, position = torch.unique(outside.ids[foreign], return_inverse=True)
    where = torch.empty_like(halo_ids)
    where[position] = torch.nonzero(foreign).squeeze(1)
    halo = outside[where]
    indices, offsets, edges = [], [torch.zeros(1, dtype=torch.int64)], 0
    for shard in shards:
        # local id -> place among the joined sources: owned nodes by global id, the halo by its place in the sorted halo
        inside = torch.arange(shard.num_owned) + (shard.first - first)
        apart = torch.searchsorted(halo_ids, shard.halo) + count
        kept = (shard.halo >= first) & (shard.halo < first + count)
        table = torch.cat([inside, torch.where(kept, shard.halo - first, apart)]).to(torch.int32)
        indices.append(table[shard.indices.long()])
        offsets.append(shard.indptr[1:] + edges)
        edges += shard.num_edges
    weights = [shard.edge_weights for shard in shards if shard.edge_weights is not None]
    return Block(
        sources=Nodes.concatenate([owned, halo]),
        num_targets=count,
        indptr=torch.cat(offsets),
        indices=torch.cat(indices),
        edge_weights=torch.cat(weights) if weights else None,
    )

"""A worker's own part of the graph as one bipartite layer: all nodes it owns, all edges it has, all their ends.

Several shards are joined into one block: its sources are the owned nodes by global id and then the halo. Of an
edge-cut, the targets are the owned nodes; of a vertex-cut they are all the sources, and mirrors of one shard that
another one owns are one node. One shard alone is that block already, without a copy. Layer-wise evaluation and
full-graph training run on it.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from framework.graph.block import Block, Nodes
from framework.graph.shard import GraphShard, Kind
from framework.kernels.csr import build_csr, offsets, row_of_entries


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalGraph:
    """What a worker owns. n owned nodes, h halo nodes."""

    block: Block
    """Sources: n owned nodes, then h halo nodes, each by increasing global id; targets: the owned nodes, or all."""

    @property
    def owned(self) -> Nodes:
        """The owned nodes."""
        return self.block.sources[: self.block.num_owned]

    @property
    def halo(self) -> Nodes:
        """The ends of its edges that others own."""
        return self.block.sources[self.block.num_owned :]

    @classmethod
    def join(cls, shards: Sequence[GraphShard], kind: Kind = "edge-cut") -> "LocalGraph":
        """Joins shards of consecutive parts; none give an empty graph."""
        if not shards:
            empty = torch.zeros(1, dtype=torch.int64)
            nothing = torch.empty(0, dtype=torch.int32)
            return cls(block=_block(kind, Nodes.none(), 0, empty, nothing, None))
        if len(shards) == 1:
            shard = shards[0]
            sources = Nodes.of_shard(shard, torch.arange(shard.num_owned + shard.num_halo))
            return cls(block=_block(kind, sources, shard.num_owned, shard.indptr, shard.indices, shard.edge_weights))
        return cls(block=_joined(shards, kind))


def _block(
    kind: Kind, sources: Nodes, owned: int, indptr: Tensor, indices: Tensor, edge_weights: Tensor | None
) -> Block:
    mirrored = kind == "vertex-cut"
    return Block(
        sources=sources,
        num_targets=len(sources) if mirrored else owned,
        indptr=indptr,
        indices=indices,
        edge_weights=edge_weights,
        masters=owned if mirrored else None,
    )


def _joined(shards: Sequence[GraphShard], kind: Kind) -> Block:
    first, count = shards[0].first, sum(shard.num_owned for shard in shards)
    owned = Nodes.owned_by(shards)
    outside = Nodes.concatenate(
        [Nodes.of_shard(shard, torch.arange(shard.num_halo) + shard.num_owned) for shard in shards]
    )
    foreign = (outside.ids < first) | (outside.ids >= first + count)
    halo_ids, position = torch.unique(outside.ids[foreign], return_inverse=True)
    where = torch.empty_like(halo_ids)
    where[position] = torch.nonzero(foreign).squeeze(1)
    sources = Nodes.concatenate([owned, outside[where]])
    tables = []
    for shard in shards:
        # local id -> place among the joined sources: owned nodes by global id, the halo by its place in the sorted halo
        inside = torch.arange(shard.num_owned) + (shard.first - first)
        apart = torch.searchsorted(halo_ids, shard.halo) + count
        kept = (shard.halo >= first) & (shard.halo < first + count)
        tables.append(torch.cat([inside, torch.where(kept, shard.halo - first, apart)]).to(torch.int32))
    indices = torch.cat([table[shard.indices.long()] for table, shard in zip(tables, shards, strict=True)])
    weights = [shard.edge_weights for shard in shards if shard.edge_weights is not None]
    edge_weights = torch.cat(weights) if weights else None
    if kind == "edge-cut":  # the rows of one shard follow those of another
        counts = torch.cat([shard.indptr.diff() for shard in shards])
        return _block(kind, sources, count, offsets(counts), indices, edge_weights)
    targets = torch.cat(
        [
            table[row_of_entries(shard.indptr, shard.num_edges)].long()
            for table, shard in zip(tables, shards, strict=True)
        ]
    )
    csr = build_csr(targets, indices, len(sources), order=sources.original)
    return _block(
        kind, sources, count, csr.indptr, csr.indices, None if edge_weights is None else edge_weights[csr.edges]
    )

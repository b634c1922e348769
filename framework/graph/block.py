"""Blocks: what a sampler hands to a model.

A block is one bipartite layer: its targets gather from its sources along in-edges. The targets are the first of the
sources, so a model finds a target's own row at the target's own place. The edges of a target stand in the order of
their sources' original ids, which no partition changes: sums over a neighbourhood are the same sums everywhere.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from framework.graph.shard import GraphShard
from framework.kernels.csr import CSR, transpose
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nodes:
    """Some nodes of the whole graph, under both their names."""

    ids: Tensor
    """int64 [n]: where a node is: its place in the store's order, which the partition decides."""
    original: Tensor
    """int64 [n]: what a node is: its id in the raw graph's order, which keys every random draw."""
    degree: Tensor
    """int64 [n]: number of in-edges in the whole graph."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: Tensor | slice) -> "Nodes":
        return Nodes(ids=self.ids[chosen], original=self.original[chosen], degree=self.degree[chosen])

    @classmethod
    def of_shard(cls, shard: GraphShard, local: Tensor) -> "Nodes":
        """Nodes by their local ids in a shard, owned or halo. `local`: int [n]."""
        local = local.long()
        owned = local < shard.num_owned
        if bool(owned.all()):
            indptr = shard.indptr
            return cls(
                ids=local + shard.first, original=shard.original[local], degree=indptr[local + 1] - indptr[local]
            )
        inside, outside = local.clamp(max=shard.num_owned - 1), (local - shard.num_owned).clamp(min=0)
        return cls(
            ids=torch.where(owned, local + shard.first, shard.halo[outside]),
            original=torch.where(owned, shard.original[inside], shard.halo_original[outside]),
            degree=torch.where(owned, shard.indptr[inside + 1] - shard.indptr[inside], shard.halo_degree[outside]),
        )

    @classmethod
    def none(cls) -> "Nodes":
        """No nodes."""
        empty = torch.empty(0, dtype=torch.int64)
        return cls(ids=empty, original=empty, degree=empty)

    @classmethod
    def concatenate(cls, several: list["Nodes"]) -> "Nodes":
        """One after the other."""
        if len(several) == 1:
            return several[0]
        return cls(
            ids=torch.cat([nodes.ids for nodes in several]),
            original=torch.cat([nodes.original for nodes in several]),
            degree=torch.cat([nodes.degree for nodes in several]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One bipartite layer: `num_targets` targets, the first of the sources, and their in-edges as a CSR."""

    sources: Nodes
    """The nodes whose rows go in; the first `num_targets` of them are the targets."""
    num_targets: int
    """The nodes whose rows come out."""
    indptr: Tensor
    """int64 [num_targets + 1]: the edges of target t are indptr[t] to indptr[t + 1]."""
    indices: Tensor
    """int32 [edges]: each edge's source, as a position in `sources`."""
    edge_weights: Tensor | None = None
    """float [edges], where the graph has them."""
    key: Key | None = None
    """What this layer's draws (dropout) are keyed by. None where nothing is drawn: evaluation."""

    @property
    def targets(self) -> Nodes:
        """The nodes whose rows come out."""
        return self.sources[: self.num_targets]

    @cached_property
    def transposed(self) -> CSR:
        """The same edges by source, for the backward pass; made once a block."""
        return transpose(self.indptr, self.indices, len(self.sources))

    @cached_property
    def with_self_loops(self) -> "Block":
        """The same block with one edge from every target to itself, after its others. Drops the edge weights."""
        device = self.indptr.device
        rows = torch.arange(self.num_targets, dtype=torch.int64, device=device)
        counts = self.indptr[1:] - self.indptr[:-1]
        indptr = self.indptr.clone()
        indptr[1:] += rows + 1
        indices = self.indices.new_empty(len(self.indices) + self.num_targets)
        indices[indptr[1:] - 1] = rows.to(indices.dtype)
        moved = torch.arange(len(self.indices), dtype=torch.int64, device=device) + torch.repeat_interleave(
            rows, counts
        )
        indices[moved] = self.indices
        return Block(sources=self.sources, num_targets=self.num_targets, indptr=indptr, indices=indices, key=self.key)

    def to(self, device: torch.device) -> "Block":
        """The same block with its edges on `device`; names of nodes stay on the host."""
        if self.indptr.device == device:
            return self
        weights = None if self.edge_weights is None else self.edge_weights.to(device)
        return dataclasses.replace(
            self, indptr=self.indptr.to(device), indices=self.indices.to(device), edge_weights=weights
        )

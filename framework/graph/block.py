"""Blocks: what a sampler hands to a model.

A block is one bipartite layer: its targets gather from its sources along in-edges. Layers see it as a GraphBlock: they
ask it for sums over neighbourhoods and for attention over them, and do not know where the neighbours' rows are. The
targets are the first of the sources, so a model finds a target's own row at the target's own place. The edges of a
target stand in the order of their sources' original ids, which no partition changes: sums over a neighbourhood are the
same sums everywhere.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.graph.shard import GraphShard
from framework.kernels.aggregate import spmm
from framework.kernels.attention import partial_attention
from framework.kernels.csr import CSR, offsets, row_of_entries, transpose
from framework.kernels.dropout import edge_dropout_scale
from framework.kernels.segments import segment_sum
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nodes:
    """Some nodes of the whole graph, under both their names."""

    ids: Tensor
    """int64 [n]: where a node is: its place in the store's order, which the partition decides."""
    original: Tensor
    """int64 [n]: what a node is: its id in the raw graph's order, which keys every random draw."""
    degree: Tensor
    """int64 [n]: number of in-edges from other nodes in the whole graph, or in a seed's own where a sampler gives one
    (Scoped): duplicates count, self-loops do not."""

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
            return cls(ids=local + shard.first, original=shard.original[local], degree=shard.degree[local])
        outside = (local - shard.num_owned).clamp(min=0)
        found = cls(ids=shard.halo[outside], original=shard.halo_original[outside], degree=shard.halo_degree[outside])
        inside = local[owned]  # perhaps none: a part of a vertex-cut may have edges, and no node that it owns
        for column, own in (
            (found.ids, inside + shard.first),
            (found.original, shard.original[inside]),
            (found.degree, shard.degree[inside]),
        ):
            column[owned] = own
        return found

    @classmethod
    def owned_by(cls, shards: Sequence[GraphShard]) -> "Nodes":
        """All nodes that some shards own, shard by shard."""
        return cls.concatenate([cls.of_shard(shard, torch.arange(shard.num_owned)) for shard in shards])

    @classmethod
    def none(cls) -> "Nodes":
        """No nodes."""
        empty = torch.empty(0, dtype=torch.int64)
        return cls(ids=empty, original=empty, degree=empty)

    @classmethod
    def concatenate(cls, several: list["Nodes"]) -> "Nodes":
        """One after the other."""
        if not several:
            return cls.none()
        if len(several) == 1:
            return several[0]
        return cls(
            ids=torch.cat([nodes.ids for nodes in several]),
            original=torch.cat([nodes.original for nodes in several]),
            degree=torch.cat([nodes.degree for nodes in several]),
        )


class GraphBlock(Protocol):
    """One layer of a graph as a network sees it, whoever holds the rows of its neighbours."""

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in; the first `num_targets` of them are the targets."""

    @property
    def num_targets(self) -> int:
        """The nodes whose rows come out."""

    @property
    def targets(self) -> Nodes:
        """The nodes whose rows come out."""

    @property
    def key(self) -> Key | None:
        """What this layer's draws (dropout) are keyed by. None where nothing is drawn: evaluation."""

    @property
    def drawn(self) -> Tensor:
        """Edges that stand for each target's neighbourhood: int64 [targets]."""

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""

    @property
    def without_self_loops(self) -> "GraphBlock":
        """The same layer without the edges from a node to itself, as `Nodes.degree` counts them."""

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """Sum, or mean, over each target's edges, times their weights and importance.

        [sources, columns] -> [targets, columns]."""

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """Attention of each target over its neighbours and once itself, with keyed dropout of the attention weights.

        Edge weights do not count, nor do self-loops of the graph; an edge of importance 2 counts as two edges do.
        `values` [sources, heads, columns], scores [sources, heads] and [targets, heads] -> [targets, heads, columns].
        """

    def whole(self, x: Tensor) -> "tuple[Block, Tensor]":
        """The layer as an edge list with every source's row, for layers that are written on edges."""


@runtime_checkable
class Convolving(Protocol):
    """A layer that has a graph convolution's sum in one pass: one whose edges stay the same for many steps."""

    def convolve(self, x: Tensor) -> Tensor:
        """Sum over each target's edges without self-loops, and once itself, times 1 / sqrt((d_s + 1) (d_t + 1)), d the
        degrees in the whole graph: [sources, columns] -> [targets, columns]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Some of a worker's rows, one after the other."""

    first: int
    """The first of them."""
    count: int
    """How many."""
    boundary: bool
    """Whether other workers wait for some of them."""
    remote: bool
    """Whether some of their neighbours are other workers'."""


@runtime_checkable
class Sending(Protocol):
    """A layer before which rows go to other workers, in steps: what can be had before they come, and what then is.

    The same as `sum` or `convolve` of all rows, which sends them, too, and waits."""

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""

    @property
    def spans(self) -> Sequence[Span]:
        """All rows that go in, and those that come out, in spans. Empty: not in steps."""

    def send(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        """Sends the rows of the spans that others wait for, a tensor for each. Returns them, to go on with, and the
        layer, which then has to be asked for sums of them, once."""

    def sum_in_spans(self, x: Tensor, *, mean: bool = False) -> list[Tensor]:
        """What owned nodes add to sums or means over each target's edges, a tensor for each span."""

    def convolve_in_spans(self, x: Tensor) -> list[Tensor]:
        """The same of a graph convolution's sums (Convolving)."""

    def land(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Waits for the rows of other workers: adds to the sums of the spans that lack some, in place."""


ATTENTION = 1  # the purpose a block's key is folded by for its attention weights; layers use others


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
    importance: Tensor | None = None
    """How much each edge counts beside the others of its target, where they were drawn with unequal chances: float64
    [edges], of mean 1 over each target's edges. None: all count the same."""
    key: Key | None = None
    """What this layer's draws (dropout) are keyed by. None where nothing is drawn: evaluation."""
    masters: int | None = None
    """In a vertex-cut, how many of the targets (the first) are owned here: an edge that a layer adds from every node to
    itself is added for them alone. None: for all."""

    @property
    def targets(self) -> Nodes:
        """The nodes whose rows come out."""
        return self.sources[: self.num_targets]

    @property
    def num_owned(self) -> int:
        """The targets that are not mirrors of nodes that other workers own."""
        return self.num_targets if self.masters is None else self.masters

    @cached_property
    def transposed(self) -> CSR:
        """The same edges by source, for the backward pass; made once a block."""
        return transpose(self.indptr, self.indices, len(self.sources))

    @cached_property
    def with_self_loops(self) -> "Block":
        """The same block with one edge from every owned target to itself, after its others, of importance 1.

        Drops the edge weights."""
        others, owned = self.without_self_loops, self.num_owned
        before = torch.arange(self.num_targets + 1, device=self.indptr.device).clamp(max=owned)  # edges added, by row
        indptr = others.indptr + before
        indices = others.indices.new_empty(len(others.indices) + owned)
        indices[indptr[1 : owned + 1] - 1] = before[:owned].to(indices.dtype)
        entries = torch.arange(len(others.indices), dtype=torch.int64, device=self.indptr.device)
        places = entries + before[row_of_entries(others.indptr, len(entries))]
        indices[places] = others.indices
        importance = None
        if others.importance is not None:
            importance = others.importance.new_ones(len(indices))
            importance[places] = others.importance
        return dataclasses.replace(self, indptr=indptr, indices=indices, edge_weights=None, importance=importance)

    def convolution(self, dtype: torch.dtype) -> "Block":
        """The block with self-loops, its edges weighted as a graph convolution does: float `dtype` [edges]."""
        looped = self.with_self_loops
        scale = (looped.sources.degree.to(looped.indptr.device) + 1).to(torch.float64).rsqrt()
        rows = row_of_entries(looped.indptr, len(looped.indices))
        return dataclasses.replace(looped, edge_weights=(scale[looped.indices.long()] * scale[rows]).to(dtype))

    @property
    def without_self_loops(self) -> "Block":
        """As GraphBlock's; the block itself where it has no self-loops. Importance is 1 on average again."""
        return self if self._loop_free is None else self._loop_free

    @cached_property
    def _loop_free(self) -> "Block | None":
        """The block without its self-loops. None where it has none, for one that kept itself would outlive its step."""
        kept = self.indices != row_of_entries(self.indptr, len(self.indices))
        if bool(kept.all()):
            return None
        indptr = offsets(kept)[self.indptr]
        return dataclasses.replace(
            self,
            indptr=indptr,
            indices=self.indices[kept],
            edge_weights=None if self.edge_weights is None else self.edge_weights[kept],
            importance=None if self.importance is None else self._shared_anew(indptr, self.importance[kept]),
        )

    def _shared_anew(self, indptr: Tensor, importance: Tensor) -> Tensor:
        """The importance of some of the edges, of mean 1 over each row of `indptr`. Whole rows stay to the bit: what a
        target has must not depend on whether another one of its block has self-loops."""
        counts = indptr.diff()
        share = counts / segment_sum(indptr, importance).clamp(min=torch.finfo(importance.dtype).tiny)
        share = share.masked_fill(counts == self.drawn, 1)
        return importance * share[row_of_entries(indptr, len(importance))]

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The original ids of every edge's target and source: int64 [edges] each, on the host."""
        rows = row_of_entries(self.indptr, len(self.indices)).cpu()
        return self.targets.original[rows], self.sources.original[self.indices.cpu().long()]

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.edge_weights is not None

    @property
    def drawn(self) -> Tensor:
        """Edges that stand for each target's neighbourhood: int64 [targets]."""
        return self.indptr.diff()

    def factors(self, dtype: torch.dtype) -> Tensor | None:
        """What each edge's row is multiplied with, weight times importance: `dtype` [edges]. None: 1."""
        if self.edge_weights is None or self.importance is None:
            given = self.importance if self.edge_weights is None else self.edge_weights
            return None if given is None else given.to(dtype)
        return (self.edge_weights * self.importance).to(dtype)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's."""
        transposed = self.transposed if x.requires_grad else None
        return spmm(self.indptr, self.indices, x, self.factors(x.dtype), mean=mean, transposed=transposed)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's."""
        return self.attend_keyed(
            self.key, values, source_scores, target_scores, negative_slope=negative_slope, dropout=dropout
        )

    def attend_keyed(
        self,
        key: Key | None,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        *,
        negative_slope: float,
        dropout: float,
    ) -> Tensor:
        """`attend` with another key than the block's own, for a block that serves many steps."""
        return self.attend_partially(
            key, values, source_scores, target_scores, negative_slope=negative_slope, dropout=dropout
        )[0]

    def attend_partially(
        self,
        key: Key | None,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        *,
        negative_slope: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor]:
        """`attend_keyed` where this block has some of the targets' edges only: what `join_attention` joins."""
        looped = self.with_self_loops
        scale = looped.dropped_edges(key, values.shape[1], dropout, values)
        if looped.importance is not None:
            importance = looped.importance.to(values.dtype)[:, None].expand(-1, values.shape[1])
            scale = importance if scale is None else scale * importance

        def over(rows: Tensor, edge_scale: Tensor | None) -> tuple[Tensor, Tensor]:
            return partial_attention(
                looped.indptr,
                looped.indices,
                rows,
                source_scores,
                target_scores,
                negative_slope=negative_slope,
                edge_scale=edge_scale,
                transposed=looped.transposed if values.requires_grad else None,
            )

        out, totals = over(values, scale)
        if looped.importance is None:
            return out, totals
        # The softmax with importance is the one without times importance, over the sum of that: attention over ones.
        sums, _ = over(values.new_ones(len(values), values.shape[1], 1), importance)
        sums = sums.masked_fill(sums == 0, 1)  # of a target without edges
        return out / sums, totals + sums.squeeze(2).log()

    def dropped_edges(self, key: Key | None, heads: int, p: float, like: Tensor) -> Tensor | None:
        """Keyed dropout of attention weights: 0 or 1 / (1 - p), [edges, heads], of the type and place of `like`."""
        if key is None or p == 0:
            return None
        targets, sources = self._ends
        return edge_dropout_scale(targets, sources, heads, p, key.fold(ATTENTION), like.dtype).to(like.device)

    def whole(self, x: Tensor) -> "tuple[Block, Tensor]":
        """Itself: a block of edges has the rows of all its sources."""
        return self, x

    def to(self, device: torch.device) -> "Block":
        """The same block with its edges on `device`; names of nodes stay on the host."""
        if self.indptr.device == device:
            return self
        return dataclasses.replace(
            self,
            indptr=self.indptr.to(device),
            indices=self.indices.to(device),
            edge_weights=None if self.edge_weights is None else self.edge_weights.to(device),
            importance=None if self.importance is None else self.importance.to(device),
        )

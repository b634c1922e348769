"""The halo by turns: in each a worker has rows of one other, and the edges from that one's nodes are apart.

Assumptions: in turn d a worker has rows of the worker d before it and sends its own to the one d after it, so that all
are busy; a worker wants a row from its owner once, so that no two gradients of a turn are for the same row.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor

from framework.comm.halo.link import Arrival, Lane, Link, Route
from framework.comm.halo.plan import HaloPlan
from framework.graph.block import ATTENTION, Block, Nodes
from framework.graph.split import Half, half_from
from framework.kernels.attention import partial_attention
from framework.kernels.csr import CSR, row_of_entries, transpose
from framework.kernels.dropout import edge_dropout_scale
from framework.kernels.sample import gather_rows
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One exchange in which this worker has rows of one other."""

    source: int
    """The worker whose rows come."""
    wanted: Tensor
    """int64 [s]: places, among the owned nodes, of the rows that one other worker wants; each once. On the device."""
    outward: Route
    """Rows towards the halo: s sent, r received."""
    homeward: Route
    """Gradients towards the owners."""
    link: Link
    """Carries them."""

    @classmethod
    def all_of(cls, plan: HaloPlan, link: Link) -> "list[Turn]":
        """One for every other worker."""
        size, rank = plan.group.size, plan.group.rank
        return [cls._between(plan, link, (rank - step) % size, (rank + step) % size) for step in range(1, size)]

    @classmethod
    def _between(cls, plan: HaloPlan, link: Link, source: int, target: int) -> "Turn":
        sent, received = ([0] * plan.group.size for _ in range(2))
        sent[target], received[source] = plan.sent[target], plan.received[source]
        first, begin = sum(plan.sent[:target]), sum(plan.received[:source])
        going, coming = slice(first, first + sent[target]), slice(begin, begin + received[source])
        return cls(
            source=source,
            wanted=plan.wanted[going],
            outward=Route(sent=sent, received=received, sent_original=plan.wanted_original[going]),
            homeward=Route(sent=received, received=sent, sent_original=plan.halo_original[coming]),
            link=link,
        )

    def copies(self, owned: Tensor) -> Tensor:
        """[n, columns] rows of the owned nodes -> [s, columns]: those to send."""
        return gather_rows(owned, self.wanted)

    def fetch(self, copies: Tensor, lane: Lane) -> Arrival:
        """Sends rows [s, columns]; the source's will arrive, [r, columns]."""
        return self.link.send(copies, self.outward, lane)

    def give_back(self, gradient: Tensor, lane: Lane) -> Arrival:
        """Sends the gradient of the source's rows [r, columns]; that of the rows sent will arrive, for `add_to`."""
        return self.link.send(gradient, self.homeward, lane)

    def add_to(self, owned: Tensor, gradient: Tensor) -> None:
        """Adds [s, columns] to rows of the owned nodes [n, columns], in place."""
        owned.index_add_(0, self.wanted, gradient)


@runtime_checkable
class InTurns(Protocol):
    """A HaloExchange that has the halo's rows by turns, too."""

    @property
    def turns(self) -> Sequence[Turn]:
        """One for every other worker, in the order of all."""

    @property
    def ahead(self) -> int:
        """How many turns' rows are under way while those of an earlier one are aggregated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """What a layer's attention depends on beside its rows."""

    key: Key | None
    """What its dropout is keyed by."""
    negative_slope: float
    """Of the scores' leaky ReLU."""
    dropout: float
    """Of its weights."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A layer's edges from one other worker's nodes: t targets that have some, r nodes of that worker, e edges."""

    half: Half
    """The edges."""
    targets: Tensor
    """int64 [t]: original ids. On the host, as the sources'."""
    sources: Tensor
    """int64 [r]: original ids."""

    @property
    def rows(self) -> Tensor:
        """int64 [t]: the targets' places among the owned nodes."""
        assert self.half.rows is not None
        return self.half.rows

    @cached_property
    def transposed(self) -> CSR:
        """[r, t]: the transpose of `half.matrix`, of which `half.transposed` has all targets' columns."""
        matrix = self.half.matrix
        return transpose(matrix.indptr, matrix.indices, len(self.sources))

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The original ids of every edge's target and source: int64 [e] each."""
        indices = self.half.matrix.indices.cpu().long()
        return self.targets[row_of_entries(self.half.matrix.indptr.cpu(), len(indices))], self.sources[indices]

    def attend(
        self, how: Attention, values: Tensor, source_scores: Tensor, target_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention over these edges alone, as `partial_attention` gives it: [t, heads, columns] and [t, heads].

        `values` [r, heads, columns], scores [r, heads] and [t, heads]."""
        matrix, scale = self.half.matrix, None
        if how.key is not None and how.dropout > 0:
            heads, key = target_scores.shape[1], how.key.fold(ATTENTION)
            scale = edge_dropout_scale(*self.ends, heads, how.dropout, key, values.dtype).to(values.device)
        return partial_attention(
            matrix.indptr,
            matrix.indices,
            values,
            source_scores,
            target_scores,
            negative_slope=how.negative_slope,
            edge_scale=scale,
            transposed=self.transposed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitByOwner:
    """The edges of a worker's nodes, by the worker that owns their sources."""

    inner: Half
    """From nodes whose rows are here, all rows."""
    outer: Sequence[Piece]
    """From the nodes of every worker, by rank; none from its own."""
    counts: Tensor
    """Edges of each target, at least 1: int64 [n, 1]; what a mean divides by."""
    inside: Nodes
    """The nodes whose rows are here, the n targets first."""

    @classmethod
    def of(cls, block: Block, inside: int | None, received: Sequence[int]) -> "SplitByOwner":
        """Splits a layer whose sources are `inside` (None: n) here and then, worker by worker, `received` others."""
        inside = block.num_targets if inside is None else inside
        outer, first = [], inside
        for count in received:
            half = half_from(block, first, count, every_row=False)
            assert half.rows is not None
            targets, sources = block.targets.original[half.rows.cpu()], block.sources.original[first : first + count]
            outer.append(Piece(half=half, targets=targets, sources=sources))
            first += count
        return cls(
            inner=half_from(block, 0, inside, every_row=True),
            outer=outer,
            counts=block.drawn.clamp(min=1).unsqueeze(1),
            inside=block.sources[:inside],
        )

    @cached_property
    def inner_block(self) -> Block:
        """The edges from nodes whose rows are here as a layer, without weights."""
        matrix = self.inner.matrix
        return Block(sources=self.inside, num_targets=len(self.counts), indptr=matrix.indptr, indices=matrix.indices)

    def attend_inside(
        self, how: Attention, values: Tensor, source_scores: Tensor, target_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention over owned neighbours and the node itself: [n, heads, columns], and its totals [n, heads]."""
        return self.inner_block.attend_partially(
            how.key, values, source_scores, target_scores, negative_slope=how.negative_slope, dropout=how.dropout
        )

"""One layer over all nodes of a vertex-cut, where mirrors have rows of their own: owned nodes and mirrors in and out.

Every worker sums over its edges for all nodes that it has, owned or not, and adds what the others have for the same
nodes; then owner and mirrors apply the layer alike, draws being keyed by nodes. So no row has to come before a layer,
and of a sum nothing but others' parts can be late (DistGNN; Md et al., SC 2021). What it costs: mirrors are computed
once more wherever they are. The last layer's rows are their owners' alone, whose loss it is.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.halo import partials, passes
from framework.comm.halo.mirrors import MirroredBlock
from framework.graph.block import Nodes
from framework.kernels.attention import join_attention, partial_attention


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReplicatedBlock(MirroredBlock):
    """A layer of the whole graph on a vertex-cut (a GraphBlock). n owned nodes, h mirrors."""

    last: bool
    """Whether no layer follows: rows of the n owned nodes come out, else of all n + h."""

    @property
    def num_targets(self) -> int:
        """n + h, or n of the last layer."""
        return self.local.num_owned if self.last else len(self.local.sources)

    @property
    def sources(self) -> Nodes:
        """All n + h."""
        return self.local.sources

    def _sum(self, x: Tensor) -> Tensor:
        return self._sum_of_given(x, mirrors=not self.last)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Between workers go heads * columns sums, heads log-sum-exps, and, to owners, whether there
        was any edge; before the last layer the scores of mirrors as targets."""
        if self.last:
            target_scores = passes.fill(target_scores, self.wire.plan, self.wire.exchange, self.layer)
        partial, totals = self.local.attend_partially(
            self.key, values, source_scores, target_scores, negative_slope=negative_slope, dropout=dropout
        )
        parts, their_totals = self._parts(partial, totals)
        owned = self._joined_by_owners(partial, parts, their_totals)
        return owned if self.last else torch.cat([owned, self._joined_by_mirrors(partial, totals, parts, their_totals)])

    def _joined_by_mirrors(self, partial: Tensor, totals: Tensor, parts: Tensor, their_totals: Tensor) -> Tensor:
        """A mirror's own answer, and that of all others, which its owner has joined: [h, heads, columns]."""
        siblings, transposed = self.wire.plan.siblings
        heads, columns = partial.shape[1:]
        others, other_totals = partial_attention(
            siblings.indptr,
            siblings.indices,
            parts,
            their_totals,
            their_totals.new_zeros(len(siblings.indptr) - 1, heads),
            negative_slope=1.0,
            transposed=transposed,
        )
        rows = torch.cat([others.flatten(1), other_totals], dim=1)
        came = partials.scattered(rows, self.wire.exchange, self.layer)
        flat, other_totals = came.split_with_sizes([heads * columns, heads], dim=1)
        n = self.local.num_owned
        indptr, indices = self._pairs
        return join_attention(
            indptr,
            indices,
            torch.cat([partial[n:], flat.reshape(-1, heads, columns)]),
            torch.cat([totals[n:], other_totals]),
        )

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """[h, 2 h]: of every mirror its own answer and what came."""
        mirrors = self.wire.plan.num_halo
        own = torch.arange(mirrors, dtype=torch.int32, device=self.wire.plan.wanted.device)
        indptr = torch.arange(0, 2 * mirrors + 1, 2, device=own.device)
        return indptr, torch.stack([own, own + mirrors], dim=1).flatten()

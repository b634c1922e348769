"""One layer over all nodes of a vertex-cut, where mirrors have rows of their own: owned nodes and mirrors in and out.

Every worker sums over its edges for all nodes that it has, owned or not, and adds what the others have for the same
nodes; then owner and mirrors apply the layer alike, draws being keyed by nodes. So no row has to come before a layer,
and of a sum nothing but others' parts can be late (DistGNN; Md et al., SC 2021). What it costs: mirrors are computed
once more wherever they are. The last layer's rows are their owners' alone, whose loss it is.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.halo import joined, passes
from framework.comm.halo.mirrors import MirroredBlock
from framework.graph.block import Block, Nodes
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReplicatedBlock:
    """A layer of the whole graph on a vertex-cut (a GraphBlock). n owned nodes, h mirrors."""

    owners: MirroredBlock
    """The layer where mirrors have the rows that owners send them."""
    last: bool
    """Whether no layer follows: rows of the n owned nodes come out, else of all n + h."""

    @property
    def num_targets(self) -> int:
        """n + h, or n of the last layer."""
        return self.owners.num_targets if self.last else len(self.sources)

    @property
    def sources(self) -> Nodes:
        """All n + h."""
        return self.owners.local.sources

    @property
    def targets(self) -> Nodes:
        """All, or the owned nodes of the last layer."""
        return self.sources[: self.num_targets]

    @property
    def layer(self) -> int:
        """The layer's number, from 0."""
        return self.owners.layer

    @property
    def key(self) -> Key | None:
        """What this layer's draws are keyed by."""
        return self.owners.key

    @property
    def drawn(self) -> Tensor:
        """All edges, of all workers: int64 [targets]."""
        return self.owners.edges.counts[: self.num_targets]

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.owners.weighted

    @property
    def without_self_loops(self) -> "ReplicatedBlock":
        """As GraphBlock's."""
        return dataclasses.replace(self, owners=self.owners.without_self_loops)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's."""
        sums = self.owners.sum_of_given(x, mirrors=not self.last)
        return sums / self.drawn.clamp(min=1).unsqueeze(1).to(x.dtype) if mean else sums

    def convolve(self, x: Tensor) -> Tensor:
        """As Convolving's."""
        edges = self.owners.edges.convolution(x.dtype)
        return dataclasses.replace(self, owners=dataclasses.replace(self.owners, edges=edges)).sum(x)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Between workers go heads * columns sums, heads log-sum-exps, and, to owners, whether there
        was any edge; before the last layer the scores of mirrors as targets."""
        wire, layer = self.owners.wire, self.layer
        if self.last:
            target_scores = passes.fill(target_scores, wire.plan, wire.exchange, layer)
        partial, totals = self.owners.local.attend_partially(
            self.key, values, source_scores, target_scores, negative_slope=negative_slope, dropout=dropout
        )
        parts = joined.gathered(partial, totals, wire, layer)
        owned = joined.by_owners(partial, parts, wire.plan)
        return owned if self.last else torch.cat([owned, joined.by_mirrors(partial, totals, parts, wire, layer)])

    def whole(self, x: Tensor) -> tuple[Block, Tensor]:
        """As MirroredBlock's: raises InputError."""
        return self.owners.whole(x)

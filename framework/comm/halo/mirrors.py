"""One layer over all nodes of a vertex-cut, as a network sees it: rows of owned nodes in, rows of owned nodes out.

A worker has some of the edges of the nodes it owns, and some of nodes that others own: its mirrors. The same plan
serves both ways: rows go from owners to mirrors as they would to a halo, partial results from mirrors to owners. Before
the first layer no row has to come: features of mirrors are fetched once and kept, so mirrors are among the sources
there. What is summed of features alone, nothing learned in it, is exact whatever the strategy, and is kept where the
features stay the same.

Attention is combined from partial softmax sums: every worker attends over the edges it has, and the owner weighs these
answers by the softmax of their log-sum-exps. The edge that attention adds from a node to itself is its owner's.
"""

import dataclasses
from collections import defaultdict
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.halo import joined, partials, passes
from framework.comm.halo.block import Wire
from framework.comm.halo.constants import Constants
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import DirectLink
from framework.comm.halo.plan import HaloPlan
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.random import Key


def _kept() -> dict[bool, Constants]:
    return defaultdict(Constants)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MirroredEdges:
    """The edges of a worker, kept for all steps with what is made of them. n owned nodes, h mirrors."""

    block: Block
    """Sources and targets: n owned nodes, then h mirrors."""
    plan: HaloPlan
    """Which rows are whose mirrors."""
    counts: Tensor
    """Edges of each node in the whole graph: int64 [n + h]."""
    loopless: Tensor
    """The same without edges from a node to itself."""
    looped: bool
    """Whether some worker has such an edge."""
    _constants: dict[bool, Constants] = dataclasses.field(default_factory=_kept, repr=False)
    _convolutions: "dict[torch.dtype, MirroredEdges]" = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, block: Block, plan: HaloPlan) -> "MirroredEdges":
        """Counts the edges of all workers. All workers call this together."""
        here = torch.stack([block.drawn, block.without_self_loops.drawn], dim=1).to(torch.float64)
        exchange = Exact().open(plan, DirectLink(plan.group, "state"))
        home = partials.reduced(here, plan, exchange, layer=0)
        counts, loopless = passes.fill(home, plan, exchange, layer=0).to(torch.int64).unbind(1)
        loops = plan.group.all_reduce((counts - loopless).sum(), "state")
        return cls(block=block, plan=plan, counts=counts, loopless=loopless, looped=bool(loops > 0))

    @cached_property
    def quarters(self) -> partials.Quarters:
        """The edges by both their ends."""
        return partials.Quarters.of(self.block)

    @cached_property
    def without_self_loops(self) -> "MirroredEdges":
        """The same without edges from a node to itself; itself where no worker has any: what is kept for constant rows
        has to be kept by all."""
        if not self.looped:
            return self
        return dataclasses.replace(
            self,
            block=self.block.without_self_loops,
            counts=self.loopless,
            looped=False,
            _constants=_kept(),
            _convolutions={},
        )

    def convolution(self, dtype: torch.dtype) -> "MirroredEdges":
        """The edges of a graph convolution, each owned node's own among them, weighted in `dtype`; made once."""
        if dtype not in self._convolutions:
            block = self.block.convolution(dtype)
            self._convolutions[dtype] = dataclasses.replace(self, block=block, _constants=_kept(), _convolutions={})
        return self._convolutions[dtype]

    def sum(self, x: Tensor, wire: Wire, layer: int, *, mirrors: bool) -> Tensor:
        """Sums over all workers' edges of rows of all n + h sources: [n, columns]; with `mirrors`, [n + h, columns]."""
        join = partials.replicated if mirrors else partials.reduced
        return join(self.block.sum(x), wire.plan, wire.exchange, layer)

    def kept_sum(self, x: Tensor, wire: Wire, layer: int, *, mirrors: bool) -> Tensor:
        """The same of rows in which nothing is learned; kept for rows that stay the same."""
        return self._constants[mirrors].of(x, lambda: self.sum(x, wire, layer, mirrors=mirrors))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MirroredBlock:
    """A layer of the whole graph on a vertex-cut (a GraphBlock). n owned nodes, h mirrors."""

    edges: MirroredEdges
    """The worker's edges."""
    wire: Wire
    """Brings rows to mirrors and partial results to owners."""
    exact: Wire | None
    """The same, exactly: for what nothing is learned in. None: that goes as everything else."""
    layer: int
    """The layer's number, from 0."""
    key: Key | None
    """What this layer's draws are keyed by."""

    @property
    def given(self) -> bool:
        """Whether mirrors' rows are among those that go in: features, kept."""
        return self.layer == 0

    @property
    def local(self) -> Block:
        """The worker's edges between n + h nodes."""
        return self.edges.block

    @property
    def num_targets(self) -> int:
        """n."""
        return self.local.num_owned

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in: n, or n + h where mirrors' rows are given."""
        return self.local.sources if self.given else self.targets

    @property
    def targets(self) -> Nodes:
        """The owned nodes."""
        return self.local.sources[: self.num_targets]

    @property
    def drawn(self) -> Tensor:
        """All edges, of all workers: int64 [n]."""
        return self.edges.counts[: self.num_targets]

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.local.weighted

    @property
    def without_self_loops(self) -> "MirroredBlock":
        """As GraphBlock's."""
        return dataclasses.replace(self, edges=self.edges.without_self_loops)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's."""
        sums = self._sum(x)
        return sums / self.drawn.clamp(min=1).unsqueeze(1).to(x.dtype) if mean else sums

    def _sum(self, x: Tensor) -> Tensor:
        if not self.given:
            return partials.summed(x, self.edges.quarters, self.wire.plan, self.wire.exchange, self.layer)
        return self.sum_of_given(x, mirrors=False)

    def sum_of_given(self, x: Tensor, *, mirrors: bool) -> Tensor:
        """Sums of rows of all n + h sources: as MirroredEdges'."""
        if self.given and self.exact is not None and not x.requires_grad:
            return self.edges.kept_sum(x, self.exact, self.layer, mirrors=mirrors)
        return self.edges.sum(x, self.wire, self.layer, mirrors=mirrors)

    def convolve(self, x: Tensor) -> Tensor:
        """As Convolving's."""
        return dataclasses.replace(self, edges=self.edges.convolution(x.dtype)).sum(x)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. To mirrors go values and scores of a row together; back come heads * columns sums, heads
        log-sum-exps, and whether there was any edge."""
        heads, columns = values.shape[1:]
        if self.given:
            local = self.local
            target_scores = passes.fill(target_scores, self.wire.plan, self.wire.exchange, self.layer)
        else:
            local = self.wire.exchange.block(self.local)
            rows = torch.cat([values.flatten(1), source_scores, target_scores], dim=1)
            rows = passes.fill(rows, self.wire.plan, self.wire.exchange, self.layer)
            flat, source_scores, target_scores = rows.split_with_sizes([heads * columns, heads, heads], dim=1)
            values = flat.reshape(-1, heads, columns)
        partial, totals = local.attend_partially(
            self.key, values, source_scores, target_scores, negative_slope=negative_slope, dropout=dropout
        )
        parts = joined.gathered(partial, totals, self.wire, self.layer)
        return joined.by_owners(partial, parts, self.wire.plan)

    def whole(self, x: Tensor) -> tuple[Block, Tensor]:
        """Not on a vertex-cut: raises InputError."""
        raise InputError(
            "a layer of this model works on lists of edges, and in a vertex-cut no worker has all edges of a node. "
            "Choose an edge-cut with --partitioner (metis, random, ...), or layers that use sums or attention of "
            "blocks: gcn, sage, gat."
        )

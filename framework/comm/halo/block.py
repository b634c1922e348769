"""One layer over all nodes of a worker, as a network sees it: rows of owned nodes in, rows of owned nodes out.

The rows of the halo come by the halo strategy, behind the sums and the attention that a layer asks for. Before the
first layer nothing has to come: features of the halo are fetched once and kept, so the halo is among the sources there.
"""

import dataclasses
import weakref
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.halo import passes
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Block, Nodes
from framework.graph.split import SplitBlock
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """Rows that have been seen, and their sums once they have been seen again."""

    rows: weakref.ref[Tensor]
    """The rows."""
    version: int
    """How often they had been changed in place."""
    sums: Tensor | None
    """[n, columns], or None."""

    def of(self, x: Tensor) -> bool:
        """Whether x is these rows, unchanged."""
        return self.rows() is x and self.version == x._version


@dataclasses.dataclass(frozen=True, eq=False)
class OwnedEdges:
    """The edges of all nodes that a worker owns, kept for all steps with what is made of them."""

    block: Block
    """Sources: n owned nodes, then h halo nodes."""
    _convolutions: "dict[torch.dtype, OwnedEdges]" = dataclasses.field(default_factory=dict, repr=False)
    _constants: "dict[bool, Constant]" = dataclasses.field(default_factory=dict, repr=False)

    @cached_property
    def split(self) -> SplitBlock:
        """Edges from owned nodes, and edges from the halo."""
        return SplitBlock.of(self.block)

    @cached_property
    def without_self_loops(self) -> "OwnedEdges":
        """The same without edges from a node to itself; itself where there are none."""
        block = self.block.without_self_loops
        return self if block is self.block else OwnedEdges(block)

    def sum(self, x: Tensor, *, mean: bool) -> Tensor:
        """Sums, or means, of rows of all n + h sources. What comes again unchanged, as features do, is summed once."""
        if x.requires_grad:
            return self.block.sum(x, mean=mean)
        known = self._constants.get(mean)
        if known is None or not known.of(x):
            # Whether it comes again is not known yet: nothing but its name is kept.
            self._constants[mean] = Constant(rows=weakref.ref(x), version=x._version, sums=None)
            return self.block.sum(x, mean=mean)
        if known.sums is None:
            known = dataclasses.replace(known, sums=self.block.sum(x, mean=mean))
            self._constants[mean] = known
        assert known.sums is not None
        return known.sums

    def convolution(self, dtype: torch.dtype) -> "OwnedEdges":
        """The edges of a graph convolution, each node's own among them, weighted in `dtype`; made once."""
        if dtype not in self._convolutions:
            self._convolutions[dtype] = OwnedEdges(self.block.convolution(dtype))
        return self._convolutions[dtype]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Wire:
    """How the rows of a halo are had."""

    plan: HaloPlan
    """Who sends which rows to whom."""
    exchange: HaloExchange
    """Brings them."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnedBlock:
    """A layer of the whole graph, as far as this worker owns it (a GraphBlock). n owned nodes, h halo nodes."""

    edges: OwnedEdges
    """The owned nodes' edges."""
    wire: Wire | None
    """Brings the halo's rows. None: they are given, the sources are all n + h."""
    layer: int
    """The layer's number, from 0."""
    key: Key | None
    """What this layer's draws are keyed by."""

    @property
    def local(self) -> Block:
        """The edges with all n + h sources."""
        return self.edges.block

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in: n, or n + h where nothing is exchanged."""
        return self.local.sources if self.wire is None else self.local.targets

    @property
    def num_targets(self) -> int:
        """n."""
        return self.local.num_targets

    @property
    def targets(self) -> Nodes:
        """The owned nodes."""
        return self.local.targets

    @property
    def drawn(self) -> Tensor:
        """All edges: int64 [n]."""
        return self.local.drawn

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.local.weighted

    @property
    def without_self_loops(self) -> "OwnedBlock":
        """As GraphBlock's."""
        return dataclasses.replace(self, edges=self.edges.without_self_loops)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's. The wire and the processor work at the same time."""
        if self.wire is None:
            return self.edges.sum(x, mean=mean)
        return passes.summed(x, self.edges.split, self.wire.plan, self.wire.exchange, self.layer, mean=mean)

    def convolve(self, x: Tensor) -> Tensor:
        """As Convolving's."""
        return dataclasses.replace(self, edges=self.edges.convolution(x.dtype)).sum(x)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Values and scores of a row travel together."""
        heads, columns = values.shape[1:]
        block, rows = self.whole(torch.cat([values.flatten(1), source_scores], dim=1))
        return block.attend_keyed(
            self.key,
            rows[:, : heads * columns].reshape(-1, heads, columns),
            rows[:, heads * columns :].contiguous(),
            target_scores,
            negative_slope=negative_slope,
            dropout=dropout,
        )

    def whole(self, x: Tensor) -> tuple[Block, Tensor]:
        """As GraphBlock's."""
        if self.wire is None:
            return self.local, x
        block = self.wire.exchange.block(self.local)
        return block, passes.fill(x, self.wire.plan, self.wire.exchange, self.layer)

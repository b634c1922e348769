"""One layer over all nodes of a worker, as a network sees it: rows of owned nodes in, rows of owned nodes out.

The rows of the halo come by the halo strategy, behind the sums and the attention that a layer asks for. Before the
first layer nothing has to come: features of the halo are fetched once and kept, so the halo is among the sources there.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.halo import passes, passes_by_turns
from framework.comm.halo.constants import Constants
from framework.comm.halo.overlap import Flight, Overlap, SplitSpans, landed, sent, summed_inside
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.comm.halo.turns import Attention, InTurns, SplitByOwner
from framework.graph.block import Block, Nodes, Span
from framework.graph.split import SplitBlock
from framework.random import Key


def nothing() -> None:
    """What is to be done where nobody has said."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnedEdges:
    """The edges of all nodes that a worker owns, kept for all steps with what is made of them."""

    block: Block
    """Sources: n owned nodes, then h halo nodes."""
    inside: int | None = None
    """How many of the sources, the first, are here, where more nodes' rows are computed here than come out. None: n."""
    when_read: Callable[[], None] = nothing
    """Called when rows that come again unchanged have been summed: they may go where they take no memory."""
    _convolutions: "dict[torch.dtype, OwnedEdges]" = dataclasses.field(default_factory=dict, repr=False)
    _by_owner: "dict[tuple[int, ...], SplitByOwner]" = dataclasses.field(default_factory=dict, repr=False)
    _in_spans: dict[Overlap, SplitSpans] = dataclasses.field(default_factory=dict, repr=False)
    _constants: dict[bool, Constants] = dataclasses.field(default_factory=lambda: defaultdict(Constants), repr=False)

    @cached_property
    def split(self) -> SplitBlock:
        """Edges from owned nodes, and edges from the halo."""
        return SplitBlock.of(self.block, self.inside)

    @cached_property
    def without_self_loops(self) -> "OwnedEdges":
        """The same without edges from a node to itself; itself where there are none."""
        block = self.block.without_self_loops
        return self if block is self.block else self._of(block)

    def sum(self, x: Tensor, *, mean: bool) -> Tensor:
        """Sums, or means, of rows of all n + h sources. What comes again unchanged, as features do, is summed once."""
        if x.requires_grad:
            return self.block.sum(x, mean=mean)
        sums = self._constants[mean].of(x, lambda: self.block.sum(x, mean=mean))
        self.when_read()
        return sums

    def in_spans(self, overlap: Overlap) -> SplitSpans:
        """The edges by the spans of their targets; made once."""
        if overlap not in self._in_spans:
            self._in_spans[overlap] = SplitSpans.of(self.split, overlap.spans)
        return self._in_spans[overlap]

    def by_owner(self, received: Sequence[int]) -> SplitByOwner:
        """Edges from owned nodes, and from those that every other worker sends; made once."""
        key = tuple(received)
        if key not in self._by_owner:
            self._by_owner[key] = SplitByOwner.of(self.block, self.inside, received)
        return self._by_owner[key]

    def convolution(self, dtype: torch.dtype) -> "OwnedEdges":
        """The edges of a graph convolution, each node's own among them, weighted in `dtype`; made once."""
        if dtype not in self._convolutions:
            self._convolutions[dtype] = self._of(self.block.convolution(dtype))
        return self._convolutions[dtype]

    def _of(self, block: Block) -> "OwnedEdges":
        """Other edges between the same nodes."""
        return OwnedEdges(block=block, inside=self.inside, when_read=self.when_read)


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
    overlap: Overlap | None = None
    """The rows in spans, where some can be sent before the rest is there."""
    flight: Flight | None = None
    """That of rows which have been sent."""

    @property
    def spans(self) -> Sequence[Span]:
        """As Sending's."""
        return () if self.overlap is None else self.overlap.spans

    def send(self, rows: Sequence[Tensor]) -> "tuple[list[Tensor], OwnedBlock]":
        """As Sending's."""
        assert self.wire is not None, "nothing is sent where nothing is exchanged"
        assert self.overlap is not None, "this layer has no spans"
        out, flight = sent(rows, self.overlap, self.wire.exchange, self.layer)
        return out, dataclasses.replace(self, flight=flight)

    def sum_in_spans(self, x: Tensor, *, mean: bool = False) -> list[Tensor]:
        """As Sending's."""
        assert self.overlap is not None, "this layer has no spans"
        assert self.flight is not None, "nothing was sent"
        return summed_inside(x, self.spans, self.edges.in_spans(self.overlap), self.flight, mean=mean)

    def convolve_in_spans(self, x: Tensor) -> list[Tensor]:
        """As Sending's."""
        return dataclasses.replace(self, edges=self.edges.convolution(x.dtype)).sum_in_spans(x)

    def land(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """As Sending's."""
        assert self.wire is not None, "nothing comes where nothing is exchanged"
        assert self.flight is not None, "nothing was sent"
        return landed(sums, self.flight, self.wire.exchange, self.layer)

    @property
    def local(self) -> Block:
        """The edges with all n + h sources."""
        return self.edges.block

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in: n, or n + h where nothing is exchanged."""
        return self.local.sources if self.wire is None else self.local.sources[: self.edges.inside or self.num_targets]

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
        plan, exchange = self.wire.plan, self.wire.exchange
        if isinstance(exchange, InTurns):
            return passes_by_turns.summed(x, self.edges.by_owner(plan.received), exchange, self.layer, mean=mean)
        return passes.summed(x, self.edges.split, plan, exchange, self.layer, mean=mean)

    def convolve(self, x: Tensor) -> Tensor:
        """As Convolving's."""
        return dataclasses.replace(self, edges=self.edges.convolution(x.dtype)).sum(x)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Values and scores of a row travel together."""
        if self.wire is not None and isinstance(self.wire.exchange, InTurns):
            how = Attention(key=self.key, negative_slope=negative_slope, dropout=dropout)
            split = self.edges.without_self_loops.by_owner(self.wire.plan.received)
            return passes_by_turns.attended(
                how, values, source_scores, target_scores, split, self.wire.exchange, self.layer
            )
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

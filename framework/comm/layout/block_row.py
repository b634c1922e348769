"""The edges of a whole grid row, and what is computed on them: sums and attention, from one block row after the other.

Assumptions: a worker has the edges of all nodes of its grid row. They are constant, so they are gathered once, at
opening; what moves in a step are rows. Sources are numbered with the grid row's own nodes first, then all others by id,
so the sources of every block row lie together. Workers of a grid column go through them in one order: theirs.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from framework.comm.halo.turns import Attention
from framework.comm.layout.grid import Grid, Way, bring, brought, give
from framework.comm.layout.strategy import OwnedGraph
from framework.comm.rows import all_rows
from framework.graph.block import Block, Nodes
from framework.graph.split import Half, half_from, only_sources
from framework.kernels.attention import partial_attention
from framework.kernels.csr import CSR, offsets, transpose


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attended:
    """The edges that attention looks at."""

    block: Block
    """Those from the stages' sources, each target's own among them; sources are numbered as the block row's."""
    indices: Tensor
    """int32 [edges]: their sources, numbered as `brought` has their rows."""
    transposed: CSR
    """For the backward pass."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BlockRow:
    """The in-edges of a grid row's r nodes, kept for all steps with what is made of them."""

    grid: Grid
    """The workers."""
    block: Block
    """Targets: the r nodes. Sources: these, then all other nodes of the graph."""
    stages: range
    """The block rows of sources that this worker sums over, in the order of all workers of its grid column."""
    _convolutions: "dict[torch.dtype, BlockRow]" = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, graph: OwnedGraph, grid: Grid, stages: range) -> "BlockRow":
        """Gathers the edges of this worker's grid row. All workers call this together."""
        return cls(grid=grid, block=_gathered(graph, grid).to(graph.device), stages=stages)

    @cached_property
    def halves(self) -> list[Half]:
        """The edges of every stage."""
        first, sizes = self._first, self.grid.blocks
        return [half_from(self.block, first[stage], sizes[stage], every_row=False) for stage in self.stages]

    @cached_property
    def _first(self) -> dict[int, int]:
        """Block row -> number of the first of its nodes among the sources."""
        row, sizes = self.grid.row, self.grid.blocks
        order = [row, *(other for other in range(self.grid.rows) if other != row)]
        return dict(zip(order, itertools.accumulate([sizes[each] for each in order], initial=0), strict=False))

    @cached_property
    def without_self_loops(self) -> "BlockRow":
        """The same without edges from a node to itself; itself where there are none."""
        block = self.block.without_self_loops
        return self if block is self.block else BlockRow(grid=self.grid, block=block, stages=self.stages)

    def convolution(self, dtype: torch.dtype) -> "BlockRow":
        """The edges of a graph convolution, each node's own among them, weighted in `dtype`; made once."""
        if dtype not in self._convolutions:
            block = self.block.convolution(dtype)
            self._convolutions[dtype] = BlockRow(grid=self.grid, block=block, stages=self.stages)
        return self._convolutions[dtype]

    @cached_property
    def attended(self) -> Attended:
        """What attention needs; made once."""
        looped, sizes = self.block.with_self_loops, self.grid.blocks
        place = torch.full((len(looped.sources),), -1, dtype=torch.int32, device=looped.indices.device)
        end = 0
        for stage in self.stages:
            first, end = self._first[stage], end + sizes[stage]
            place[first : first + sizes[stage]] = torch.arange(end - sizes[stage], end, dtype=torch.int32)
        block = looped if end == len(place) else only_sources(looped, place >= 0)
        indices = place[block.indices.long()]
        return Attended(block=block, indices=indices, transposed=transpose(block.indptr, indices, end))

    def sum(self, rows: Tensor, way: Way) -> Tensor:
        """[r, columns] of the block row -> [r, columns]: sums over the stages' sources. Differentiable.

        Holds two other block rows at a time, for one is under way while the one before is summed; so does the backward
        pass, which gives each what it is owed."""
        out: Tensor = _Sum.apply(rows, self, way)  # type: ignore[no-untyped-call]
        return out

    def attend(
        self,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        attention: Attention,
        way: Way,
        *,
        all_heads: int,
        first_head: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Attention over the stages' sources: values [r, heads, columns], scores [r, heads] -> `partial_attention`'s.

        The heads are some of `all_heads`, from `first_head`. Holds the values and scores of all the sources until the
        backward pass is through."""
        heads, columns = values.shape[1:]
        scale = self.attended.block.dropped_edges(attention.key, all_heads, attention.dropout, values)
        rows = brought(torch.cat([values.flatten(1), source_scores], dim=1), self.grid, self.stages, way)
        return partial_attention(
            self.attended.block.indptr,
            self.attended.indices,
            rows[:, : heads * columns].reshape(len(rows), heads, columns),
            rows[:, heads * columns :].contiguous(),
            target_scores,
            negative_slope=attention.negative_slope,
            edge_scale=None if scale is None else scale[:, first_head : first_head + heads],
            transposed=self.attended.transposed,
        )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, edges: BlockRow, way: Way) -> Tensor:
        ctx.edges, ctx.way = edges, way
        out = rows.new_zeros(rows.shape)  # contiguous, however the rows lie
        for half, block in zip(edges.halves, _in_turn(rows, edges, way), strict=True):
            half.add_to(out, block)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        edges, gradient = ctx.edges, gradients[0].contiguous()
        own = going = None
        for stage, half in zip(edges.stages, edges.halves, strict=True):
            owed = half.backward(gradient)
            if going is not None:
                going.wait()
            going = give(owed, edges.grid, stage, ctx.way.backward)
            own = owed if stage == edges.grid.row else own
        if going is not None:
            going.wait()
        return torch.zeros_like(gradient) if own is None else own, None, None


def _in_turn(rows: Tensor, edges: BlockRow, way: Way) -> Iterator[Tensor]:
    """The block rows of the stages; the next one is under way while one is used."""
    ahead = None
    for stage in edges.stages:
        coming = bring(rows, edges.grid, stage, way.forward)
        if ahead is not None:
            yield ahead.wait()
        ahead = coming
    if ahead is not None:
        yield ahead.wait()


def _gathered(graph: OwnedGraph, grid: Grid) -> Block:
    """The in-edges of all nodes of this worker's grid row: 8 bytes an edge cross the wire, and 16 a node."""
    local = graph.local.block
    counts = grid.gathered(local.drawn, "state")
    ids = grid.gathered(local.sources.ids[local.indices.long()], "state")
    weights = None
    if graph.shards.weighted:
        mine = torch.empty(0, dtype=torch.float32) if local.edge_weights is None else local.edge_weights
        weights = grid.gathered(mine, "state")
    facts = all_rows(grid.group, torch.stack([local.targets.original, local.targets.degree], dim=1), "state")
    first, count = grid.starts[grid.row * grid.columns], len(counts)
    everyone = torch.arange(len(facts))
    order = torch.cat([everyone[first : first + count], everyone[:first], everyone[first + count :]])
    place = torch.empty(len(order), dtype=torch.int32)
    place[order] = torch.arange(len(order), dtype=torch.int32)
    original, degree = facts[order].unbind(1)
    return Block(
        sources=Nodes(ids=order, original=original.contiguous(), degree=degree.contiguous()),
        num_targets=count,
        indptr=offsets(counts),
        indices=place[ids],
        edge_weights=weights,
    )

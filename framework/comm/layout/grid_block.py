"""A layer over the whole graph on a grid of workers: how the work of a grid row is shared by its workers.

Two ways: by columns (`Slices`), each worker all the sums of some columns; or by sources (`Replicas`), each some terms
of all the sums. n: own rows. r: rows of the grid row.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from framework.comm.halo.turns import Attention
from framework.comm.layout.block_row import BlockRow
from framework.comm.layout.grid import Grid, Way, exchanged
from framework.comm.layout.strategy import PURPOSE, OwnedGraph
from framework.graph.block import Block, GraphBlock, Nodes
from framework.random import Key


class Sharing(Protocol):
    """How the workers of a grid row share its work."""

    def stages(self, grid: Grid) -> range:
        """The block rows of sources that this worker sums over."""

    def sum(self, x: Tensor, edges: BlockRow, way: Way) -> Tensor:
        """[n, columns] -> [n, columns]: sums over all sources of the own rows."""

    def attend(
        self,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        edges: BlockRow,
        attention: Attention,
        way: Way,
    ) -> Tensor:
        """Values [n, heads, columns], scores [n, heads] -> [n, heads, columns]: attention over all sources."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GridBlock:
    """A layer of the whole graph on a grid of workers (a GraphBlock)."""

    owned: GraphBlock
    """The same layer as far as this worker owns it: names of nodes, and an exact exchange of single rows."""
    layer: int
    """Its number, from 0."""
    edges: BlockRow
    """The edges of this worker's grid row."""
    sharing: Sharing
    """What of its sums this worker does."""

    @property
    def sources(self) -> Nodes:
        """The owned nodes."""
        return self.owned.sources

    @property
    def num_targets(self) -> int:
        """n."""
        return self.owned.num_targets

    @property
    def targets(self) -> Nodes:
        """The owned nodes."""
        return self.owned.targets

    @property
    def key(self) -> Key | None:
        """What this layer's draws are keyed by."""
        return self.owned.key

    @property
    def drawn(self) -> Tensor:
        """All edges: int64 [n]."""
        return self.owned.drawn

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.owned.weighted

    @property
    def without_self_loops(self) -> "GridBlock":
        """As GraphBlock's."""
        owned, edges = self.owned.without_self_loops, self.edges.without_self_loops
        return dataclasses.replace(self, owned=owned, edges=edges)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's."""
        out = self.sharing.sum(x, self.edges, self._way)
        return out / self.drawn.clamp(min=1).unsqueeze(1).to(out.dtype) if mean else out

    def convolve(self, x: Tensor) -> Tensor:
        """As Convolving's."""
        return self.sharing.sum(x, self.edges.convolution(x.dtype), self._way)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Values and scores of a row travel together."""
        attention = Attention(key=self.key, negative_slope=negative_slope, dropout=dropout)
        return self.sharing.attend(values, source_scores, target_scores, self.edges, attention, self._way)

    def whole(self, x: Tensor) -> tuple[Block, Tensor]:
        """As GraphBlock's: single edges are the owner's, so the halo's rows come to it."""
        return self.owned.whole(x)

    @property
    def _way(self) -> Way:
        name = f"{PURPOSE}/{self.layer}"
        return Way(forward=f"{name}/forward", backward=f"{name}/backward")


class GridLayout:
    """A grid of workers as a layout at work (an OpenLayout)."""

    def __init__(self, graph: OwnedGraph, columns: int, sharing: Sharing) -> None:
        """Grid rows of `columns` workers, a divisor of their number. All workers call this together."""
        self.graph, self.sharing = graph, sharing
        grid = Grid.open(graph.shards, columns)
        self.edges = BlockRow.open(graph, grid, sharing.stages(grid))
        self.wire = graph.exact_over(PURPOSE)

    def whole(self, keys: Sequence[Key | None]) -> Sequence[GraphBlock]:
        """As OpenLayout's."""
        first, *others = self.graph.layers(keys, self.wire)
        numbered = enumerate(others, start=1)
        laid = [GridBlock(owned=owned, layer=n, edges=self.edges, sharing=self.sharing) for n, owned in numbered]
        return [first, *laid]


class Slices:
    """Every worker of a grid row some columns of all its rows: an exchange cuts rows into slices and joins them again.

    Attention splits the heads where there are enough, else the columns of every head; scores go with their heads."""

    def stages(self, grid: Grid) -> range:
        """All."""
        return range(grid.rows)

    def sum(self, x: Tensor, edges: BlockRow, way: Way) -> Tensor:
        """As Sharing's."""
        grid = edges.grid
        widths = [end - begin for begin, end in shares(x.shape[1], grid.columns)]
        rows = _cut(x.split_with_sizes(widths, dim=1), grid, way)
        return _joined(edges.sum(rows, way), widths, grid, way)

    def attend(
        self,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        edges: BlockRow,
        attention: Attention,
        way: Way,
    ) -> Tensor:
        """As Sharing's."""
        grid, (heads, columns) = edges.grid, values.shape[1:]
        slices = _head_slices(heads, columns, grid.columns)
        pieces = [
            torch.cat([values[:, some, part].flatten(1), source_scores[:, some], target_scores[:, some]], dim=1)
            for some, part in slices
        ]
        some, part = slices[grid.column]
        mine, width = some.stop - some.start, part.stop - part.start
        own, sources, targets = _cut(pieces, grid, way).split_with_sizes([mine * width, mine, mine], dim=1)
        own = own.reshape(len(own), mine, width)
        out, _ = edges.attend(own, sources, targets, attention, way, all_heads=heads, first_head=some.start)
        shapes = [(some.stop - some.start, part.stop - part.start) for some, part in slices]
        widths = [some * width for some, width in shapes]
        parts = _joined(out.flatten(1), widths, grid, way).split_with_sizes(widths, dim=1)
        blocks = [part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]
        return torch.cat(blocks, dim=1 if heads >= grid.columns else 2)


class Replicas:
    """Every worker of a grid row all its rows and some of their sources: rows are gathered before, partial sums added
    after. The two together are a ring's all-reduce, with the dense part of the layer, done once a row, between them.
    """

    def stages(self, grid: Grid) -> range:
        """An even share of them."""
        begin, end = shares(grid.rows, grid.columns)[grid.column]
        return range(begin, end)

    def sum(self, x: Tensor, edges: BlockRow, way: Way) -> Tensor:
        """As Sharing's."""
        rows = _replicated(x, edges.grid, way)
        return _returned(edges.sum(rows, way), edges.grid, way).sum(0)

    def attend(
        self,
        values: Tensor,
        source_scores: Tensor,
        target_scores: Tensor,
        edges: BlockRow,
        attention: Attention,
        way: Way,
    ) -> Tensor:
        """As Sharing's: partial softmaxes, joined by the logarithms of their sums of exponentials."""
        grid, (heads, columns) = edges.grid, values.shape[1:]
        sizes = [heads * columns, heads, heads]
        rows = _replicated(torch.cat([values.flatten(1), source_scores, target_scores], dim=1), grid, way)
        own, sources, targets = rows.split_with_sizes(sizes, dim=1)
        own = own.reshape(len(own), heads, columns)
        out, totals = edges.attend(own, sources, targets, attention, way, all_heads=heads)
        both = _returned(torch.cat([out.flatten(1), totals], dim=1), grid, way)
        parts, logarithms = both.split_with_sizes([heads * columns, heads], dim=2)
        weights = logarithms.softmax(0).unsqueeze(3)
        return (weights * parts.reshape(*logarithms.shape, columns)).sum(0)


def shares(count: int, workers: int) -> list[tuple[int, int]]:
    """Where each worker's share of `count` things begins and ends, as even as can be."""
    return list(itertools.pairwise(count * worker // workers for worker in range(workers + 1)))


def _head_slices(heads: int, columns: int, workers: int) -> list[tuple[slice, slice]]:
    """Each worker's heads and their columns: whole heads where there is one for each worker, else parts of all."""
    if heads >= workers:
        return [(slice(begin, end), slice(0, columns)) for begin, end in shares(heads, workers)]
    return [(slice(0, heads), slice(begin, end)) for begin, end in shares(columns, workers)]


def _cut(pieces: Sequence[Tensor], grid: Grid, way: Way) -> Tensor:
    """Own rows in slices, one a worker of the grid row, [n, width] each -> the own slice of its rows, [r, width]."""
    width = pieces[grid.column].shape[1]
    flat = torch.cat([piece.reshape(-1) for piece in pieces])
    received = [count * width for count in grid.beside]
    return exchanged(flat, grid, [piece.numel() for piece in pieces], received, way).reshape(sum(grid.beside), width)


def _joined(rows: Tensor, widths: Sequence[int], grid: Grid, way: Way) -> Tensor:
    """The own slice of the grid row's rows, [r, width] -> all slices of own rows, [n, sum of widths]."""
    n, width = grid.owned, widths[grid.column]
    received = [n * each for each in widths]
    flat = exchanged(rows.reshape(-1), grid, [count * width for count in grid.beside], received, way)
    parts = flat.split_with_sizes(received)
    return torch.cat([part.reshape(n, each) for part, each in zip(parts, widths, strict=True)], dim=1)


def _replicated(x: Tensor, grid: Grid, way: Way) -> Tensor:
    """[n, columns] -> [r, columns]: all rows of the grid row."""
    return exchanged(torch.cat([x] * grid.columns), grid, [grid.owned] * grid.columns, grid.beside, way)


def _returned(rows: Tensor, grid: Grid, way: Way) -> Tensor:
    """[r, columns] -> [workers of the grid row, n, columns]: what each has for the own rows."""
    mine = exchanged(rows, grid, grid.beside, [grid.owned] * grid.columns, way)
    return mine.reshape(grid.columns, grid.owned, rows.shape[1])

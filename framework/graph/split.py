"""A worker's own layer in two: edges from nodes it owns, and edges from its halo.

The sum over a neighbourhood is the sum over both, and the first needs no row of another worker: it is computed while
the rows of the second are under way.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from framework.graph.block import Block
from framework.kernels.aggregate import spmm, spmm_into
from framework.kernels.csr import offsets, transpose


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """A sparse matrix by rows, without what it was made from: a `CSR` says of every entry, in 8 bytes, where it was."""

    indptr: Tensor
    """int64 [rows + 1]."""
    indices: Tensor
    """int32 [entries]."""
    values: Tensor | None
    """float [entries]; None: each is 1."""

    def times(self, x: Tensor) -> Tensor:
        """[columns of the matrix, columns] -> [rows, columns], no gradient."""
        return spmm(self.indptr, self.indices, x, self._values(x))

    def add_times(self, out: Tensor, rows: Tensor | None, x: Tensor, scale: float) -> Tensor:
        """Adds `scale` times that to rows `rows` of `out` (None: all, in order), in place; returns `out`."""
        return spmm_into(out, rows, self.indptr, self.indices, x, self._values(x), scale=scale)

    def between(self, first: int, last: int) -> "Matrix":
        """Rows `first` to `last` - 1, over the same entries."""
        indptr = self.indptr[first : last + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        return Matrix(
            indptr=indptr - indptr[0],
            indices=self.indices[entries],
            values=None if self.values is None else self.values[entries],
        )

    def _values(self, x: Tensor) -> Tensor | None:
        return None if self.values is None else self.values.to(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """Some of the edges of a layer, with what both passes need of them."""

    rows: Tensor | None
    """int64 [rows]: the targets that have such edges. None: the rows are all targets."""
    matrix: Matrix
    """[rows, sources]: the edges, with their weights; sources are counted from the half's first."""
    sources: int
    """How many."""

    @cached_property
    def transposed(self) -> Matrix:
        """[sources, targets], for the backward pass; made when it is first asked for."""
        back, values = transpose(self.matrix.indptr, self.matrix.indices, self.sources), self.matrix.values
        return Matrix(
            indptr=back.indptr,
            indices=back.indices if self.rows is None else self.rows[back.indices.long()].to(back.indices.dtype),
            values=None if values is None else values[back.edges],
        )

    def span(self, first: int, count: int) -> "Half":
        """The edges to `count` targets, of which `first` is the first: they are counted from it."""
        if self.rows is None:
            return dataclasses.replace(self, matrix=self.matrix.between(first, first + count))
        bounds = torch.tensor([first, first + count], device=self.rows.device)
        start, end = torch.searchsorted(self.rows, bounds).tolist()
        return dataclasses.replace(self, rows=self.rows[start:end] - first, matrix=self.matrix.between(start, end))

    def add_to(self, out: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        """Adds `scale` times the sums of rows x [sources, columns] to `out` [targets, columns], in place."""
        return self.matrix.add_times(out, self.rows, x, scale)

    def sum(self, x: Tensor) -> Tensor:
        """[sources, columns] -> [rows, columns], no gradient."""
        return self.matrix.times(x)

    def backward(self, gradient: Tensor) -> Tensor:
        """[targets, columns] -> [sources, columns]: the gradient of the sums."""
        return self.transposed.times(gradient)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitBlock:
    """The edges of a worker's nodes, by where their sources are."""

    inner: Half
    """From owned nodes: sources 0 to n - 1, all rows."""
    outer: Half
    """From the halo: sources 0 to h - 1, the rows that have such edges."""
    counts: Tensor
    """Edges of each target, at least 1: int64 [n, 1]; what a mean divides by."""

    @classmethod
    def of(cls, block: Block, inside: int | None = None) -> "SplitBlock":
        """Splits a layer whose sources are `inside` nodes with rows here (None: its n targets) and then h others."""
        here = block.num_targets if inside is None else inside
        return cls(
            inner=half_from(block, 0, here, every_row=True),
            outer=half_from(block, here, len(block.sources) - here, every_row=False),
            counts=block.drawn.clamp(min=1).unsqueeze(1),
        )


def half_from(block: Block, first: int, sources: int, *, every_row: bool) -> Half:
    """The edges from `sources` sources, of which `first` is the first; for targets that have some, or for all."""
    chosen = (block.indices >= first) & (block.indices < first + sources)
    if first == 0 and bool(chosen.all()):
        edges = Matrix(indptr=block.indptr, indices=block.indices, values=block.edge_weights)
    else:
        edges = Matrix(
            indptr=offsets(chosen)[block.indptr],
            indices=block.indices[chosen] - first,
            values=None if block.edge_weights is None else block.edge_weights[chosen],
        )
    rows = None if every_row else torch.nonzero(edges.indptr.diff()).squeeze(1)
    matrix = edges if rows is None else dataclasses.replace(edges, indptr=offsets(edges.indptr.diff()[rows]))
    return Half(rows=rows, matrix=matrix, sources=sources)


def only_sources(block: Block, kept: Tensor) -> Block:
    """The block with the edges whose source is `kept` (bool [sources])."""
    chosen = kept[block.indices.long()]
    return dataclasses.replace(
        block,
        indptr=offsets(chosen)[block.indptr],
        indices=block.indices[chosen],
        edge_weights=None if block.edge_weights is None else block.edge_weights[chosen],
    )


def between_targets(block: Block) -> Block:
    """The block with the edges whose source is a target, and degrees that count these alone; sources stay."""
    kept = torch.arange(len(block.sources), device=block.indptr.device) < block.num_targets
    inner = only_sources(block, kept)
    degree = torch.zeros_like(block.sources.degree)
    degree[: block.num_targets] = inner.without_self_loops.drawn.to(degree.device)
    return dataclasses.replace(inner, sources=dataclasses.replace(block.sources, degree=degree))

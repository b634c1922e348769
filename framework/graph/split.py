"""A worker's own layer in two: edges from nodes it owns, and edges from its halo.

The sum over a neighbourhood is the sum over both, and the first needs no row of another worker: it is computed while
the rows of the second are under way.
"""

import dataclasses

from torch import Tensor

from framework.graph.block import Block
from framework.kernels.aggregate import spmm
from framework.kernels.csr import CSR, offsets, transpose


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Half:
    """Some of the edges of a layer, with what both passes need of them."""

    indptr: Tensor
    """int64 [targets + 1]."""
    indices: Tensor
    """int32 [edges]: sources, counted from the half's first."""
    weights: Tensor | None
    """float [edges], where the graph has them."""
    transposed: CSR
    """The same edges by source."""

    def sum(self, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, columns], no gradient."""
        return spmm(self.indptr, self.indices, x, _like(self.weights, x))

    def backward(self, gradient: Tensor) -> Tensor:
        """[targets, columns] -> [sources, columns]: the gradient of `sum`."""
        weights = None if self.weights is None else self.weights[self.transposed.edges]
        return spmm(self.transposed.indptr, self.transposed.indices, gradient, _like(weights, gradient))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitBlock:
    """The edges of a worker's nodes, by where their sources are."""

    inner: Half
    """From owned nodes: sources 0 to n - 1."""
    outer: Half
    """From the halo: sources 0 to h - 1."""
    counts: Tensor
    """Edges of each target, at least 1: int64 [n, 1]; what a mean divides by."""

    @classmethod
    def of(cls, block: Block) -> "SplitBlock":
        """Splits a layer whose sources are its n targets and then h others."""
        targets = block.num_targets
        outside = block.indices >= targets
        return cls(
            inner=_half(block, ~outside, 0, targets),
            outer=_half(block, outside, targets, len(block.sources) - targets),
            counts=block.drawn.clamp(min=1).unsqueeze(1),
        )


def _half(block: Block, chosen: Tensor, first: int, sources: int) -> Half:
    indptr = offsets(chosen)[block.indptr]
    indices = block.indices[chosen] - first
    return Half(
        indptr=indptr,
        indices=indices,
        weights=None if block.edge_weights is None else block.edge_weights[chosen],
        transposed=transpose(indptr, indices, sources),
    )


def _like(weights: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(x.dtype)


def only_sources(block: Block, kept: Tensor) -> Block:
    """The block with the edges whose source is `kept` (bool [sources])."""
    chosen = kept[block.indices.long()]
    return dataclasses.replace(
        block,
        indptr=offsets(chosen)[block.indptr],
        indices=block.indices[chosen],
        edge_weights=None if block.edge_weights is None else block.edge_weights[chosen],
    )

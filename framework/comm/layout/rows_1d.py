"""Block rows: every worker multiplies its rows of the adjacency matrix with the rows of each worker in turn."""

import dataclasses

from framework.comm.layout.grid_block import GridLayout, Slices
from framework.comm.layout.owner import OwnerLayout
from framework.comm.layout.strategy import PURPOSE, OpenLayout, OwnedGraph, require_edge_cut
from framework.registry import LAYOUTS


@LAYOUTS.register("rows-1d")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows1D:
    """Rows of all workers broadcast in turn, dense or only as far as needed (CAGNET's 1D).

    Tripathy, Yelick and Buluc, "Reducing communication in graph neural network training", SC 2020; sparsity-aware as in
    Mukhopadhyay et al., "Sparsity-aware communication for distributed graph neural network training", ICPP 2024. Equals
    the exact halo always.

    A forward pass of a layer whose sums are c columns wide sends, from a worker of k with n of N rows, (k - 1) n c
    numbers; a backward pass (N - n) c, the sums that it owes the others. Attention over h heads sends c + h for c.
    Sparse: (rows in others' halos) c and (own halo) c. The features' first layer sends nothing: what it needs is
    fetched once and kept.

    Memory: beside its own rows a worker holds those of two others at a time, and for attention all N rows; sparse,
    its halo."""

    sparse: bool = False
    """Send only the rows that a worker has edges from (sparsity-aware): the bytes of an exact halo exchange."""

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """One grid column of all workers; or the owner's layout, which is the sparse case."""
        require_edge_cut(graph, "rows-1d")
        if self.sparse:
            return OwnerLayout(graph=graph, wire=graph.exact_over(PURPOSE))
        return GridLayout(graph, 1, Slices())

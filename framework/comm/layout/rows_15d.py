"""Replicated block rows: several workers have the same rows of the adjacency matrix, each multiplies some columns."""

import dataclasses

from framework.comm.layout.grid_block import GridLayout, Replicas
from framework.comm.layout.strategy import OpenLayout, OwnedGraph, columns_of_grid, require_edge_cut
from framework.errors import InputError
from framework.registry import LAYOUTS


@LAYOUTS.register("rows-15d")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows15D:
    """Block rows on several workers each, which share the stages of the product and add up (CAGNET's 1.5D).

    Tripathy, Yelick and Buluc, "Reducing communication in graph neural network training", SC 2020. There the partial
    sums are all-reduced and the dense part of a layer is computed by every replica; here they are reduced to the owners
    of the rows and gathered again before the next product, which is the same ring in two halves, with the dense part
    computed once between them. Replication 1 is `rows-1d`. Equals the exact halo always.

    Of k workers with f replicas, k / f block rows of r rows stand in a grid. A forward pass of a layer whose sums are c
    columns wide sends, from a worker that owns n rows, (f - 1) n c numbers to its replicas, (k / f - 1) r c to its grid
    column if the stage of its block row is that column's, and (r - n) c partial sums; a backward pass (f - 1) n c, the
    rows of other block rows whose stages are its column's times c, and (r - n) c. Attention over h heads sends c + 2 h,
    c + h and c + h for c. The features' first layer sends nothing: what it needs is fetched once and kept.

    Memory: the edges of a block row on each of its replicas (28 bytes an edge with their transpose, 45 where a graph
    convolution weighs them, and 32 for every node of the graph), its rows, and two more block rows; for attention
    the rows of all its stages."""

    replication: int = 2
    """Workers that have the same block row; a divisor of their number."""

    def __post_init__(self) -> None:
        if self.replication < 1:
            raise InputError(f"--layout.replication is {self.replication}; expected at least 1.")

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """Grid rows of replicas. Raises InputError where they do not divide the workers."""
        require_edge_cut(graph, "rows-15d")
        columns = columns_of_grid(self.replication, graph, "--layout.replication")
        return GridLayout(graph, columns, Replicas())

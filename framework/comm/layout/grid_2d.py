"""Two dimensions: workers in a grid, block rows by slices of columns."""

import dataclasses
import math

from framework.comm.layout.grid_block import GridLayout, Slices
from framework.comm.layout.strategy import OpenLayout, OwnedGraph, columns_of_grid, require_edge_cut
from framework.errors import InputError
from framework.registry import LAYOUTS


@LAYOUTS.register("grid-2d")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid2D:
    """Rows and columns split over a grid of workers, whose products are summed in stages (CAGNET's 2D, SUMMA).

    Tripathy, Yelick and Buluc, "Reducing communication in graph neural network training", SC 2020; van de Geijn and
    Watts, "SUMMA: scalable universal matrix multiplication algorithm", 1997. SUMMA broadcasts blocks of both factors in
    every stage; the adjacency matrix is constant, so here its blocks go along the grid rows once, at opening, and stay.
    One column is `rows-1d`, one row `tensor-parallel`. Equals the exact halo always.

    In a grid of a x b workers a forward pass of a layer whose sums are c columns wide sends, from a worker that owns n
    rows of its block row's r, n (c - c / b) numbers to cut its rows into slices, (a - 1) r c / b down its grid column,
    and (r - n) c / b to join its slice again; a backward pass the same with (N - r) c / b in the middle. Attention over
    h heads cuts c + 2 h numbers a row and sends (c + h) / b down (h, not h / b, where there are fewer heads than grid
    columns). The features' first layer sends nothing: what it needs is fetched once and kept.

    Memory: the edges of a block row on each worker of its grid row (28 bytes an edge with their transpose, 45 where a
    graph convolution weighs them, and 32 for every node of the graph), a slice of three block rows; for attention one
    of all rows."""

    columns: int = 0
    """Workers of a grid row, a divisor of their number. 0: as near to a square as can be, wide rather than high."""

    def __post_init__(self) -> None:
        if self.columns < 0:
            raise InputError(f"--layout.columns is {self.columns}; expected a number of workers, or 0 for a square.")

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """A grid. Raises InputError where its columns do not divide the workers."""
        require_edge_cut(graph, "grid-2d")
        columns = columns_of_grid(self.columns or _squarest(graph.shards.group.size), graph, "--layout.columns")
        return GridLayout(graph, columns, Slices())


def _squarest(workers: int) -> int:
    """The least divisor of `workers` that is not below its root."""
    return next(columns for columns in range(math.isqrt(workers - 1) + 1, workers + 1) if workers % columns == 0)

"""Pooling: which nodes of a batch of small graphs become one, and the coarser batch that they make.

Assumptions: a cluster lies inside one graph; clusters are numbered so that those of a graph stand together, graphs in
their order. A graph becomes the same coarser graph in whatever batch it is: draws are keyed by what a node is, not by
where it stands.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.errors import InputError, PluginError
from framework.graph.batch import GraphBatch
from framework.kernels.aggregate import spmm
from framework.kernels.coarsen import coarse_edges, greedy_matching
from framework.kernels.csr import build_csr, degrees, offsets, row_of_entries
from framework.kernels.segments import segment_max, segment_sum
from framework.random import Key, bits
from framework.registry import POOLINGS


@runtime_checkable
class Pooling(Protocol):
    """Which nodes of a graph become one. A plug-in: its fields are its configuration."""

    def clusters(self, graph: GraphBatch, level: int, key: Key) -> Tensor | None:
        """The cluster of every node, int64 [n], numbered from 0 graph by graph; None: all stay as they are.

        `level` counts the coarsenings before this one. Draws are keyed by `key` and `graph.original`."""


@POOLINGS.register("none")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unpooled:
    """No pooling: a graph keeps its nodes until their mean is taken."""

    def clusters(self, graph: GraphBatch, level: int, key: Key) -> Tensor | None:
        """None."""
        return None


@POOLINGS.register("graclus")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Graclus:
    """Neighbours in pairs, by normalised cut: in random order, each node with the free neighbour it is tied to most.

    The greedy matching of Graclus (Dhillon, Guan and Kulis, "Weighted Graph Cuts without Eigenvectors", TPAMI 2007).
    Two neighbours are tied by their distance times (1 / d_i + 1 / d_j), d their degrees: the weights that spatial graph
    convolutions were published with, under which a node is merged with a far neighbour rather than with a near one."""

    def clusters(self, graph: GraphBatch, level: int, key: Key) -> Tensor | None:
        """Pairs, and whoever finds nobody alone."""
        lower = greedy_matching(
            graph.indptr, graph.indices, _ties(graph), torch.argsort(bits(key, graph.original), stable=True)
        )
        first = lower == torch.arange(len(lower), device=lower.device)
        return (first.cumsum(0) - 1)[lower]


@POOLINGS.register("voxel")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Voxel:
    """Nodes in the same cell of a grid, whose cells double at every level; it begins where the graph does."""

    size: float = 2.0
    """Side of a cell at the first level, in the unit of the positions."""

    def __post_init__(self) -> None:
        if not (self.size > 0 and math.isfinite(self.size)):
            raise InputError(f"--model.pooling.size is {self.size}; expected a number above 0.")

    def clusters(self, graph: GraphBatch, level: int, key: Key) -> Tensor | None:
        """Cells with nodes in them, in the order of their coordinates."""
        least = -segment_max(graph.offsets, -graph.positions)[graph.graph_of]
        cells = ((graph.positions - least) / (self.size * 2**level)).floor().long()
        places = torch.cat([graph.graph_of[:, None], cells], dim=1)
        cluster: Tensor = torch.unique(places, dim=0, return_inverse=True)[1]
        return cluster


def coarsened(graph: GraphBatch, x: Tensor, cluster: Tensor) -> GraphBatch:
    """The batch of clusters: maxima of the rows `x` [n, columns], means of positions, edges once and without loops.

    `cluster` as a Pooling gives it. Weights of edges that become one are added up; a cluster is what its first node is.
    Differentiable in `x`; of equal maxima each gets its share. Raises PluginError for a cluster of several graphs."""
    clusters = int(cluster.max()) + 1 if len(cluster) else 0
    nodes = torch.arange(len(cluster), device=cluster.device)
    members = build_csr(cluster, nodes, clusters)
    if bool((members.indptr.diff() == 0).any()):
        raise PluginError("a pooling left out numbers of clusters; expected all from 0 to the largest.")
    first = members.indices[members.indptr[:-1]]
    graph_of = graph.graph_of[first]
    if bool((graph_of[cluster] != graph.graph_of).any() | (graph_of.diff() < 0).any()):
        raise PluginError("a pooling put nodes of several graphs into a cluster, or numbered clusters out of order.")
    indptr, indices, weight = coarse_edges(graph.indptr, graph.indices, graph.weight, cluster, members)
    sizes = members.indptr.diff()[:, None]
    return dataclasses.replace(
        graph,
        x=segment_max(members.indptr, x[members.indices]),
        positions=segment_sum(members.indptr, graph.positions[members.indices]) / sizes,
        indptr=indptr,
        indices=indices,
        weight=weight,
        offsets=offsets(degrees(graph_of, len(graph))),
        original=graph.original[first],
    )


def mean_of_graphs(graph: GraphBatch, x: Tensor) -> Tensor:
    """The mean of the rows of each graph, 0 for one without nodes: [n, columns] -> [g, columns]; differentiable."""
    return spmm(graph.offsets, torch.arange(len(x), device=x.device), x, mean=True)


def _ties(graph: GraphBatch) -> Tensor:
    """How much the ends of each edge are tied: float64 [e]; the same bits wherever the edge stands."""
    rows = row_of_entries(graph.indptr, len(graph.indices))
    squares = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for position in graph.positions.double().t():  # one after the other: a sum over columns has an order of its own
        apart = position[graph.indices] - position[rows]
        squares = squares + apart * apart
    others = segment_sum(graph.indptr, (graph.indices != rows).double())
    share = others.clamp(min=1).reciprocal()
    return squares.sqrt() * (share[rows] + share[graph.indices])

"""Tensor parallelism: every worker the whole graph and some columns of all rows."""

import dataclasses

from framework.comm.layout.grid_block import GridLayout, Slices
from framework.comm.layout.strategy import OpenLayout, OwnedGraph, require_edge_cut
from framework.registry import LAYOUTS


@LAYOUTS.register("tensor-parallel")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorParallel:
    """Columns split over the workers: a transposition, sums over the whole graph, and back (P3, NeutronTP).

    P3 (Gandhi and Iyer, "P3: distributed deep graph learning at scale", OSDI 2021) splits the columns of the first
    layer, NeutronTP (Ai et al., VLDB 2024) those of every layer: no halo, and the same work for every worker whatever
    the partition. Equals the exact halo always.

    A pass of a layer whose sums are c columns wide sends, from a worker of k with n of N rows, n (c - c / k) numbers
    to cut its rows into slices and (N - n) c / k to join its slice again; a backward pass the same. Attention over h
    heads cuts c + 2 h numbers a row, for scores travel with their heads (all of them with each slice where there are
    fewer heads than workers). The features' first layer sends nothing: where P3 sends partial results of hidden width
    in every step, what a worker lacks of the features is fetched once here and kept.

    Memory: the whole graph's edges on every worker (28 bytes an edge with their transpose, 45 where a graph
    convolution weighs them, and 32 a node), N c / k numbers a layer, and features of the halo."""

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """One grid row of all workers."""
        require_edge_cut(graph, "tensor-parallel")
        return GridLayout(graph, graph.shards.group.size, Slices())

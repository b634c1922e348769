"""A shard: one part of the graph, as tensors mapped from its files.

Assumptions: the nodes of the whole graph are renumbered so that part p owns the contiguous *global* ids offsets[p] to
offsets[p + 1]; inside a part those that other parts hold a row of come first, both by original id. In an edge-cut a
shard holds the in-edges of its nodes, and the sources that it does not own are its halo. In a vertex-cut it holds
whatever edges the part was given: its nodes are masters, its halo are mirrors, all other ends of these edges, and both
are targets. The tensors are views of read-only memory: writing into one ends the process.
"""

import dataclasses
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["edge-cut", "vertex-cut"]
"""What a partition cuts: edges between nodes of different owners, or nodes with edges on different parts."""

BESIDE_EDGES = ("labels", "split", "features", "ids")
"""Columns of a part's files that are not needed to draw neighbours from it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartCounts:
    """How much a part holds."""

    nodes: int
    """Owned nodes."""
    edges: int
    """Their in-edges; in a vertex-cut the part's edges."""
    halo: int
    """Ends of these edges that the part does not own."""

    def lengths(self, kind: Kind) -> dict[str, int]:
        """The number of rows of every column of the part's shard."""
        return {
            **dict.fromkeys(("original", "degree", "labels", "split", "features"), self.nodes),
            "indptr": self.nodes + 1 + (self.halo if kind == "vertex-cut" else 0),
            **dict.fromkeys(("indices", "edge_weights"), self.edges),
            **dict.fromkeys(("halo", "halo_original", "halo_degree"), self.halo),
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GraphShard:
    """The nodes a part owns, its edges, and what is known of the halo. n owned nodes, e edges, h halo nodes."""

    part: int
    """The part's number."""
    first: int
    """Global id of the first owned node; the others follow."""
    num_nodes: int
    """Number of nodes in the whole graph."""
    original: Tensor
    """Original ids of the owned nodes. int64 [n]."""
    degree: Tensor
    """In-edges of the owned nodes from other nodes: duplicates count, self-loops do not. int64 [n]."""
    indptr: Tensor
    """Where a node's in-edges begin: int64 [n + 1]; in a vertex-cut also a halo node's, by local id: [n + h + 1]."""
    indices: Tensor
    """The source of every in-edge as a local id: c < n is the owned node `first + c`, c >= n is `halo[c - n]`. A node's
    sources are in increasing original id, duplicates in the order of the input. int32 [e], int64 where ids need it."""
    halo: Tensor
    """Global ids of the halo, increasing. int64 [h]."""
    halo_original: Tensor
    """Original ids of the halo. int64 [h]."""
    halo_degree: Tensor
    """The same of the halo, in the whole graph. int64 [h]."""
    labels: Tensor | None
    """Classes of the owned nodes, -1 for none. int64 [n]."""
    split: Tensor | None
    """What the owned nodes are for: 0 nothing, 1 training, 2 validation, 3 test. uint8 [n]."""
    features: Tensor | None
    """Feature rows of the owned nodes. float32 [n, columns]."""
    edge_weights: Tensor | None
    """Weights of the in-edges. float32 [e]."""

    @cached_property
    def all_ids(self) -> Tensor:
        """Global ids by local id, of the owned nodes and then of the halo: int64 [n + h]. Made once, when asked."""
        return torch.cat([torch.arange(self.first, self.first + self.num_owned), self.halo])

    @cached_property
    def all_original(self) -> Tensor:
        """Original ids by local id, of the owned nodes and then of the halo: int64 [n + h]. Copied once, when asked."""
        return torch.cat([self.original, self.halo_original])

    @property
    def num_owned(self) -> int:
        """Number of owned nodes, n."""
        return len(self.original)

    @property
    def num_edges(self) -> int:
        """Number of edges, e."""
        return len(self.indices)

    @property
    def num_halo(self) -> int:
        """Number of halo nodes, h."""
        return len(self.halo)

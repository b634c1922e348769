"""Small graphs held in memory: as edge lists for an oracle, as blocks for our layers, as a view for samplers.

Assumptions: node ids are dense and in original order, so a node's global id is its original id.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from framework.graph.block import Block, Nodes
from framework.kernels.csr import CSR, build_csr, offsets, row_of_entries
from framework.kernels.sample import sample_neighbors, sample_shared
from framework.random import Key, uniform
from framework.sample.chances import chances, edge_numbers
from framework.sample.sampler import Neighbors


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WholeGraph:
    """Directed edges in memory. A GraphView."""

    source: Tensor
    """int64 [edges]."""
    target: Tensor
    """int64 [edges]."""
    num_nodes: int
    """Isolated ones included."""

    @property
    def edge_index(self) -> Tensor:
        """As PyG writes edges: int64 [2, edges], sources first."""
        return torch.stack([self.source, self.target])

    @cached_property
    def csr(self) -> CSR:
        """In-edges by target, inside a row by source."""
        return build_csr(self.target, self.source.to(torch.int32), self.num_nodes)

    @cached_property
    def nodes(self) -> Nodes:
        """All nodes."""
        ids = torch.arange(self.num_nodes)
        degree = torch.bincount(self.target[self.source != self.target], minlength=self.num_nodes)
        return Nodes(ids=ids, original=ids, degree=degree)

    @property
    def block(self) -> Block:
        """The whole graph as one layer: every node is a source and a target."""
        return Block(sources=self.nodes, num_targets=self.num_nodes, indptr=self.csr.indptr, indices=self.csr.indices)

    def neighbors(self, nodes: Nodes, fanout: int, key: Key, *, shared: bool = False) -> Neighbors:
        """As GraphView's."""
        draw, ids = (sample_shared, self.nodes.original) if shared else (sample_neighbors, nodes.original)
        drawn = draw(self.csr.indptr, self.csr.indices, nodes.ids, ids, fanout, key)
        return Neighbors(indptr=drawn.indptr, sources=self.nodes[drawn.indices.long()])

    def neighbors_together(self, nodes: Nodes, budget: int, key: Key) -> Neighbors:
        """As GraphView's, for one worker."""
        every = sample_neighbors(self.csr.indptr, self.csr.indices, nodes.ids, nodes.ids, -1, key)
        sources = every.indices.long()
        targets = nodes.ids[row_of_entries(every.indptr, len(sources))]
        others = sources != targets
        numbers = torch.zeros(self.num_nodes, dtype=torch.int64)
        numbers.index_add_(0, sources[others], edge_numbers(self.nodes.degree[targets[others]]))
        candidates = numbers.nonzero().flatten()
        chance = torch.zeros(self.num_nodes, dtype=torch.float64)
        chance[candidates] = chances(numbers[candidates], len(nodes), budget, lambda sums: sums)
        drawn = uniform(key, self.nodes.original) < chance
        kept = drawn[sources] | ~others
        return Neighbors(
            indptr=offsets(kept)[every.indptr],
            sources=self.nodes[sources[kept]],
            chances=torch.where(others, chance[sources], 1)[kept],
        )


def random_graph(num_nodes: int, num_edges: int, *, isolated: int = 0, seed: int = 0) -> WholeGraph:
    """At most `num_edges` distinct edges, no self-loops; the last `isolated` nodes have no edge at all."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(num_nodes - isolated, (num_edges, 2), generator=generator).unique(dim=0)
    source, target = pairs[pairs[:, 0] != pairs[:, 1]].t().contiguous()
    return WholeGraph(source=source, target=target, num_nodes=num_nodes)


def looped_graph(num_nodes: int, num_edges: int, *, isolated: int = 0, seed: int = 0) -> WholeGraph:
    """`random_graph` with loops on every second node, two on every fourth, and every third edge twice."""
    graph = random_graph(num_nodes, num_edges, isolated=isolated, seed=seed)
    loops = torch.cat([torch.arange(0, num_nodes, 2), torch.arange(0, num_nodes, 4)])
    ends = torch.cat([graph.edge_index, graph.edge_index[:, ::3], loops.expand(2, -1)], dim=1)
    order = torch.randperm(ends.shape[1], generator=torch.Generator().manual_seed(seed))
    source, target = ends[:, order].contiguous()
    return WholeGraph(source=source, target=target, num_nodes=num_nodes)


def random_rows(rows: int, columns: int, *, seed: int = 1) -> Tensor:
    """Normal numbers, float64 [rows, columns], that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator).requires_grad_()


def of_unequal_importance(block: Block, *, seed: int = 0) -> Block:
    """The block with edges that count more or less than the others of their target, 1 on average."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(block.indices), dtype=torch.float64, generator=generator) + 0.1
    rows = row_of_entries(block.indptr, len(drawn))
    sums = torch.zeros(block.num_targets, dtype=torch.float64).index_add(0, rows, drawn)
    return dataclasses.replace(block, importance=drawn * (block.drawn / sums)[rows])

"""A graph in memory as a prepared store on disk.

Assumptions: nodes get no labels and no split; features only where they are given.
"""

import dataclasses
from pathlib import Path

from torch import Tensor
from whole_graph import WholeGraph

from framework.data.dataset import ArrayRows, RawGraph
from framework.graph.edges import ArrayEdges
from framework.graph.store import ShardStore
from framework.partition import EdgeCut, VertexCut
from framework.prepare import prepare
from partitioners.random import Random


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MemoryDataset:
    """A graph in memory as a data set."""

    graph: WholeGraph
    """Its edges."""
    features: Tensor | None = None
    """[nodes, columns]."""
    edge_weights: Tensor | None = None
    """float32 [edges]."""

    def fingerprint(self) -> str:
        """The same for all: a test prepares one data set in a folder."""
        return "memory"

    def open(self) -> RawGraph:
        """The raw graph."""
        graph = self.graph
        return RawGraph(
            edges=ArrayEdges(source=graph.source.numpy(), target=graph.target.numpy(), num_nodes=graph.num_nodes),
            features=None if self.features is None else ArrayRows(array=self.features.numpy()),
            edge_weights=None if self.edge_weights is None else [self.edge_weights.numpy()],
        )


def stored(
    graph: WholeGraph,
    parts: int,
    root: Path,
    *,
    partitioner: EdgeCut | VertexCut | None = None,
    features: Tensor | None = None,
    edge_weights: Tensor | None = None,
) -> ShardStore:
    """`graph` prepared beneath `root`, by hash where no partitioner is given."""
    dataset = MemoryDataset(graph=graph, features=features, edge_weights=edge_weights)
    return ShardStore.open(prepare(dataset, partitioner or Random(), parts, root).path)

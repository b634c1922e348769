"""The contract of a model of whole graphs, and the skeleton that ours share.

A network is called with a GraphBatch and returns a row of outputs for every graph in it. What it gives for a graph does
not depend on the batch that the graph is in: draws are keyed by what nodes are, and nothing is normalised over a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from framework.graph.batch import GraphBatch
from framework.graph.coarsen import Pooling, coarsened, mean_of_graphs
from framework.kernels.dropout import relu_dropout
from framework.random import Key

_DROPOUT, _POOLING = 0, 1  # which of a layer's draws the batch's key is folded by
_EVALUATION = Key.root(0)  # what pooling draws by where a batch has no key


@runtime_checkable
class GraphModel(Protocol):
    """A model of whole graphs as a value. A plug-in: its fields are its configuration."""

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        """A new network of graphs whose nodes have `columns` features and positions of `dimensions` coordinates."""


class GraphNetwork(nn.Module):
    """Layers, each with ReLU, keyed dropout and pooling behind it; the mean of each graph's nodes; a linear head.

    A layer is called as `layer(view(graph), x)`; a view is made once for all layers between two poolings."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        view: Callable[[GraphBatch], Any],
        width: int,
        outputs: int,
        dropout: float,
        pooling: Pooling,
        located: bool = False,
    ) -> None:
        """`width`: the columns that the last layer gives; `located`: coordinates stand beside the features."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, outputs)
        self.view, self.dropout, self.pooling, self.located = view, dropout, pooling, located

    def forward(self, graph: GraphBatch) -> Tensor:
        """g graphs -> [g, outputs]."""
        key = graph.key if self.training else None
        x = torch.cat([graph.x, graph.positions.to(graph.x.dtype)], dim=1) if self.located else graph.x
        view = self.view(graph)
        for depth, layer in enumerate(self.layers):
            x = self._activated(layer(view, x), graph, None if key is None else key.fold(_DROPOUT, depth))
            cluster = self.pooling.clusters(graph, depth, (key or _EVALUATION).fold(_POOLING, depth))
            if cluster is not None:
                graph = coarsened(graph, x, cluster)
                x, view = graph.x, self.view(graph)
        scores: Tensor = self.head(mean_of_graphs(graph, x))
        return scores

    def _activated(self, x: Tensor, graph: GraphBatch, key: Key | None) -> Tensor:
        if key is None or self.dropout == 0:
            return torch.relu(x)
        return relu_dropout(x, self.dropout, key, graph.original)

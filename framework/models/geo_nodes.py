"""geo-GCN of the nodes of one large graph, which may be partitioned and sampled: pixels, meshes, roads, point clouds.

Assumptions: a node's position is the last of its features. It goes from layer to layer beside the node's row, so that
whoever brings the rows of neighbours brings their positions with them.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.block import GraphBlock
from framework.models.geo_gcn import GeometricConv, Neighborhoods, SpatialLayer
from framework.models.layers import activated
from framework.models.node_model import forward_layers
from framework.models.settings import require_shares, require_widths
from framework.registry import MODELS


class SpatialNodeNetwork(nn.Module):
    """Spatial convolutions over blocks, ReLU and keyed dropout between them; rows of neighbours are needed whole."""

    def __init__(self, layers: Sequence[GeometricConv], *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(SpatialLayer, layers))
        self.dropout = dropout
        self.dimensions = layers[0].filters.shape[1]

    def forward_layer(self, depth: int, block: GraphBlock, x: Tensor) -> Tensor:
        """Layer `depth`: [sources, in + dimensions] -> [targets, out + dimensions], of the last [targets, out]."""
        edges, x = block.whole(x)
        rows, positions = x[:, : -self.dimensions], x[:, -self.dimensions :].detach()  # nobody learns positions
        out: Tensor = self.layers[depth](Neighborhoods.of_block(edges, positions), rows.contiguous())
        if depth == len(self.layers) - 1:
            return out
        return torch.cat([activated(self, block, out, p=self.dropout), positions[: block.num_targets]], dim=1)

    def forward(self, blocks: Sequence[GraphBlock], x: Tensor) -> Tensor:
        """Rows of the first block's sources -> class scores of the last block's targets."""
        return forward_layers(self, blocks, x)


@MODELS.register("geo-gcn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GeoNodeGCN:
    """Spatial graph convolutional network (Danel et al., 2020) of nodes whose last features are their positions."""

    dimensions: int = 2
    """How many of the last features are the position."""
    hidden: int = 16
    """Width of the inner layers."""
    filters: int = 64
    """Filters of a layer: functions of a neighbour's relative position, a weight for each feature."""
    dropout: float = 0.3
    """Dropout between layers."""

    def __post_init__(self) -> None:
        require_widths(self, "dimensions", "hidden", "filters")
        require_shares(self, "dropout")

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """`depth` GeometricConv layers. Raises InputError where the features are nothing but positions."""
        if columns <= self.dimensions:
            raise InputError(
                f"--model.dimensions is {self.dimensions}, of {columns} features in all; expected at least one that is "
                "no position: add a column of ones."
            )
        widths = [columns - self.dimensions, *[self.hidden] * (depth - 1), classes]
        layers = [
            GeometricConv(before, after, dimensions=self.dimensions, filters=self.filters)
            for before, after in itertools.pairwise(widths)
        ]
        return SpatialNodeNetwork(layers, dropout=self.dropout)

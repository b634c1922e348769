"""Networks of graph layers: GraphSAGE, GCN and GAT, each a frozen configuration that builds an `nn.Module`."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from framework.graph.block import GraphBlock
from framework.models.layers import GATConv, GCNConv, SAGEConv, activated, dropped_input
from framework.models.node_model import forward_layers
from framework.models.overlap import can_overlap, forward_overlapped
from framework.models.settings import require_shares, require_widths
from framework.registry import MODELS


class NodeNetwork(nn.Module):
    """Graph layers with dropout before and between them, and an activation between them."""

    def __init__(self, layers: Sequence[nn.Module], *, input_dropout: float, dropout: float, elu: bool) -> None:
        """`elu`: ELU and input dropout of the next layer (GAT) instead of fused ReLU and dropout."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_dropout, self.dropout, self.elu = input_dropout, dropout, elu

    def forward_layer(self, depth: int, block: GraphBlock, x: Tensor) -> Tensor:
        """Layer `depth` with its dropout and activation: [sources, in] -> [targets, out]."""
        if depth == 0:
            x = dropped_input(self, block, x, self.input_dropout)
        elif self.elu:
            x = dropped_input(self, block, x, self.dropout)
        out: Tensor = self.layers[depth](block, x)
        if depth == len(self.layers) - 1:
            return out
        return nn.functional.elu(out) if self.elu else activated(self, block, out, p=self.dropout)

    def forward(self, blocks: Sequence[GraphBlock], x: Tensor) -> Tensor:
        """Rows of the first block's sources -> class scores of the last block's targets."""
        ours = type(self).forward_layer is NodeNetwork.forward_layer and not self.elu
        if ours and can_overlap(self.layers, blocks):
            x = dropped_input(self, blocks[0], x, self.input_dropout)
            return forward_overlapped(self.layers, blocks, x, partial(activated, self, p=self.dropout))
        return forward_layers(self, blocks, x)


@MODELS.register("sage")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SAGE:
    """GraphSAGE with mean aggregation (Hamilton et al., 2017)."""

    hidden: int = 256
    """Width of the inner layers."""
    dropout: float = 0.5
    """Dropout between layers."""
    input_dropout: float = 0.0
    """Dropout of the features."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden")
        require_shares(self, "dropout", "input_dropout")

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """`depth` SAGEConv layers."""
        widths = _widths(columns, self.hidden, classes, depth)
        layers = [SAGEConv(before, after) for before, after in widths]
        return NodeNetwork(layers, input_dropout=self.input_dropout, dropout=self.dropout, elu=False)


@MODELS.register("gcn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GCN:
    """Graph convolutional network (Kipf and Welling, 2017)."""

    hidden: int = 256
    """Width of the inner layers."""
    dropout: float = 0.5
    """Dropout between layers."""
    input_dropout: float = 0.0
    """Dropout of the features."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden")
        require_shares(self, "dropout", "input_dropout")

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """`depth` GCNConv layers."""
        widths = _widths(columns, self.hidden, classes, depth)
        layers = [GCNConv(before, after) for before, after in widths]
        return NodeNetwork(layers, input_dropout=self.input_dropout, dropout=self.dropout, elu=False)


@MODELS.register("gat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GAT:
    """Graph attention network (Velickovic et al., 2018)."""

    hidden: int = 32
    """Width of a head of the inner layers."""
    heads: int = 8
    """Heads of the inner layers, side by side."""
    output_heads: int = 1
    """Heads of the last layer, averaged."""
    dropout: float = 0.5
    """Dropout of the rows that enter the inner and last layers."""
    input_dropout: float = 0.0
    """Dropout of the features."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights."""
    slope: float = 0.2
    """Negative slope of the scores' leaky ReLU."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden", "heads", "output_heads")
        require_shares(self, "dropout", "input_dropout", "attention_dropout")

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """`depth` GATConv layers, ELU between them."""
        layers = []
        for number, (before, after) in enumerate(_widths(columns, self.hidden * self.heads, classes, depth)):
            last = number == depth - 1
            layers.append(
                GATConv(
                    before,
                    after if last else self.hidden,
                    heads=self.output_heads if last else self.heads,
                    join=not last,
                    slope=self.slope,
                    attention_dropout=self.attention_dropout,
                )
            )
        return NodeNetwork(layers, input_dropout=self.input_dropout, dropout=self.dropout, elu=True)


def _widths(columns: int, hidden: int, classes: int, depth: int) -> list[tuple[int, int]]:
    """In and out width of every layer."""
    ends = [columns, *[hidden] * (depth - 1), classes]
    return list(itertools.pairwise(ends))

"""Graph layers on the kernels: block and rows of its sources in, rows of its targets out.

Each equals PyG's layer of the same name on a whole graph, duplicate edges and self-loops included. On a sampled block,
a sum over neighbours is scaled to the neighbourhood's true size, so that it stays unbiased; where they were drawn with
unequal chances it is a ratio of two such sums, and consistent.
"""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.block import Block, Convolving, GraphBlock, Nodes, Sending, Span
from framework.kernels.attention import attention_weights
from framework.kernels.csr import row_of_entries
from framework.kernels.dropout import dropout, relu_dropout
from framework.kernels.segments import segment_sum
from framework.random import Key


@runtime_checkable
class RowwiseLayer(Protocol):
    """A layer of sums over neighbours, all else of which is done row by row, so that it can be done span by span."""

    uses_own: bool
    """Whether a target's row depends on what went in for itself, beside the sum."""

    @property
    def width(self) -> int:
        """The columns of a sum."""

    def source_rows(self, x: Tensor) -> Tensor:
        """What of the rows that go in is summed: [some, columns] -> [some, width]."""

    def sums(self, block: GraphBlock, rows: Tensor) -> Tensor:
        """Over the neighbours: [sources, width] -> [targets, width]."""

    def sums_in_spans(self, block: Sending, rows: Tensor) -> list[Tensor]:
        """The same in spans, as far as neighbours are here."""

    def target_rows(self, sums: Tensor, own: Tensor | None) -> Tensor:
        """The layer's rows, of sums [some, width] and the same nodes' rows that went in, [some, columns] (None where
        they are not used) -> [some, out]."""


B = TypeVar("B", GraphBlock, Sending)


class SAGEConv(nn.Module):
    """GraphSAGE with a mean: W1 mean of neighbours + W2 x (Hamilton et al., 2017).

    With edge weights the mean is the sum of weight times row over the number of edges, not over the sum of weights."""

    def __init__(self, columns: int, out: int) -> None:
        super().__init__()
        self.neighbors = nn.Linear(columns, out)
        self.own = nn.Linear(columns, out, bias=False)

    uses_own = True

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, out]."""
        return self.target_rows(self.sums(block, self.source_rows(x)), x[: block.num_targets])

    @property
    def width(self) -> int:
        """As RowwiseLayer's."""
        return self.neighbors.in_features

    def source_rows(self, x: Tensor) -> Tensor:
        """As RowwiseLayer's: the rows themselves."""
        return x

    def sums(self, block: GraphBlock, rows: Tensor) -> Tensor:
        """As RowwiseLayer's: means."""
        return block.sum(rows, mean=True)

    def sums_in_spans(self, block: Sending, rows: Tensor) -> list[Tensor]:
        """As RowwiseLayer's."""
        return block.sum_in_spans(rows, mean=True)

    def target_rows(self, sums: Tensor, own: Tensor | None) -> Tensor:
        """As RowwiseLayer's."""
        out: Tensor = self.neighbors(sums) + self.own(own)
        return out


class GCNConv(nn.Module):
    """Graph convolution, D^-1/2 (A + I) D^-1/2 x W + b (Kipf and Welling, 2017), degrees as those of Nodes.

    A's own self-loops are left out, so that every node has one. A sample of a neighbourhood with self-loops is unbiased
    where the fanout is above their number. Raises InputError for edges with weights."""

    def __init__(self, columns: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.linear.weight)

    uses_own = False

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, out]."""
        return self.target_rows(self.sums(block, self.source_rows(x)), None)

    @property
    def width(self) -> int:
        """As RowwiseLayer's."""
        return min(self.linear.in_features, self.linear.out_features)

    def source_rows(self, x: Tensor) -> Tensor:
        """As RowwiseLayer's: times W where that makes them narrower."""
        return self.linear(x) if self._narrows else x

    def sums(self, block: GraphBlock, rows: Tensor) -> Tensor:
        """As RowwiseLayer's: weighted by degrees."""
        return _convolved(_unweighted(block, "GCN"), rows)

    def sums_in_spans(self, block: Sending, rows: Tensor) -> list[Tensor]:
        """As RowwiseLayer's."""
        return _unweighted(block, "GCN").convolve_in_spans(rows)

    def target_rows(self, sums: Tensor, own: Tensor | None) -> Tensor:
        """As RowwiseLayer's; a node's own row is in its sum."""
        return sums + self.bias if self._narrows else nn.functional.linear(sums, self.linear.weight, self.bias)

    @property
    def _narrows(self) -> bool:
        return self.linear.out_features < self.linear.in_features


class GATConv(nn.Module):
    """Graph attention over neighbours and the node itself (Velickovic et al., 2018); heads joined or averaged.

    The graph's own self-loops are left out, so that every node has one. Raises InputError for edges with weights."""

    def __init__(
        self,
        columns: int,
        out: int,
        *,
        heads: int,
        join: bool,
        slope: float,
        attention_dropout: float,
        bias_of_values: bool = False,
    ) -> None:
        """`out` columns a head; `join`: heads side by side, else their mean; `bias_of_values`: the bias is part of the
        values that attention sees and weighs, and is not added afterwards."""
        super().__init__()
        self.heads, self.out, self.join, self.slope = heads, out, join, slope
        self.attention_dropout = attention_dropout
        self.linear = nn.Linear(columns, heads * out, bias=bias_of_values)
        self.source_attention = nn.Parameter(torch.empty(heads, out))
        self.target_attention = nn.Parameter(torch.empty(heads, out))
        self.bias = None if bias_of_values else nn.Parameter(torch.zeros(heads * out if join else out))
        for parameter in (self.linear.weight, self.source_attention, self.target_attention):
            nn.init.xavier_uniform_(parameter)

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, heads * out], or [targets, out] where heads are averaged."""
        block = _unweighted(block, "GAT")
        dropout = self.attention_dropout if self.training else 0.0
        out = block.attend(*self._operands(block, x), negative_slope=self.slope, dropout=dropout)
        out = out.flatten(1) if self.join else out.mean(1)
        return out if self.bias is None else out + self.bias

    def attention(self, block: Block, x: Tensor) -> Tensor:
        """The weights of `block.with_self_loops`' edges, of which each row sums to one: [edges, heads].

        Without dropout or gradient. `x` as for `forward`."""
        with torch.no_grad():
            _, *scores = self._operands(block, x)
            looped = block.with_self_loops
            weights = attention_weights(looped.indptr, looped.indices, *scores, negative_slope=self.slope)
            if looped.importance is None:
                return weights
            weights = weights * looped.importance.to(weights.dtype)[:, None]
            sums = segment_sum(looped.indptr, weights)
            return weights / sums[row_of_entries(looped.indptr, len(weights))]

    def _operands(self, block: GraphBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values [sources, heads, out], and scores of sources and of targets [n, heads]."""
        values = self.linear(x).view(-1, self.heads, self.out)
        source_scores = (values * self.source_attention).sum(2)
        return values, source_scores, (values[: block.num_targets] * self.target_attention).sum(2)


_INPUT, _OUTPUT = 0, 2  # which of a layer's draws a block's key is folded by; 1 is the block's own, attention


class Drawing(Protocol):
    """A layer whose rows are dropped out by key: a GraphBlock, or one of paths."""

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in."""

    @property
    def key(self) -> Key | None:
        """What this layer's draws are keyed by. None where nothing is drawn: evaluation."""


def dropped_input(module: nn.Module, block: Drawing, x: Tensor, p: float) -> Tensor:
    """Keyed dropout of a layer's input rows [sources, columns], in training only."""
    if not module.training or block.key is None or p == 0:
        return x
    return dropout(x, p, block.key.fold(_INPUT), block.sources.original.to(x.device))


def activated(module: nn.Module, block: GraphBlock, x: Tensor, span: Span | None = None, *, p: float) -> Tensor:
    """ReLU and, in training, keyed dropout of a layer's output rows [targets, columns], or a span's, in one pass."""
    if not module.training or block.key is None or p == 0:
        return torch.relu(x)
    nodes = block.targets.original
    if span is not None:
        nodes = nodes[span.first : span.first + span.count]
    return relu_dropout(x, p, block.key.fold(_OUTPUT), nodes.to(x.device))


def _convolved(block: GraphBlock, x: Tensor) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 x: [sources, columns] -> [targets, columns]."""
    if isinstance(block, Convolving):
        return block.convolve(x)
    block = block.without_self_loops
    scale = (block.sources.degree.to(x.device) + 1).to(x.dtype).rsqrt().unsqueeze(1)
    scaled = x * scale
    own = scale[: block.num_targets]
    return own * (block.sum(scaled) * _inverse_share(block, x) + scaled[: block.num_targets])


ROWWISE = (SAGEConv, GCNConv)
"""The classes that are RowwiseLayer."""


def _unweighted(block: B, layer: str) -> B:
    """`block`, where its edges have no weights. Raises InputError."""
    if block.weighted:
        raise InputError(f"{layer} was given edges with weights, which it does not use; take sage or drop the weights.")
    return block


def _inverse_share(block: GraphBlock, x: Tensor) -> Tensor:
    """[targets, 1]: how many in-edges of the whole graph each drawn one of a block without self-loops stands for."""
    drawn = block.drawn
    degree = block.targets.degree.to(drawn.device)
    return (degree.to(x.dtype) / drawn.clamp(min=1).to(x.dtype)).unsqueeze(1)

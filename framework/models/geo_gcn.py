"""geo-GCN: graph convolutions whose weights are functions of where neighbours are (Danel et al., 2020); its baselines.

Assumptions: positions are coordinates in one unit for all graphs; only differences of positions count, so that a graph
may stand anywhere, while a rotated graph is another one.
"""

import dataclasses
from functools import cached_property

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.batch import GraphBatch
from framework.graph.block import Block, Nodes
from framework.graph.coarsen import Graclus, Pooling
from framework.kernels import check
from framework.kernels.csr import CSR, build_csr, degrees, offsets, row_of_entries, transpose
from framework.kernels.geometric import geometric_sum
from framework.kernels.segments import segment_sum
from framework.models.graph_model import GraphNetwork
from framework.models.layers import GCNConv
from framework.models.settings import require_shares, require_widths
from framework.registry import GRAPH_MODELS


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Neighborhoods:
    """Nodes with positions, and for each its in-edges and one from itself: what layers of geo-GCN look at.

    In a block the first of the nodes are its targets, and they alone have in-edges."""

    positions: Tensor
    """float [n, dimensions]."""
    indptr: Tensor
    """int64 [targets + 1]: the in-edges of node i are indptr[i] to indptr[i + 1], its own the last of them."""
    indices: Tensor
    """int32 [e]: each edge's source."""
    weight: Tensor | None = None
    """float [e]; None: 1."""

    @classmethod
    def of_edges(cls, positions: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> "Neighborhoods":
        """Of edges as PyTorch Geometric has them: int64 [2, edges], sources first; `weight` float [edges].

        Edges from a node to itself become one, of the sum of their weights; where there was none its weight is 1.
        Raises InputError for ids of no node, and for weights that are not one an edge."""
        if edge_index.dim() != 2 or len(edge_index) != 2:
            raise InputError(f"edge_index has the shape {list(edge_index.shape)}; expected [2, edges], sources first.")
        check.below("edge_index", edge_index.flatten(), len(positions))
        if weight is not None and weight.shape != edge_index.shape[1:]:
            raise InputError(
                f"edge_weight has the shape {list(weight.shape)}; expected [{edge_index.shape[1]}], one an edge."
            )
        matrix = build_csr(edge_index[1], edge_index[0], len(positions))
        return cls._with_own(positions, matrix.indptr, matrix.indices, None if weight is None else weight[matrix.edges])

    @classmethod
    def of_graphs(cls, graph: GraphBatch) -> "Neighborhoods":
        """Of a batch of graphs; edges from a node to itself as in `of_edges`."""
        return cls._with_own(graph.positions, graph.indptr, graph.indices, graph.weight)

    @classmethod
    def of_block(cls, block: Block, positions: Tensor) -> "Neighborhoods":
        """Of one layer of a large graph, with the positions of its sources; only its targets have in-edges.

        Where neighbours were drawn, each weighs as many as it stands for, so that sums stay unbiased."""
        rows = row_of_entries(block.indptr, len(block.indices))
        weight = None if block.edge_weights is None else block.edge_weights.to(positions.dtype)
        loop_free, degree = block.without_self_loops, block.targets.degree.to(block.indptr.device)
        drawn = loop_free.drawn
        if loop_free.importance is not None or bool((drawn != degree).any()):
            share = (degree.to(positions.dtype) / drawn.clamp(min=1))[rows]
            loops = block.indices == rows
            if loop_free.importance is not None:
                share[~loops] *= loop_free.importance.to(share.dtype)
            own = torch.ones_like(share)
            if weight is None:  # then a node has one edge to itself, however often the graph says so
                own /= segment_sum(block.indptr, loops.to(share.dtype)).clamp(min=1)[rows]
            share = torch.where(loops, own, share)
            weight = share if weight is None else weight * share
        return cls._with_own(positions, block.indptr, block.indices, weight)

    @classmethod
    def _with_own(cls, positions: Tensor, indptr: Tensor, indices: Tensor, weight: Tensor | None) -> "Neighborhoods":
        nodes, rows = len(indptr) - 1, row_of_entries(indptr, len(indices))
        others = indices != rows
        if weight is not None:
            loops, own = (segment_sum(indptr, (~others).to(weight.dtype) * factor) for factor in (1, weight))
            weight = torch.cat([weight[others], torch.where(loops > 0, own, 1)])
        before = offsets(others)  # others before an entry
        ends = before[indptr] + torch.arange(nodes + 1, device=indptr.device)
        number = torch.arange(nodes, device=indptr.device)
        place = torch.cat([before[:-1][others] + rows[others], ends[1:] - 1])
        order = torch.empty_like(place)
        order[place] = torch.arange(len(place), device=place.device)
        return cls(
            positions=positions,
            indptr=ends,
            indices=torch.cat([indices[others], number])[order].to(torch.int32),
            weight=None if weight is None else weight[order],
        )

    @cached_property
    def transposed(self) -> CSR:
        """The same edges by source, for the backward pass; made once."""
        return transpose(self.indptr, self.indices, len(self.positions))


class GeometricConv(nn.Module):
    """Spatial graph convolution: W [hbar_1 ... hbar_k] + c, hbar_m = sum of relu(U_m^T (p_j - p_i) + b_m) * x_j.

    The sum goes over neighbours and the node itself (Danel, Spurek, Tabor, Smieja, Struski, Slowik, Maziarka, "Spatial
    Graph Convolutional Networks", ICONIP 2020). With all U_m = 0 and b_m = 1 it is the graph convolution that sums; on
    pixels, with edges to each from a window of k, it can be any convolution of images with masks of k. Takes plain
    tensors, as PyTorch Geometric's layers do."""

    def __init__(self, columns: int, out: int, *, dimensions: int, filters: int) -> None:
        """`dimensions` of the positions; `filters`: k."""
        super().__init__()
        self.filters = nn.Parameter(torch.empty(filters, dimensions, columns))
        self.biases = nn.Parameter(torch.empty(filters, columns))
        self.linear = nn.Linear(filters * columns, out)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as `nn.Linear` does: U and b are one from `dimensions` to filters x columns."""
        bound = self.filters.shape[1] ** -0.5
        nn.init.uniform_(self.filters, -bound, bound)
        nn.init.uniform_(self.biases, -bound, bound)
        self.linear.reset_parameters()

    def forward(self, x: Tensor, positions: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """[n, columns] -> [n, out]. `positions` [n, dimensions], `edge_index` int64 [2, edges], sources first.

        Each node is its own neighbour, whether or not `edge_index` says so; see `Neighborhoods.of_edges`."""
        return self.over(Neighborhoods.of_edges(positions, edge_index, edge_weight), x)

    def over(self, nodes: Neighborhoods, x: Tensor) -> Tensor:
        """The same for several layers or steps over the same neighbourhoods: [n, columns] -> [n, out]."""
        weight = None if nodes.weight is None else nodes.weight.to(x.dtype)
        transposed = nodes.transposed if x.requires_grad or nodes.positions.requires_grad else None
        sums = geometric_sum(
            nodes.indptr, nodes.indices, x, nodes.positions.to(x.dtype), self.filters, self.biases, weight,
            transposed=transposed,
        )  # fmt: skip
        out: Tensor = self.linear(sums)
        return out


class SpatialLayer(nn.Module):
    """A GeometricConv, called with neighbourhoods as networks call their layers."""

    def __init__(self, conv: GeometricConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, nodes: Neighborhoods, x: Tensor) -> Tensor:
        """[n, columns] -> [n, out]."""
        return self.conv.over(nodes, x)


@GRAPH_MODELS.register("geo-gcn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GeoGCN:
    """Spatial graph convolutional network (Danel et al., 2020); defaults are those of the authors for superpixels."""

    hidden: int = 16
    """Width of every layer."""
    filters: int = 64
    """Filters of a layer: functions of a neighbour's relative position, a weight for each feature."""
    layers: int = 3
    """Spatial convolutions."""
    dropout: float = 0.3
    """Dropout behind every layer's ReLU."""
    pooling: Pooling = Graclus()
    """Which nodes become one behind every layer."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden", "filters", "layers")
        require_shares(self, "dropout")

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        """A GraphNetwork of spatial convolutions."""
        before = [columns, *[self.hidden] * (self.layers - 1)]
        layers = [GeometricConv(width, self.hidden, dimensions=dimensions, filters=self.filters) for width in before]
        return GraphNetwork(
            [SpatialLayer(layer) for layer in layers],
            view=Neighborhoods.of_graphs,
            width=self.hidden,
            outputs=outputs,
            dropout=self.dropout,
            pooling=self.pooling,
        )


@GRAPH_MODELS.register("graph-gcn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphGCN:
    """Graph convolutional network (Kipf and Welling, 2017) of whole graphs, which sees no positions."""

    hidden: int = 64
    """Width of every layer."""
    layers: int = 3
    """Graph convolutions."""
    dropout: float = 0.3
    """Dropout behind every layer's ReLU."""
    pooling: Pooling = Graclus()
    """Which nodes become one behind every layer; a pooling may go by positions."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden", "layers")
        require_shares(self, "dropout")

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        """A GraphNetwork of GCNConv layers."""
        return _convolutional(self, columns, outputs, located=False)


@GRAPH_MODELS.register("pos-gcn")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PosGCN:
    """Graph convolutional network with coordinates beside the features: the baseline of spatial convolutions."""

    hidden: int = 64
    """Width of every layer."""
    layers: int = 3
    """Graph convolutions."""
    dropout: float = 0.3
    """Dropout behind every layer's ReLU."""
    pooling: Pooling = Graclus()
    """Which nodes become one behind every layer."""

    def __post_init__(self) -> None:
        require_widths(self, "hidden", "layers")
        require_shares(self, "dropout")

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        """A GraphNetwork of GCNConv layers, whose first has `columns` + `dimensions` columns."""
        return _convolutional(self, columns + dimensions, outputs, located=True)


def _convolutional(model: GraphGCN | PosGCN, columns: int, outputs: int, *, located: bool) -> GraphNetwork:
    before = [columns, *[model.hidden] * (model.layers - 1)]
    return GraphNetwork(
        [GCNConv(width, model.hidden) for width in before],
        view=_block,
        width=model.hidden,
        outputs=outputs,
        dropout=model.dropout,
        pooling=model.pooling,
        located=located,
    )


def _block(graph: GraphBatch) -> Block:
    """A batch as the layers of nodes see a graph."""
    ids = torch.arange(len(graph.original), device=graph.indptr.device)
    rows = row_of_entries(graph.indptr, len(graph.indices))
    degree = degrees(rows[graph.indices != rows], len(ids))
    return Block(
        sources=Nodes(ids=ids, original=graph.original, degree=degree),
        num_targets=len(ids),
        indptr=graph.indptr,
        indices=graph.indices.to(torch.int32),
        edge_weights=graph.weight,
    )

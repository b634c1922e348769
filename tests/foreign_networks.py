"""Networks of other libraries' layers, by name, for runs that train them."""

from torch import nn

from framework.models.nodes import NodeNetwork


def widths(columns: int, classes: int, depth: int) -> list[tuple[int, int]]:
    """Input and output columns of every layer, 16 between them."""
    return [(16 if layer else columns, 16 if layer < depth - 1 else classes) for layer in range(depth)]


def network(layers: list[nn.Module]) -> NodeNetwork:
    """ReLU and keyed dropout between the layers."""
    return NodeNetwork(layers, input_dropout=0.1, dropout=0.5, elu=False)


def pyg_gcn(columns: int, classes: int, depth: int) -> NodeNetwork:
    """PyG's GCNConv."""
    from torch_geometric.nn import GCNConv

    from framework.interop.pyg import PygLayer

    return network([PygLayer(GCNConv(*pair)) for pair in widths(columns, classes, depth)])


def pyg_gat(columns: int, classes: int, depth: int) -> NodeNetwork:
    """PyG's GATConv."""
    from torch_geometric.nn import GATConv

    from framework.interop.pyg import PygLayer

    return network([PygLayer(GATConv(*pair)) for pair in widths(columns, classes, depth)])


def dgl_sage(columns: int, classes: int, depth: int) -> NodeNetwork:
    """DGL's SAGEConv."""
    from dgl.nn import SAGEConv

    from framework.interop.dgl import DglLayer

    return network([DglLayer(SAGEConv(*pair, "mean")) for pair in widths(columns, classes, depth)])

"""PyG layers, unchanged, as layers of blocks (extra `pyg`).

Assumptions: a layer is a `MessagePassing` whose `forward` begins with the rows and the edges, and takes a pair of rows
(sources, targets), as most of PyG's do; `GCNConv` does not, and is given what it needs another way. A block's edge
weights and the importance of its edges, multiplied, reach a layer that has an argument `edge_weight`. Dropout inside a
PyG layer draws from torch's generator, which the engine seeds for every step: such a run can be resumed exactly, but it
depends on the number of workers.

Networks are made of the house's own parts: `NodeNetwork([PygLayer(conv), ...], input_dropout=0.0, dropout=0.5,
elu=False)` has keyed dropout between the layers and exact layer-wise evaluation.
"""

import inspect

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.block import Block, GraphBlock
from framework.interop.importance import unequal
from framework.kernels.csr import row_of_entries

try:
    from torch_geometric.nn import GCNConv, MessagePassing
except ImportError as error:
    raise InputError("framework.interop.pyg needs PyG: pip install 'shardyard[pyg]'.") from error


class PygLayer(nn.Module):
    """A PyG layer that takes a block."""

    def __init__(self, layer: nn.Module) -> None:
        """Raises InputError for a layer that cannot work on one block: no message passing, or over several hops."""
        super().__init__()
        name = type(layer).__name__
        if not isinstance(layer, MessagePassing) or layer.flow != "source_to_target":
            raise InputError(f"{name} is no PyG layer; expected a MessagePassing with flow='source_to_target'.")
        arguments = inspect.signature(layer.forward).parameters
        if not isinstance(layer, GCNConv) and next(iter(arguments.values())).annotation is Tensor:
            raise InputError(f"{name} takes one graph of sources that are all targets; a block needs a layer of pairs.")
        if isinstance(layer, GCNConv) and layer.cached:
            raise InputError("GCNConv has cached=True, which keeps the first block for all others; leave it out.")
        self.layer = layer
        self._weighted = "edge_weight" in arguments

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, out].

        Raises InputError for edges of unequal importance that would count the same."""
        block, x = block.whole(x)
        if block.importance is not None and not self._weighted:
            raise unequal(self.layer)
        if block.edge_weights is not None and not self._weighted:
            raise InputError(
                f"{type(self.layer).__name__} takes no weights of edges, and the graph has some: all would count as 1. "
                "Take a layer with an argument edge_weight, or a graph without weights."
            )
        if isinstance(self.layer, GCNConv) and self.layer.normalize:
            return self._normalized(block, x)
        edges = edge_index(block)
        pair = (x, x[: block.num_targets])
        weights = block.factors(x.dtype)
        if isinstance(self.layer, GCNConv):
            out: Tensor = self.layer(x, edges, weights)[: block.num_targets]
        elif self._weighted and weights is not None:
            out = self.layer(pair, edges, edge_weight=weights)
        else:
            out = self.layer(pair, edges)
        return out

    def _normalized(self, block: Block, x: Tensor) -> Tensor:
        """GCNConv finds a node's degree by its in-edges, of which a block has some: this divides in its place.

        An edge is divided by the roots of both ends' true degrees, and stands for others that were not drawn. The
        graph's own self-loops are left out: PyG replaces them by one a node. Raises InputError for them where it keeps
        them (`add_self_loops` off) or counts one as a loop of weight 1 (`improved`): degrees are without loops."""
        if block.edge_weights is not None:
            raise InputError(
                "GCNConv normalises by weighted degrees, which a block does not know; use edges of weight 1."
            )
        layer, loop_free = self.layer, block.without_self_loops
        if loop_free is not block and (layer.improved or not layer.add_self_loops):
            setting = "improved=True" if layer.improved else "add_self_loops=False"
            raise InputError(
                f"GCNConv({setting}) treats the graph's own self-loops unlike those that it adds, and a block does not "
                "know which of its nodes have one; take them out of the graph, or leave the setting out."
            )
        block = loop_free
        edges, drawn = edge_index(block), block.drawn
        degree = block.sources.degree.to(x.device, x.dtype)
        share = degree[: block.num_targets] / drawn.clamp(min=1)
        own = (2.0 if layer.improved else 1.0) if layer.add_self_loops else 0.0
        root = (degree + own).rsqrt().nan_to_num(posinf=0.0)  # of a node without edges nothing comes, as in PyG
        weights = share[edges[1]] * root[edges[0]] * root[edges[1]]
        if block.importance is not None:
            weights = weights * block.importance.to(x.dtype)
        if own:
            loops = torch.arange(block.num_targets, device=x.device)
            edges = torch.cat([edges, loops.expand(2, -1)], dim=1)
            weights = torch.cat([weights, own * root[: block.num_targets].square()])
        layer.normalize = False
        try:
            out: Tensor = layer(x, edges, weights)
        finally:
            layer.normalize = True
        return out[: block.num_targets]


def edge_index(block: Block) -> Tensor:
    """A block's edges as PyG writes them: int64 [2, edges], positions of sources over those of targets."""
    return torch.stack([block.indices.long(), row_of_entries(block.indptr, len(block.indices))])

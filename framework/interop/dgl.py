"""DGL layers, unchanged, as layers of blocks (extra `dgl`; 1.1.3 is the newest release that works with current torch).

Assumptions: a layer is called with a block and the rows of its sources, as every layer of `dgl.nn` that works on
sampled blocks is. Its answer may have one more dimension, heads, which are put side by side. Dropout inside a DGL layer
draws from torch's generator, which the engine seeds for every step: such a run can be resumed exactly, but it depends
on the number of workers. A block's edge weights and the importance of its edges, multiplied, reach a layer that has an
argument `edge_weight`, and any layer of the user's own as `edata["weight"]`. DGL's layers of attention multiply after
the softmax, so that edges of unequal importance are weighed, but not to a sum of one as ours are.

Networks are made of the house's own parts: `NodeNetwork([DglLayer(conv), ...], input_dropout=0.0, dropout=0.5,
elu=False)` has keyed dropout between the layers and exact layer-wise evaluation.
"""

import inspect
import os

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.block import Block, GraphBlock
from framework.interop.importance import unequal

os.environ.setdefault("DGLBACKEND", "pytorch")  # else importing DGL writes a settings file and prints about it
try:
    import dgl
except ImportError as error:
    raise InputError("framework.interop.dgl needs DGL: pip install 'shardyard[dgl]'.") from error


class DglLayer(nn.Module):
    """A DGL layer that takes a block."""

    def __init__(self, layer: nn.Module, *, self_loops: bool = False) -> None:
        """`self_loops`: give every target an edge from itself, for layers that expect the graph to have them.

        Raises InputError for a GraphConv that divides by out-degrees, which one block does not hold."""
        super().__init__()
        if isinstance(layer, dgl.nn.GraphConv) and layer._norm in ("left", "both"):
            raise InputError(
                f"GraphConv(norm='{layer._norm}') divides by out-degrees, which a block does not know; "
                "use norm='right' or norm='none', or the model 'gcn'."
            )
        self.layer, self.self_loops = layer, self_loops
        self._weighted = "edge_weight" in inspect.signature(layer.forward).parameters

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        """[sources, columns] -> [targets, out], heads side by side.

        Raises InputError for edge weights, or edges of unequal importance, that would not count."""
        block, x = block.whole(x)
        if self.self_loops and block.edge_weights is not None:
            raise InputError("self_loops=True drops edge weights, for added edges have none; use edges of weight 1.")
        block = block.with_self_loops if self.self_loops else block
        weights = block.factors(x.dtype)
        if weights is None:
            out: Tensor = self.layer(dgl_block(block), x)
            return out.flatten(1)
        if self._weighted:
            out = self.layer(dgl_block(block), x, edge_weight=weights)
            return out.flatten(1)
        if type(self.layer).__module__.startswith("dgl."):  # which look for no weights of their own accord
            if block.edge_weights is None:
                raise unequal(self.layer)
            raise InputError(
                f"{type(self.layer).__name__} takes no edge weights, so that they would not count; use edges of weight "
                "1, or a layer whose forward has an argument edge_weight."
            )
        graph = dgl_block(block)
        if block.importance is not None:
            graph.edata["weight"] = weights
        out = self.layer(graph, x)
        return out.flatten(1)


def dgl_block(block: Block) -> "dgl.DGLGraph":
    """A block as DGL's, edges in the same order.

    Their weights, times importance, are `edata["weight"]` where there are any."""
    small = len(block.indices) < 2**31
    dtype = torch.int32 if small else torch.int64  # indptr and indices have one type there
    indptr, indices = block.indptr.to(dtype), block.indices.to(dtype)
    graph = dgl.create_block(
        ("csc", (indptr, indices, indices.new_empty(0))),
        num_src_nodes=len(block.sources),
        num_dst_nodes=block.num_targets,
        idtype=dtype,
        device=indptr.device,
    )
    weights = block.edge_weights if block.importance is None else block.factors(block.importance.dtype)
    if weights is not None:
        graph.edata["weight"] = weights
    return graph

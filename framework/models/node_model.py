"""The contract of a model of nodes, and how any module that takes blocks becomes one.

A network is called as `network(blocks, x)`: blocks with the input layer's first, x the rows of the first block's
sources; it returns the rows of the last block's targets. A network that also has `layer` (LayerwiseNetwork) can be
evaluated one layer at a time over a worker's own nodes, exactly and without sampling.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from framework.graph.block import Block


@runtime_checkable
class NodeModel(Protocol):
    """A model as a value. A plug-in: its fields are its configuration."""

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """A new network of `depth` layers from `columns` features to `classes` scores."""


@runtime_checkable
class LayerwiseNetwork(Protocol):
    """A network whose layers can be run one by one."""

    def layer(self, depth: int, block: Block, x: Tensor) -> Tensor:
        """Layer `depth`, with all that stands around it: [sources, in] -> [targets, out]."""

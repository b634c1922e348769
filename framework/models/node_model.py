"""The contract of a model of nodes, and how any module that takes blocks becomes one.

A network is called as `network(blocks, x)`: blocks with the input layer's first, x the rows of the first block's
sources; it returns the rows of the last block's targets. A network that also has `forward_layer` (LayerwiseNetwork)
can be evaluated one layer at a time over a worker's own nodes, exactly and without sampling.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from framework.config import reference
from framework.errors import InputError
from framework.graph.block import GraphBlock
from framework.registry import MODELS, load


@runtime_checkable
class NodeModel(Protocol):
    """A model as a value. A plug-in: its fields are its configuration."""

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """A new network of `depth` layers from `columns` features to `classes` scores."""


@runtime_checkable
class LayerwiseNetwork(Protocol):
    """A network whose layers can be run one by one."""

    def forward_layer(self, depth: int, block: GraphBlock, x: Tensor) -> Tensor:
        """Layer `depth`, with all that stands around it: [sources, in] -> [targets, out]."""


def forward_layers(network: LayerwiseNetwork, blocks: Sequence[Any], x: Tensor) -> Tensor:
    """Layer after layer: rows of the first block's sources -> class scores of the last block's targets."""
    for depth, block in enumerate(blocks):
        x = network.forward_layer(depth, block, x)
    return x


@MODELS.register("module")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """A network of your own: any `nn.Module` class, called with (columns, classes, depth)."""

    network: str = reference()
    """Where the class is: `module:Class`."""

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """A new instance. Raises InputError where there is no such class."""
        network = load(self.network, "network")(columns, classes, depth)
        if not isinstance(network, nn.Module):
            raise InputError(f"network '{self.network}' gave a {type(network).__name__}; expected a torch.nn.Module.")
        return network

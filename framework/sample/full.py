"""No sampling: the whole graph, every layer, each worker its own nodes.

The halo's rows come by the workload's halo strategy (`--halo`); with the exact one, any number of workers equals one.
"""

import dataclasses
from collections.abc import Sequence

from framework.errors import InputError
from framework.graph.block import GraphBlock, Nodes
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.sampler import DRAWING, GraphView


@SAMPLERS.register("full")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """Full-graph training: every node's rows in every layer."""

    layers: int = 2
    """Layers of the network."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise InputError(f"--sampler.layers is {self.layers}; expected at least 1.")

    @property
    def depth(self) -> int:
        """One block a layer."""
        return self.layers

    @property
    def whole(self) -> bool:
        """Blocks end at all owned nodes, so a seed stays with its owner."""
        return True

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> Sequence[GraphBlock]:
        """A block of all owned nodes for every layer."""
        return graph.whole([key.fold(DRAWING, layer) for layer in range(self.layers)])

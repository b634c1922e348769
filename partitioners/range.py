"""Range: contiguous runs of ids, for graphs whose ids already say who is near whom (crawls, time, space)."""

import dataclasses

import numpy as np

from framework.graph.edges import EdgeStream
from framework.partition import NodeParts
from framework.registry import PARTITIONERS


@PARTITIONERS.register("range")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Contiguous runs of node ids of equal length, to within one node."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes], never falling."""
        return (np.arange(graph.num_nodes) * parts // max(1, graph.num_nodes)).astype(np.int32)

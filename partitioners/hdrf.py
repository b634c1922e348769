"""HDRF, high degree replicated first: an edge goes where its ends already are, the end of lower degree counting more.

Petroni, Querzoni, Daudjee, Kamali, Iacoboni, "HDRF: stream-based partitioning for power-law graphs", CIKM 2015.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from framework.errors import InputError
from framework.graph.edges import EdgeStream
from framework.kernels.partition import EdgeState, assign_edges
from framework.partition import EdgeParts
from framework.registry import PARTITIONERS
from partitioners.sweep import capacity


@PARTITIONERS.register("hdrf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class HighDegreeReplicatedFirst:
    """Vertex-cut, one pass with the degrees seen so far: few replicas, and balanced edges."""

    balance: float = 1.0
    """Weight of the balance of edges against the replicas (lambda in the paper)."""
    slack: float = 1.05
    """Capacity of a part over the mean number of edges."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        """The part of every edge, batch by batch: int32 [batch]. Raises InputError for a slack below 1."""
        if self.slack < 1 or self.balance < 0:
            raise InputError(
                f"hdrf's slack is {self.slack} and balance is {self.balance}; expected at least 1 and at least 0."
            )
        state = EdgeState.empty(graph.num_nodes, parts)
        most = capacity(graph.num_edges, parts, self.slack)
        for source, target in graph:
            yield assign_edges(
                np.ascontiguousarray(source, np.int64),
                np.ascontiguousarray(target, np.int64),
                state,
                balance=self.balance,
                capacity=most,
            )

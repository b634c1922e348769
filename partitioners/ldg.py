"""LDG, linear deterministic greedy: one pass, each node to the part with most neighbours and some room left.

Stanton, Kliot, "Streaming graph partitioning for large distributed graphs", KDD 2012.
"""

import dataclasses

from framework.graph.edges import EdgeStream
from framework.kernels.partition import Rule
from framework.partition import NodeParts
from framework.registry import PARTITIONERS
from partitioners.sweep import Balance, sweep


@PARTITIONERS.register("ldg")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearDeterministicGreedy:
    """Streaming, one pass: argmax of neighbours in the part * (1 - load / capacity)."""

    balance: Balance = "edges"
    """What the parts have equally much of."""
    slack: float = 1.05
    """Capacity of a part over the mean load."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes]. Raises InputError for a slack below 1."""
        return sweep(
            graph,
            parts,
            lambda sums: Rule(kind="ldg", capacity=sums.capacity),
            balance=self.balance,
            slack=self.slack,
            passes=1,
        )

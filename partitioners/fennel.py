"""Fennel, and its re-streaming: each node to the part with most neighbours, less the marginal cost of the part's load.

Tsourakakis, Gkantsidis, Radunovic, Vojnovic, "FENNEL: streaming graph partitioning for massive scale graphs", WSDM
2014; re-streaming: Nishimura, Ugander, "Restreaming graph partitioning", KDD 2013.
"""

import dataclasses

from framework.errors import InputError
from framework.graph.edges import EdgeStream
from framework.kernels.partition import Rule
from framework.partition import NodeParts
from framework.registry import PARTITIONERS
from partitioners.sweep import Balance, Sums, sweep


@PARTITIONERS.register("fennel")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fennel:
    """Streaming, a few passes: argmax of neighbours in the part - alpha gamma load^(gamma - 1)."""

    gamma: float = 1.5
    """The power of the load in the cost that is minimised: cut + alpha * sum of load^gamma. Above 1."""
    passes: int = 3
    """Times the stream is gone through; from the second on, every neighbour has a part."""
    balance: Balance = "edges"
    """What the parts have equally much of."""
    slack: float = 1.05
    """Capacity of a part over the mean load."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes]. Raises InputError for gamma <= 1, slack < 1 or passes < 1."""
        if self.gamma <= 1:
            raise InputError(f"fennel's gamma is {self.gamma}; expected more than 1: 1.5 is the usual value.")
        return sweep(graph, parts, self._rule, balance=self.balance, slack=self.slack, passes=self.passes)

    def _rule(self, sums: Sums) -> Rule:
        # With alpha = m k^(gamma - 1) / n^gamma, the cost of one more node in a part of load x * n / k is
        # gamma * m / n * x^(gamma - 1): in shares of the mean load it needs neither n nor k. A node of another weight
        # than the mean costs in proportion.
        return Rule(
            kind="fennel",
            capacity=sums.capacity,
            mean_load=sums.mean_load,
            mean_weight=sums.mean_weight,
            strength=self.gamma * sums.mean_degree / 2,
            exponent=self.gamma - 1,
        )

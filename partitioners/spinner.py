"""Spinner: label propagation that keeps the parts balanced.

Martella, Logothetis, Loukas, Siganos, "Spinner: scalable graph partitioning in the cloud", ICDE 2017. There, workers
decide at once, and a coin with the share of remaining capacity holds a migration back; here one thread decides node
after node and knows the loads, so that the capacity is never exceeded and no coin is needed.
"""

import dataclasses

from framework import random
from framework.graph.edges import EdgeStream
from framework.kernels.partition import Rule
from framework.partition import NodeParts
from framework.registry import PARTITIONERS
from partitioners.random import hashed_parts
from partitioners.sweep import Balance, sweep


@PARTITIONERS.register("spinner")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Spinner:
    """Balanced label propagation: argmax of share of neighbours in the part - load / capacity, until it settles."""

    balance: Balance = "edges"
    """What the parts have equally much of."""
    slack: float = 1.05
    """Capacity of a part over the mean load (Spinner's c)."""
    iterations: int = 30
    """The most passes it takes."""
    tolerance: float = 0.001
    """Settled: a pass brings less than this share of all neighbours together."""
    seed: int = 0
    """Of the parts that the nodes begin in."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes]. Raises InputError for a slack below 1 or no iteration."""
        return sweep(
            graph,
            parts,
            lambda sums: Rule(kind="spinner", capacity=sums.capacity),
            balance=self.balance,
            slack=self.slack,
            passes=self.iterations,
            start=hashed_parts(graph.num_nodes, parts, random.Key.root(self.seed)),
            tolerance=self.tolerance,
        )

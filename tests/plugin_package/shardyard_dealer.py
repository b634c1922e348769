"""Dealer: nodes are dealt out from the heaviest to the lightest, each to the part that is lightest by then.

Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17, 1969: no part is more than a third above
the best possible. It looks at degrees alone, so its edges are balanced better than anybody's and its cut is a hash's.
"""

import dataclasses
import heapq

import numpy as np
from numpy.typing import NDArray

from framework.graph.edges import EdgeStream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dealer:
    """Balances in-edges as well as can be, and does not look at the cut."""

    node_cost: int = 1
    """What a node weighs beside each of its in-edges."""

    def owners(self, graph: EdgeStream, parts: int) -> NDArray[np.int32]:
        """The part of every node: int32 [num_nodes]."""
        weights = np.full(graph.num_nodes, self.node_cost, np.int64)
        for _, target in graph:
            np.add.at(weights, target, 1)
        owners = np.empty(graph.num_nodes, np.int32)
        loads = [(0, part) for part in range(parts)]  # a heap: the lightest part first
        for node in np.argsort(-weights, kind="stable").tolist():
            load, part = loads[0]
            owners[node] = part
            heapq.heapreplace(loads, (load + int(weights[node]), part))
        return owners

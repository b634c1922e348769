"""DBH, degree-based hashing: an edge goes to the hash of its end of lower degree, so that hubs are what is replicated.

Xie, Yan, Li, Zhang, "Distributed power-law graph computing: theoretical and empirical analysis", NIPS 2014.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from framework import random
from framework.graph.edges import EdgeStream
from framework.kernels.partition import Scan, scan_edges
from framework.partition import EdgeParts
from framework.registry import PARTITIONERS
from partitioners.random import hashed_parts


@PARTITIONERS.register("dbh")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DegreeBasedHashing:
    """Vertex-cut by hash of the end of lower degree: two passes, no state but degrees, balanced by chance alone."""

    seed: int = 0
    """The key of the hash."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[EdgeParts]:
        """The part of every edge, batch by batch: int32 [batch]."""
        scan = Scan.empty(graph.num_nodes)
        for source, target in graph:
            scan_edges(np.ascontiguousarray(source, np.int64), np.ascontiguousarray(target, np.int64), scan)
        degrees = scan.out_degrees + scan.in_degrees + 2 * scan.loops
        del scan
        hashed = hashed_parts(graph.num_nodes, parts, random.Key.root(self.seed))
        for source, target in graph:
            there, here = degrees[source], degrees[target]
            # Equal degrees: the lower id, so that both directions of an edge stay together.
            by_source = (there < here) | ((there == here) & (source < target))
            yield hashed[np.where(by_source, source, target)]

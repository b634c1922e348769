"""Vertex-cuts whose answers are given, for tests of what becomes of any answer."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from framework.graph.edges import EdgeStream


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenEdgeOwners:
    """A vertex-cut whose answer is given."""

    parts_of: tuple[int, ...]
    """The part of every edge."""

    def edge_owners(self, graph: EdgeStream, parts: int) -> Iterator[NDArray[np.int32]]:
        """That answer, batch by batch."""
        done = 0
        for source, _ in graph:
            yield np.asarray(self.parts_of[done : done + len(source)], np.int32)
            done += len(source)

"""Random: the part of a node is a keyed hash of its id. The floor that every other partitioner is measured from."""

import dataclasses

import numpy as np
import torch

from framework import random
from framework.graph.edges import EdgeStream
from framework.partition import NodeParts
from framework.registry import PARTITIONERS

_CHUNK = 1 << 14  # torch does fewer than 2^15 at once in one thread: starting the others costs more than it saves


@PARTITIONERS.register("random")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Hash of the node's id: balanced nodes, and a cut of 1 - 1/parts."""

    seed: int = 0
    """The key of the hash."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The part of every node: int32 [num_nodes]."""
        return hashed_parts(graph.num_nodes, parts, random.Key.root(self.seed))


def hashed_parts(count: int, parts: int, key: random.Key) -> NodeParts:
    """A part for each of the ids 0 to count - 1 by a draw of its own under `key`: int32 [count]."""
    chosen = np.empty(count, np.int32)
    for first in range(0, count, _CHUNK):
        ids = torch.arange(first, min(first + _CHUNK, count))
        # The top 31 bits, scaled: a modulus would favour the first parts.
        chosen[first : first + len(ids)] = ((random.bits(key, ids) >> 32) * parts >> 31).numpy()
    return chosen

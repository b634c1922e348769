"""What a shard store says, put together again in original ids, for comparison with whatever it was made from.

Assumptions: the graph is small enough for dense matrices and Python loops.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.graph.edges import EdgeBatch
from framework.graph.store import ShardStore


def neighbour_lists(store: ShardStore) -> dict[int, list[int]]:
    """Original id of every node -> original ids of its sources, in the order in which the shard has them."""
    lists = {}
    for part in range(store.parts):
        shard = store.shard(part)
        sources = np.concatenate([shard.original.numpy(), shard.halo_original.numpy()])[shard.indices.numpy()]
        starts = shard.indptr.tolist()
        for row, node in enumerate(shard.original.tolist()):
            lists[node] = sources[starts[row] : starts[row + 1]].tolist()
    return lists


def expected_lists(num_nodes: int, source: NDArray[np.integer], target: NDArray[np.integer]) -> dict[int, list[int]]:
    """The same from edges: the sources of every target, increasing."""
    lists: dict[int, list[int]] = {node: [] for node in range(num_nodes)}
    for one, other in sorted(zip(source.tolist(), target.tolist(), strict=True)):
        lists[other].append(one)
    return lists


def by_original(store: ShardStore, column: str) -> NDArray[np.generic]:
    """A column of owned nodes, of all parts, in the order of original ids."""
    shards = [store.shard(part) for part in range(store.parts)]
    order = np.argsort(np.concatenate([shard.original.numpy() for shard in shards]))
    return np.concatenate([getattr(shard, column).numpy() for shard in shards])[order]


def random_edges(num_nodes: int, num_edges: int, seed: int = 0) -> EdgeBatch:
    """Edges with duplicates and self-loops among them."""
    generator = np.random.Generator(np.random.Philox(seed))
    source, target = generator.integers(0, num_nodes, (2, num_edges))
    source[:3], target[:3] = source[3:6], target[3:6]
    target[6:8] = source[6:8]
    return source, target


def shard_bytes(folder: Path) -> dict[str, str]:
    """The digest of every shard file of a store."""
    files = sorted(folder.glob("part-*/*.arrow"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenOwners:
    """A partitioner whose answer is given."""

    parts_of: tuple[int, ...]
    """The part of every node."""

    def owners(self, graph: object, parts: int) -> NDArray[np.int32]:
        """That answer."""
        return np.asarray(self.parts_of, np.int32)

"""Nodes that many of a worker's own nodes have as a neighbour: known without a draw and without a message.

After PaGraph (Lin et al., "PaGraph: scaling GNN training on large graphs via computation-aware caching", SoCC 2020),
which ranks nodes by their edges in the whole graph; a worker of ours counts those that lead to its own nodes.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.cache.policy import Outlook, check_megabytes, highest
from framework.registry import CACHES


@CACHES.register("degree")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Degree:
    """Neighbours of a worker's own nodes, those of the most edges first (PaGraph; Lin et al., SoCC 2020)."""

    megabytes: float = 256.0
    """Memory that a worker keeps rows in, in units of 10^6 bytes."""

    def __post_init__(self) -> None:
        check_megabytes(self.megabytes)

    def choose(self, outlook: Outlook, most: int) -> Tensor:
        """The far nodes of the most edges into this worker's own."""
        shards = outlook.topology.shards
        found = [torch.empty(0, dtype=torch.int64)]
        edges = [torch.empty(0, dtype=torch.int64)]
        for shard in (shards.mapped[part] for part in shards.owned):
            counts = torch.bincount(shard.indices, minlength=shard.num_owned + shard.num_halo)[shard.num_owned :]
            far = outlook.far(shard.halo)
            found.append(shard.halo[far])
            edges.append(counts[far])
        ids, place = torch.unique(torch.cat(found), return_inverse=True)
        return highest(ids, torch.zeros(len(ids), dtype=torch.int64).index_add_(0, place, torch.cat(edges)), most)

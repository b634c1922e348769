"""The nodes of others around a worker's own, with their in-edges as far as a worker could compute their rows itself."""

import dataclasses

import torch
from torch import Tensor

from framework.comm.layout.strategy import OwnedGraph
from framework.graph.block import Nodes
from framework.kernels.csr import offsets
from framework.random import Key

_EVERY = -1  # the fanout that draws nothing, so that its key is not used


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """In-edges of some nodes, by global id, inside a row by original id."""

    counts: Tensor
    """int64 [nodes]."""
    ids: Tensor
    """int64 [edges]: their sources."""
    weights: Tensor | None
    """float32 [edges], where the graph has them."""

    def of(self, chosen: Tensor) -> "Rows":
        """The rows `chosen` (int64 [..])."""
        counts = self.counts[chosen]
        shift = offsets(self.counts)[chosen] - offsets(counts)[:-1]
        entries = torch.arange(int(counts.sum())) + torch.repeat_interleave(shift, counts)
        weights = None if self.weights is None else self.weights[entries]
        return Rows(counts=counts, ids=self.ids[entries], weights=weights)

    def first(self, rows: int) -> "Rows":
        """The first of them."""
        counts = self.counts[:rows]
        edges = int(counts.sum())
        weights = None if self.weights is None else self.weights[:edges]
        return Rows(counts=counts, ids=self.ids[:edges], weights=weights)

    @classmethod
    def concatenate(cls, several: list["Rows"]) -> "Rows":
        """One after the other."""
        weights = [rows.weights for rows in several if rows.weights is not None]
        return cls(
            counts=torch.cat([rows.counts for rows in several]),
            ids=torch.cat([rows.ids for rows in several]),
            weights=torch.cat(weights) if weights else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """Nodes that others own: the halo, the sources of its in-edges, theirs, and so on; each once, by hops."""

    nodes: Nodes
    """The halo by increasing global id, then what is one hop further, by id, and so on."""
    halo: int
    """The first so many are the halo."""
    rows: Rows
    """In-edges of the first nodes: of all but the last hop's."""

    @classmethod
    def open(cls, graph: OwnedGraph, hops: int) -> "Surroundings":
        """Everything up to `hops` in-edges away from the halo. All workers call this together."""
        owned, frontier = graph.local.owned, graph.local.halo
        nothing = torch.empty(0, dtype=torch.int64)
        several, rows = [frontier], [Rows(counts=nothing, ids=nothing, weights=None)]
        for _ in range(hops):
            found = graph.neighbors(frontier, _EVERY, Key.root(0))
            rows.append(Rows(counts=found.indptr.diff(), ids=found.sources.ids, weights=found.edge_weights))
            known = Nodes.concatenate([owned, *several])
            frontier = _distinct(found.sources[~torch.isin(found.sources.ids, known.ids)])
            several.append(frontier)
        nodes = Nodes.concatenate(several)
        return cls(nodes=nodes, halo=len(graph.local.halo), rows=Rows.concatenate(rows))

    def places(self, ids: Tensor) -> Tensor:
        """Where nodes are among these, -1 for those that this worker owns: int64 [..] -> int64 [..]."""
        if len(self.nodes) == 0:
            return torch.full_like(ids, -1)
        ordered, order = self.nodes.ids.sort()
        found = torch.searchsorted(ordered, ids).clamp(max=len(ordered) - 1)
        return torch.where(ordered[found] == ids, order[found], -1)


def _distinct(nodes: Nodes) -> Nodes:
    """Each once, by increasing global id."""
    ids, group = torch.unique(nodes.ids, return_inverse=True)
    one = torch.empty_like(ids)
    one[group] = torch.arange(len(group))
    return nodes[one]

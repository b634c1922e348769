"""Ego-nets: every seed has a small graph of its own, which a network of any depth runs on.

Zeng et al., "Decoupling the depth and scope of graph neural networks" (shaDow-GNN), NeurIPS 2021. How far a seed sees
(`fanouts`) and how many layers look (`layers`) are two numbers: a net is what hops of neighbours draw, and then all
edges of the whole graph among its nodes, duplicates and self-loops as the graph has them. Each node of a net draws
once, at the hop at which the net met it first; a node that two nets of a step meet at one hop draws the same for both.

The net is the graph. So the degrees of its nodes are those inside it, edges that lead out do not exist, and evaluation
is on ego-nets, too. With all neighbours drawn, a network of as many layers as hops answers as on the whole graph, where
it asks for no degrees; a graph convolution does, and needs a hop more for those of the outermost nodes that count.

Rows are pairs of a seed and a node of its net, so a node stands among the sources once for each net that has it. Pairs
lie by their distance to the seed, as messages go inside the net: a layer makes the rows that can still reach a seed in
the layers after it, and these are the first of all. Dropout is keyed by original ids, so a node's pairs share a mask.
"""

import dataclasses

import torch
from torch import Tensor

from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.induced import induced_edges
from framework.kernels.sample import Sampled, sample_neighbors, unique_relabel
from framework.kernels.segments import chunks
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.hops import check_numbers
from framework.sample.sampler import DRAWING, SAMPLING, GraphView

_NODE = (1 << 32) - 1  # the half of a pair's number that is the node


@SAMPLERS.register("shadow")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Shadow:
    """A graph around every seed, its ego-net, for a network of any depth (shaDow-GNN; Zeng et al., NeurIPS 2021)."""

    fanouts: tuple[int, ...] = (10, 10)
    """Neighbours that a node adds to a net, the hop from the seed first; -1 adds all."""
    layers: int = 3
    """Layers of the network, which may be more than there are hops: all of them have the net's edges."""

    def __post_init__(self) -> None:
        check_numbers("fanouts", self.fanouts)
        if self.layers < 1:
            raise InputError(f"--sampler.layers is {self.layers}; expected at least 1.")

    @property
    def depth(self) -> int:
        """One block a layer."""
        return self.layers

    @property
    def whole(self) -> bool:
        """Blocks end at the seeds."""
        return False

    @property
    def scope(self) -> int:
        """As Scoped's: a net has a hop for each fanout."""
        return len(self.fanouts)

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> list[Block]:
        """The blocks of `seeds`, the input layer's first: of all nets side by side as much as each layer needs."""
        nets = _Nets.drawn(graph, seeds, self.fanouts, key)
        indptr, indices, weights = nets.edges_among(graph, key)
        rows = row_of_entries(indptr, len(indices))
        loops = torch.bincount(rows[indices == rows], minlength=len(nets.members))
        distance = _distances(nets.is_seed, rows, indices, self.scope)
        order = torch.argsort(distance, stable=True)  # seeds first, in their order: sets lie in it, each has one
        sources = dataclasses.replace(nets.nodes[nets.members], degree=indptr.diff() - loops)[order]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        edges = _rows(indptr, indices, order)
        indices = place[edges.indices.long()].to(torch.int32)
        weights = None if weights is None else weights[edges.edges]
        within = torch.bincount(distance, minlength=self.scope + 1).cumsum(0).tolist()
        blocks = []
        for layer in range(self.layers):
            left = self.layers - 1 - layer  # layers after this one
            targets, reached = (within[min(far, self.scope)] for far in (left, left + 1))
            end = int(edges.indptr[targets])
            blocks.append(
                Block(
                    sources=sources[:reached],
                    num_targets=targets,
                    indptr=edges.indptr[: targets + 1],
                    indices=indices[:end],
                    edge_weights=None if weights is None else weights[:end],
                    key=key.fold(DRAWING, layer),
                )
            )
        return blocks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Nets:
    """The nodes of some seeds' nets."""

    nodes: Nodes
    """All of them, each once, by original id: a node's number is its place here."""
    starts: Tensor
    """int64 [seeds + 1]: where each net begins in `members`."""
    members: Tensor
    """int32 [pairs]: the numbers of each net's nodes, ascending."""
    is_seed: Tensor
    """bool [pairs]: whose net it is."""

    @classmethod
    def drawn(cls, graph: GraphView, seeds: Nodes, fanouts: tuple[int, ...], key: Key) -> "_Nets":
        """Hop by hop. A pair is one number while they grow: the seed's place, then that of the node among those met."""
        known, own = seeds, torch.arange(len(seeds))
        pairs = frontier = own << 32 | own
        for hop, fanout in enumerate(fanouts):
            asked, which = torch.unique(frontier & _NODE, return_inverse=True)
            found = graph.neighbors(known[asked], fanout, key.fold(SAMPLING, hop))
            _, places, first = unique_relabel(known.ids, found.sources.ids)
            known = Nodes.concatenate([known, found.sources[first]])
            added = _rows(found.indptr, places, which)
            nets = torch.repeat_interleave(frontier >> 32, added.indptr.diff())
            frontier = torch.unique(nets << 32 | added.indices)
            frontier = frontier[~torch.isin(frontier, pairs)]
            pairs = torch.cat([pairs, frontier])
        order = torch.argsort(known.original)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        nets = pairs >> 32
        pairs = (nets << 32 | rank[pairs & _NODE]).sort().values
        members = pairs & _NODE
        return cls(
            nodes=known[order],
            starts=offsets(torch.bincount(nets, minlength=len(seeds))),
            members=members.to(torch.int32),
            is_seed=members == rank[pairs >> 32],
        )

    def edges_among(self, graph: GraphView, key: Key) -> tuple[Tensor, Tensor, Tensor | None]:
        """All edges between two nodes of a net, as a CSR of pairs, and their weights. All workers call this together.

        Most neighbours of a net's node are in no net at all: those are left out first, piece by piece."""
        lists = graph.neighbors(self.nodes, -1, key)
        kept, numbers = torch.zeros(len(lists.sources), dtype=torch.bool), []
        for _, entries in chunks(lists.indptr, 1):
            places = unique_relabel(self.nodes.ids, lists.sources.ids[entries])[1]
            kept[entries] = here = places < len(self.nodes)
            numbers.append(places[here])
        rows = offsets(kept)[lists.indptr]
        entries_kept = torch.cat([torch.empty(0, dtype=torch.int32), *numbers])
        found = induced_edges(self.starts, self.members, rows, entries_kept)
        weights = lists.edge_weights
        return found.indptr, found.indices, None if weights is None else weights[kept][found.edges]


def _distances(is_seed: Tensor, targets: Tensor, sources: Tensor, scope: int) -> Tensor:
    """Edges from each pair to its seed, on the shortest way inside the net: int64 [pairs].

    Nobody is farther than there are hops, for what a hop drew is an edge of the net."""
    distance = torch.where(is_seed, 0, scope)
    for hop in range(1, scope):
        nearer = torch.zeros_like(is_seed)
        nearer[sources[distance[targets] == hop - 1].long()] = True
        distance[nearer & (distance > hop)] = hop
    return distance


def _rows(indptr: Tensor, indices: Tensor, rows: Tensor) -> Sampled:
    """Some rows of a CSR, whole, in the order that they are named in."""
    return sample_neighbors(indptr, indices, rows, rows, -1, Key.root(0))

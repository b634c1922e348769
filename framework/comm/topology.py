"""The graph as one worker reaches it: all it owns, as layers of one block; and neighbours of any nodes.

Neighbours are sampled from a mapped shard where there is one, by the owner through the group elsewhere. A frontier is
sorted by where it is read, each run is sampled where it lies, and the answers are put back into the frontier's order. A
draw depends on the node's original id, so it does not matter who makes it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.group import CPU
from framework.comm.halo.block import OwnedBlock, OwnedEdges, Wire, nothing
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import DirectLink
from framework.comm.halo.mirrors import MirroredBlock, MirroredEdges
from framework.comm.halo.overlap import Overlap
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.replicas import ReplicatedBlock
from framework.comm.halo.strategy import Faithful, HaloStrategy, Replicating, Secluding
from framework.comm.halo.turns import InTurns
from framework.comm.layout.owner import Owner
from framework.comm.layout.strategy import Layout, OpenLayout
from framework.comm.neighbors import exchanged, joined, restored
from framework.comm.reach import Shards
from framework.comm.together import drawn_together
from framework.errors import InputError
from framework.graph.block import GraphBlock, Nodes
from framework.graph.local import LocalGraph
from framework.graph.shard import GraphShard
from framework.graph.split import between_targets
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.sample import Sampled, sample_neighbors, sample_shared
from framework.random import Key
from framework.sample.sampler import Drawn, Neighbors

EXACT, OWNER = Exact(), Owner()
PLAN = "halo.plan"
"""What a checkpoint says which plan the rows in it are of by."""


class Topology:
    """The graph as one worker reaches it (a GraphView)."""

    def __init__(
        self,
        shards: Shards,
        halo: HaloStrategy = EXACT,
        device: torch.device = CPU,
        layout: Layout = OWNER,
        when_read: Callable[[], None] = nothing,
    ) -> None:
        """`when_read`: called when features have been summed, for they may go then where they take no memory."""
        self.shards, self.strategy, self.device, self.layout = shards, halo, device, layout
        self.when_read = when_read

    @cached_property
    def owned(self) -> Nodes:
        """The nodes this worker owns; `local` lists the same, and joins all their edges."""
        return Nodes.owned_by([self.shards.mapped[part] for part in self.shards.owned])

    @cached_property
    def local(self) -> LocalGraph:
        """All this worker owns, as one block."""
        return LocalGraph.join([self.shards.mapped[part] for part in self.shards.owned], self.shards.store.kind)

    @cached_property
    def plan(self) -> HaloPlan:
        """Who sends which rows to whom. All workers make it together."""
        return HaloPlan.open(self.shards, self.local, self.device)

    @cached_property
    def wire(self) -> Wire:
        """How training has the halo's rows of hidden layers. All workers make it together."""
        return Wire(plan=self.plan, exchange=self.strategy.open(self.plan, DirectLink(self.shards.group)))

    @cached_property
    def exact(self) -> Wire:
        """The same, every row as it is now: for evaluation, whatever training makes do with."""
        return self.exact_over("evaluation")

    def state(self) -> dict[str, Tensor]:
        """What the halo strategy keeps from step to step, and of which plan that is; empty where it keeps nothing."""
        kept = self.wire.exchange.state()
        return {**kept, PLAN: self.plan.fingerprint} if kept else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave. All workers call this together.

        Raises InputError where the graph is cut otherwise than it was: the rows that were kept are of other nodes."""
        kept = dict(state)
        plan = kept.pop(PLAN, self.plan.fingerprint)  # an older checkpoint does not say
        if not all(self.shards.group.gather_json(torch.equal(plan, self.plan.fingerprint))):
            raise InputError(
                "the halo strategy keeps rows of nodes from step to step, and the graph is cut otherwise than it was "
                "where the checkpoint was written; resume with the --partitioner and --parts of the start before."
            )
        self.wire.exchange.load_state(kept)

    def exact_over(self, purpose: str) -> Wire:
        """Every row as it is now, counted under `purpose`. All workers make it together."""
        strategy = self.strategy if isinstance(self.strategy, Faithful) else EXACT
        return Wire(plan=self.plan, exchange=strategy.open(self.plan, DirectLink(self.shards.group, purpose)))

    def layers(self, keys: Sequence[Key | None], wire: Wire) -> Sequence[OwnedBlock | MirroredBlock | ReplicatedBlock]:
        """One layer over all owned nodes for every key; the first one's sources are the halo's nodes, too."""
        secluded = isinstance(wire.exchange, Secluding) and wire.exchange.secluded
        if self.shards.store.kind == "vertex-cut":
            exact = None if secluded else wire if wire is self.exact else self._constant
            blocks = [
                MirroredBlock(edges=self._mirrored, wire=wire, exact=exact, layer=layer, key=key)
                for layer, key in enumerate(keys)
            ]
            if isinstance(wire.exchange, Replicating):
                return [ReplicatedBlock(owners=block, last=block.layer == len(keys) - 1) for block in blocks]
            return blocks
        if secluded:
            first, other = self._secluded_edges
            return [
                OwnedBlock(edges=other if layer else first, wire=None, layer=layer, key=key)
                for layer, key in enumerate(keys)
            ]
        # What trains goes in spans: evaluation computes a layer of all nodes before the next.
        training = len(keys) > 1 and keys[0] is not None
        overlap = self._overlap if training and not isinstance(wire.exchange, InTurns) else None
        return [
            OwnedBlock(edges=self._edges, wire=wire, layer=layer, key=key, overlap=overlap)
            if layer
            else OwnedBlock(edges=self._edges, wire=None, layer=layer, key=key)
            for layer, key in enumerate(keys)
        ]

    def whole(self, keys: Sequence[Key | None]) -> Sequence[GraphBlock]:
        """One layer over all owned nodes for every key, by the run's layout."""
        return self.laid.whole(keys)

    @cached_property
    def laid(self) -> OpenLayout:
        """The run's layout at work. All workers make it together."""
        return self.layout.open(self)

    @cached_property
    def _mirrored(self) -> MirroredEdges:
        """The same of a vertex-cut. All workers make it together."""
        return MirroredEdges.open(self.local.block.to(self.device), self.plan)

    @cached_property
    def _constant(self) -> Wire:
        """What brings partial sums that nothing is learned in."""
        return self.exact_over("halo")

    @cached_property
    def _edges(self) -> OwnedEdges:
        """The local block on this worker's device, kept with what is made of it for all steps."""
        return OwnedEdges(block=self.local.block.to(self.device), when_read=self.when_read)

    @cached_property
    def _overlap(self) -> Overlap | None:
        """The owned nodes' rows in spans, those that others need first. All workers make it together."""
        block, counts = self.local.block, [self.shards.mapped[part].num_owned for part in self.shards.owned]
        lacking = row_of_entries(block.indptr, len(block.indices))[block.indices >= block.num_targets]
        overlap = Overlap.of(self.plan, lacking, offsets(torch.tensor(counts, dtype=torch.int64))[:-1].tolist())
        if self.device.type == "cpu":
            return overlap
        # NCCL needs one order of all collectives on all workers, and rows in spans change that of gradients.
        everywhere = self.shards.group.all_reduce(torch.tensor(float(overlap is not None)), "state", "min")
        return overlap if everywhere else None

    @cached_property
    def _secluded_edges(self) -> tuple[OwnedEdges, OwnedEdges]:
        """The edges between owned nodes: with the halo among the sources, for the first layer's features; without."""
        block = between_targets(self._edges.block)
        return OwnedEdges(block=block), OwnedEdges(block=dataclasses.replace(block, sources=block.targets))

    def neighbors(self, nodes: Nodes, fanout: int, key: Key, *, shared: bool = False) -> Neighbors:
        """As GraphView's. All workers call this together."""
        draw = _Draw(fanout=fanout, key=key, shared=shared)
        self._require_whole_rows()
        routes = self.shards.by_part(nodes.ids)
        found = [self._near(part, nodes[routes.order[run]], draw) for part, run in routes.near]
        if self.shards.asks:
            found.append(self._far(nodes.ids[routes.order[routes.start :]], routes.far, draw))
        return restored(joined(found), routes.order)

    def neighbors_together(self, nodes: Nodes, budget: int, key: Key) -> Neighbors:
        """As GraphView's. All workers call this together."""
        self._require_whole_rows()
        every = _Draw(fanout=-1, key=key, shared=False)
        return drawn_together(self.shards, lambda ids: self._served(ids, every), nodes, budget, key)

    def _require_whole_rows(self) -> None:
        assert self.shards.store.kind == "edge-cut", "a shard of a vertex-cut does not have all edges of a node"

    def _near(self, part: int, nodes: Nodes, draw: "_Draw") -> Neighbors:
        shard = self.shards.mapped[part]
        drawn = draw.of(shard, nodes)
        weights = None if shard.edge_weights is None else shard.edge_weights[drawn.edges]
        ids = drawn.indices.long() + shard.first if shard.num_halo == 0 else shard.all_ids[drawn.indices.long()]
        sources = Drawn(ids=ids, describe=lambda chosen: Nodes.of_shard(shard, drawn.indices[chosen]))
        return Neighbors(indptr=drawn.indptr, sources=sources, edge_weights=weights)

    def _far(self, ids: Tensor, counts: list[int], draw: "_Draw") -> Neighbors:
        """Asks owners for what no mapped shard holds; answers, in the same exchange, what others ask."""
        group = self.shards.group
        asked = group.exchange_counts(counts)
        wanted = group.exchange(ids, counts, asked, "frontier")
        return exchanged(group, self._served(wanted, draw), asked, counts)

    def _served(self, ids: Tensor, draw: "_Draw") -> Neighbors:
        """Neighbours of owned nodes, for whoever asks."""
        routes = self.shards.by_part(ids)
        found = []
        for part, run in routes.near:
            shard = self.shards.mapped[part]
            found.append(self._near(part, Nodes.of_shard(shard, ids[routes.order[run]] - shard.first), draw))
        return restored(joined(found, self.shards.weighted), routes.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Draw:
    """How neighbours are drawn, wherever they lie."""

    fanout: int
    key: Key
    shared: bool

    def of(self, shard: GraphShard, nodes: Nodes) -> Sampled:
        """In-edges of some nodes that `shard` owns."""
        rows = nodes.ids - shard.first
        if self.shared:
            return sample_shared(shard.indptr, shard.indices, rows, shard.all_original, self.fanout, self.key)
        return sample_neighbors(shard.indptr, shard.indices, rows, nodes.original, self.fanout, self.key)

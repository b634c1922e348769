"""Recompute or fetch: rows of the halo that cost less to compute from replicated neighbourhoods than to send."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from framework.comm.halo.block import OwnedBlock, OwnedEdges, Wire
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import DirectLink
from framework.comm.halo.plan import HaloPlan
from framework.comm.layout.dependencies import Dependencies, Prices
from framework.comm.layout.strategy import PURPOSE, OpenLayout, OwnedGraph, require_edge_cut
from framework.comm.layout.surroundings import Rows, Surroundings
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.csr import offsets
from framework.random import Key
from framework.registry import LAYOUTS


@LAYOUTS.register("recompute")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Recompute:
    """Each halo row of each layer fetched or computed here, whichever costs less (NeutronStar).

    Wang et al., "NeutronStar: distributed GNN training with hybrid dependency management", SIGMOD 2022. A row is
    computed from its node's neighbourhood, replicated down to features, which are fetched once; the greedy choice takes
    the cheapest first, and counts what two of them share once. Draws are keyed by original ids, so a row is the same
    wherever it is computed. Always equals the exact halo, and is it where all rows are fetched.

    A forward pass of a layer whose sums are c columns wide sends c numbers for every row that others fetch of this
    worker's nodes, a backward pass c for every row that it fetches; attention over h heads c + h. Where all are
    computed, hidden layers send nothing. To choose, a worker asks once for all in-edges of the halo, of their sources,
    and so on, one hop less than there are layers.

    Memory: these edges, and what is replicated of them again for every layer; features of every node that a subtree
    starts from, and those of the halo once more for evaluation, which is the owner's layout."""

    dependencies: Literal["cost", "fetch", "compute"] = "cost"
    """Choose by cost; or fetch all, or compute all."""
    bandwidth: float = 1e9
    """Bits a second of a worker's link, for the choice by cost."""
    flops: float = 1e10
    """Floating-point operations a second of a worker, for the choice by cost."""
    width: int = 256
    """Columns of a hidden row, for the choice by cost."""
    memory: float = 2e9
    """Bytes that replicated features, rows and edges may take on a worker, for the choice by cost."""

    def __post_init__(self) -> None:
        for name in ("bandwidth", "flops", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"--layout.{name} is {getattr(self, name)}; expected more than 0.")
        if not self.memory >= 0:
            raise InputError(f"--layout.memory is {self.memory}; expected bytes, at least 0.")

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """Nothing yet: how far neighbourhoods are replicated depends on the number of layers."""
        require_edge_cut(graph, "recompute")
        return RecomputeLayout(self, graph)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """What one layer computes on a worker, kept for all steps."""

    edges: OwnedEdges
    """Targets: own nodes and those whose rows of the next level are computed here. Sources: the targets of the layer
    before, then what is fetched; of the first layer, then whatever else it takes features of."""
    wire: Wire | None
    """Fetches; None before the first layer."""


class RecomputeLayout:
    """Replicated neighbourhoods at work (an OpenLayout)."""

    def __init__(self, spec: Recompute, graph: OwnedGraph) -> None:
        self.spec, self.graph = spec, graph
        self._levels: dict[int, list[Level]] = {}

    def whole(self, keys: Sequence[Key | None]) -> Sequence[OwnedBlock]:
        """As OpenLayout's."""
        depth = len(keys)
        if depth not in self._levels:
            self._levels[depth] = self._opened(depth)
        return [
            OwnedBlock(edges=level.edges, wire=level.wire, layer=layer, key=key)
            for layer, (level, key) in enumerate(zip(self._levels[depth], keys, strict=True))
        ]

    def _opened(self, depth: int) -> list[Level]:
        """Decides, and fetches the edges that it takes. All workers call this together."""
        hops = 0 if self.spec.dependencies == "fetch" else depth - 1
        around = Surroundings.open(self.graph, hops)
        computed = self._chosen(around, depth - 1)
        top = computed.sum(axis=0)  # the highest level that a node's row is computed at: all lower ones are, too
        order = np.lexsort((around.nodes.ids.numpy(), -top))
        replicas = torch.from_numpy(order[: int((top > 0).sum())])
        rows = Rows.concatenate([_own_rows(self.graph), around.rows.of(replicas)])
        counts = [len(self.graph.local.owned) + int((top > layer).sum()) for layer in range(depth)]
        targets = Nodes.concatenate([self.graph.local.owned, around.nodes[replicas]])
        levels = []
        for layer in range(depth):
            here = targets[: counts[layer - 1]] if layer else targets
            some = rows.first(counts[layer])
            if layer:
                others = around.nodes[: around.halo][torch.from_numpy(~computed[layer, : around.halo])]
            else:
                others = _others(some, here, around)
            block = _block(some, Nodes.concatenate([here, others]), counts[layer]).to(self.graph.device)
            edges = OwnedEdges(block=block, inside=len(here) if layer else None)
            levels.append(Level(edges=edges, wire=self._wire(others, len(here)) if layer else None))
        return levels

    def _chosen(self, around: Surroundings, levels: int) -> np.ndarray:
        """bool [levels + 1, surrounding nodes]."""
        spec, dependencies = self.spec, Dependencies(around, levels)
        if spec.dependencies == "compute":
            dependencies.compute_all()
        elif spec.dependencies == "cost":
            columns = self.graph.shards.store.num_features
            prices = Prices(columns=columns, width=spec.width, bandwidth=spec.bandwidth, flops=spec.flops)
            dependencies.compute_what_pays(prices, spec.memory)
        return dependencies.computed

    def _wire(self, fetched: Nodes, here: int) -> Wire:
        """Brings rows of `fetched`, where `here` rows go into the layer, the owned nodes' first."""
        plan = HaloPlan.between(self.graph.shards, self.graph.local.owned, fetched, self.graph.device)
        plan = dataclasses.replace(plan, num_owned=here)
        return Wire(plan=plan, exchange=Exact().open(plan, DirectLink(plan.group, PURPOSE)))


def _own_rows(graph: OwnedGraph) -> Rows:
    """The in-edges of the owned nodes."""
    block = graph.local.block
    return Rows(counts=block.drawn, ids=block.sources.ids[block.indices.long()], weights=block.edge_weights)


def _others(rows: Rows, here: Nodes, around: Surroundings) -> Nodes:
    """The sources of some edges that are not among `here`, by increasing global id."""
    ids = torch.unique(rows.ids)
    return around.nodes[around.places(ids[~torch.isin(ids, here.ids)])]


def _block(rows: Rows, sources: Nodes, targets: int) -> Block:
    """The edges as a block: global ids become places among the sources."""
    ordered, order = sources.ids.sort()
    places: Tensor = order[torch.searchsorted(ordered, rows.ids)]
    return Block(
        sources=sources,
        num_targets=targets,
        indptr=offsets(rows.counts),
        indices=places.to(torch.int32),
        edge_weights=rows.weights,
    )

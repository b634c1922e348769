"""Own rows and the halo's: every worker sums over the edges of its nodes, and a halo strategy brings what it lacks."""

import dataclasses
from collections.abc import Sequence

from framework.comm.halo.block import OwnedBlock, Wire
from framework.comm.halo.mirrors import MirroredBlock
from framework.comm.halo.replicas import ReplicatedBlock
from framework.comm.layout.strategy import OpenLayout, OwnedGraph
from framework.random import Key
from framework.registry import LAYOUTS


@LAYOUTS.register("owner")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Every worker the nodes it owns; the rows of its halo come by the halo strategy (`--halo`)."""

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """The owned nodes and the halo."""
        return OwnerLayout(graph=graph, wire=graph.wire)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnerLayout:
    """Own rows and the halo's, at work."""

    graph: OwnedGraph
    """The worker's graph."""
    wire: Wire
    """Brings the halo's rows."""

    def whole(self, keys: Sequence[Key | None]) -> Sequence[OwnedBlock | MirroredBlock | ReplicatedBlock]:
        """As OpenLayout's."""
        return self.graph.layers(keys, self.wire)

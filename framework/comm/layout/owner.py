"""Own rows and the halo's: every worker sums over the edges of its nodes, and a halo strategy brings what it lacks."""

import dataclasses
from collections.abc import Sequence

from framework.comm.halo.block import OwnedBlock
from framework.comm.layout.strategy import OpenLayout, OwnedGraph
from framework.random import Key
from framework.registry import LAYOUTS


@LAYOUTS.register("owner")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Every worker the nodes it owns; the rows of its halo come by the halo strategy (`--halo`)."""

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """The owned nodes and the halo."""
        return OwnerLayout(graph)


@dataclasses.dataclass(frozen=True, eq=False)
class OwnerLayout:
    """The default layout at work."""

    graph: OwnedGraph
    """The worker's graph."""

    def whole(self, keys: Sequence[Key | None]) -> Sequence[OwnedBlock]:
        """As OpenLayout's."""
        return self.graph.layers(keys, self.graph.wire)

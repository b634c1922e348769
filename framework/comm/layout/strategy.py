"""The contract of a layout: how a layer over the whole graph is laid out over the workers.

Rows of owned nodes go into every layer and rows of owned nodes come out; a layout decides where they are in between,
and which edges a worker has for that. Features are constant: what the first layer needs of them (the sources of its
block) is fetched once and kept, and nothing of it crosses the wire again. Layouts are exact, and their bytes are
counted under `layout`, by layer and direction. They work on stores of an edge-cut.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from framework.comm.halo.block import OwnedBlock, Wire
from framework.comm.halo.mirrors import MirroredBlock
from framework.comm.halo.replicas import ReplicatedBlock
from framework.comm.reach import Shards
from framework.errors import InputError
from framework.graph.block import GraphBlock, Nodes
from framework.graph.local import LocalGraph
from framework.random import Key
from framework.sample.sampler import Neighbors

PURPOSE = "layout"
"""What layouts' bytes are counted under, in training; the graph that they gather at opening is `state`, as all is."""


class OwnedGraph(Protocol):
    """What a layout sees of a worker's graph."""

    @property
    def shards(self) -> Shards:
        """Who owns what."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    @property
    def local(self) -> LocalGraph:
        """All this worker owns, as one block."""

    @property
    def wire(self) -> Wire:
        """The run's halo strategy."""

    def exact_over(self, purpose: str) -> Wire:
        """An exact exchange of the halo's rows, counted under `purpose`. All workers call this together."""

    def layers(self, keys: Sequence[Key | None], wire: Wire) -> Sequence[OwnedBlock | MirroredBlock | ReplicatedBlock]:
        """One layer over all owned nodes for every key: the first on kept features, the others by `wire`."""

    def neighbors(self, nodes: Nodes, fanout: int, key: Key) -> Neighbors:
        """In-neighbours of any nodes, as a GraphView's. All workers call this together."""


class OpenLayout(Protocol):
    """A layout at work between the workers of a group."""

    def whole(self, keys: Sequence[Key | None]) -> Sequence[GraphBlock]:
        """One layer over all owned nodes for every key, which its draws are keyed by. All workers call this together.

        The last block's targets are the owned nodes; the first one's sources say which features are needed."""


@runtime_checkable
class Layout(Protocol):
    """How a layer over the whole graph is laid out over the workers. A plug-in: its fields are its configuration."""

    def open(self, graph: OwnedGraph) -> OpenLayout:
        """The layout at work. All workers call this together, before the first layer. Raises InputError."""


def require_edge_cut(graph: OwnedGraph, layout: str) -> None:
    """Raises InputError where the graph's edges are not all with their targets' owners."""
    store = graph.shards.store
    if store.kind != "edge-cut":
        raise InputError(
            f"--layout {layout} needs all in-edges of a node at its owner; '{store.path}' is of a {store.kind}. "
            "Choose an edge-cut with --partitioner (metis, random, ...), or --layout owner."
        )


def columns_of_grid(columns: int, graph: OwnedGraph, flag: str) -> int:
    """`columns`, where that many workers make a row of a grid. Raises InputError."""
    workers = graph.shards.group.size
    if workers % columns:
        known = ", ".join(str(each) for each in range(1, workers + 1) if workers % each == 0)
        raise InputError(f"{flag} is {columns}, which does not divide --workers {workers}; expected one of {known}.")
    return columns

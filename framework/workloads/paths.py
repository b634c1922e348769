"""Paths for a network that attends along them: searched by its own attention, between the stages of a run.

Assumptions: the network has two stages (a PathNetwork). At the end of the first, attention over edges says what edges
cost, and the cheapest paths around every node are searched; the second attends along these. Each later refresh takes
costs from the attention over paths of two nodes. The first worker has the whole graph's edges in memory while it
searches, and the launcher's tasks search with it; tables are files, which all workers map. Costs are written before a
search begins, so that one that training did not wait for is made again, the same, after a restart.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.reach import Shards
from framework.comm.stage import stage
from framework.config import placement
from framework.engine.run import Mapper, Worker
from framework.errors import InputError
from framework.graph.block import Block, GraphBlock, Nodes
from framework.graph.edge_costs import edge_costs, refreshed_costs
from framework.graph.path_block import BlockPaths, PathBlock
from framework.graph.paths import PathTable
from framework.kernels.csr import row_of_entries
from framework.kernels.paths import PathRule
from framework.prepare.paths import PathGraph, Refreshed, keep_costs, kept_costs, refresh_paths, search_paths

EDGES_OF_A_PIECE = 100_000  # of the centres that one task searches around and writes the files of, about
BEAT = 1.0  # seconds between two signs of life of a search that the others wait for
GRID = 2.0**-30  # costs are multiples of it: sums of them are exact, so rounding elsewhere does not decide between ties


@runtime_checkable
class PathNetwork(Protocol):
    """A network that has its first layer attend over edges in stage 1, and along paths in stage 2."""

    stage: int
    """The stage it runs in."""

    @property
    def longest(self) -> int:
        """Nodes of the longest paths."""

    def edge_attention(self, block: Block, x: Tensor) -> Tensor:
        """Stage 1's attention over the edges of `block.without_self_loops`: [edges], means over heads."""

    def path_attention(self, block: PathBlock, x: Tensor) -> Tensor:
        """Stage 2's attention over the block's paths of two nodes: [paths], means over heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathSearch:
    """Which paths a network that attends along them is given, and how often they are searched anew."""

    refreshes: int = 1
    """Searches, each followed by a stage of training along the paths found. 0: the network stays in its first stage."""
    degree_ratio: float = 0.5
    """Paths of each length above two nodes, over the centre's neighbours in its tree."""
    path_ratio: float = 1.0
    """And over the paths of that length that there are."""
    tolerance: float = 0.0
    """In later searches, an edge whose cost has changed by no more than this keeps the one it had."""
    staleness: int = 0
    """Epochs that training goes on for while paths are searched, by the attention at their beginning. 0: it waits."""
    edges_for_tasks: int = placement(1_000_000)
    """Edges from which the launcher's tasks search; a smaller graph is searched before they would have started."""

    def __post_init__(self) -> None:
        if self.refreshes < 0:
            raise InputError(f"--paths.refreshes is {self.refreshes}; expected a number of searches, or 0 for none.")
        if self.staleness < 0:
            raise InputError(f"--paths.staleness is {self.staleness}; expected a number of epochs, at least 0.")
        if not self.tolerance >= 0:
            raise InputError(f"--paths.tolerance is {self.tolerance}; expected a difference of costs, at least 0.")
        self.rule(2)

    def rule(self, longest: int) -> PathRule:
        """The kernel's rule for paths of up to so many nodes. Raises InputError."""
        return PathRule(longest=longest, degree_ratio=self.degree_ratio, path_ratio=self.path_ratio)


class Paths:
    """The paths of a run, as one worker has them."""

    def __init__(self, search: PathSearch, network: PathNetwork, shards: Shards, root: Path, worker: Worker) -> None:
        """Tables are kept beneath `root`. Raises InputError for a vertex-cut."""
        if shards.store.kind != "edge-cut":
            raise InputError("paths are searched over whole neighbourhoods, which a vertex-cut splits: use another.")
        self.search, self.network, self.shards, self.worker = search, network, shards, worker
        self.root = root / "paths"
        self.table: PathTable | None = None
        self.done = 0
        self._under_way: concurrent.futures.Future[Refreshed] | None = None
        self._whole: PathBlock | None = None
        self._shards = dict(shards.mapped)  # and others, as paths lead there

    def stages_left(self) -> bool:
        """Whether another search is to come."""
        return self.done < self.search.refreshes

    def block(self, edges: GraphBlock, *, whole: bool) -> GraphBlock | PathBlock:
        """What the network's first layer is given where it would have a block of edges; `whole`: of all owned nodes."""
        if self.table is None:
            return edges
        if not whole:
            return self._around(edges.targets, self.table, edges)
        if self._whole is None:
            self._whole = self._around(edges.targets, self.table, edges)
        return dataclasses.replace(self._whole, key=edges.key)

    def begin(self, pieces: Iterable[tuple[GraphBlock | PathBlock, Tensor]]) -> dict[str, Any]:
        """Takes costs from the network's attention, and begins to search where training goes on meanwhile.

        `pieces`: first layers of all owned nodes without draws, in their order, with their rows. Returns what `finish`
        needs to know. All workers call this together."""
        with torch.no_grad():
            attention = torch.cat([self._attention(block, x).cpu().double() for block, x in pieces])
        gathered, kept = _at_first(self.shards.group, attention), None
        if self.shards.group.rank == 0:
            graph = PathGraph.of_store(self.shards.store)
            kept = keep_costs(self._costs(graph, gathered), self.root)
            if self.search.staleness:
                self._under_way = concurrent.futures.ThreadPoolExecutor(1).submit(
                    self._searched, graph, kept, self._mapper(graph)
                )
        return {"costs": self.shards.group.gather_json(kept)[0], "refresh": self.done + 1}

    def finish(self, begun: dict[str, Any]) -> dict[str, Any]:
        """Enters the stage of the paths that were begun, once they are there; says what `enter` needs to know.

        After a restart they are searched here. All workers call this together."""
        began = time.perf_counter()
        found = _while_others_wait(self.worker, lambda beat: self._found(begun["costs"], beat))
        facts = None
        if found is not None:
            facts = {"table": found.table.path.name, "recomputed": found.recomputed, "centres": found.table.num_nodes}
        stage_facts: dict[str, Any] = self.shards.group.gather_json(facts)[0]
        self.enter({**stage_facts, "refresh": begun["refresh"]})
        waited = time.perf_counter() - began
        return {**stage_facts, "refresh": self.done, "seconds": waited, "staleness": self.search.staleness}

    def enter(self, facts: dict[str, Any]) -> None:
        """Goes to the stage after a search. All workers call this together. Raises StoreError for a lost table."""
        place = stage(self.shards.group, _Place(path=self.root / facts["table"]))
        self.table, self._whole = PathTable.open(place.path), None
        self.done, self.network.stage = facts["refresh"], 2

    def _attention(self, layer: GraphBlock | PathBlock, x: Tensor) -> Tensor:
        """Over every path of two nodes, or every edge; self-loops, over which no path goes, have none."""
        if isinstance(layer, PathBlock):
            return self.network.path_attention(layer, x)
        block, x = layer.whole(x)
        kept = block.indices != row_of_entries(block.indptr, len(block.indices))
        attention = x.new_zeros(len(kept))
        attention[kept] = self.network.edge_attention(block, x)
        return attention

    def _costs(self, graph: PathGraph, attention: Tensor) -> Tensor:
        """Of the whole graph's edges, by the attention of all workers."""
        if self.table is None:
            return _on_grid(edge_costs(attention, graph.indptr, graph.indices))
        edges = self.table.between(0, self.table.num_nodes).lengths[0]
        paths = BlockPaths(offsets=edges.offsets, nodes=edges.nodes, original=graph.original)
        return _on_grid(refreshed_costs(self.table.edge_costs(), graph.indptr, graph.indices, paths, attention))

    def _mapper(self, graph: PathGraph) -> Mapper:
        return self.worker.mapper if len(graph.indices) >= self.search.edges_for_tasks else map

    def _found(self, costs: str, beat: Callable[[], object]) -> Refreshed:
        """The table of what `begin` kept: the one under way, or searched here."""
        if self._under_way is None:
            graph = PathGraph.of_store(self.shards.store)
            return self._searched(graph, costs, _told(self._mapper(graph), self.worker, beat))
        while not concurrent.futures.wait([self._under_way], timeout=BEAT).done:
            beat()
        found, self._under_way = self._under_way.result(), None
        return found

    def _searched(self, graph: PathGraph, kept: str, mapper: Mapper) -> Refreshed:
        """The table by the costs that `begin` kept."""
        costs, store = kept_costs(self.root / kept), self.shards.store
        if self.table is not None:
            return refresh_paths(self.table, graph, costs, tolerance=self.search.tolerance, mapper=mapper)
        starts = graph.cut(1 + len(graph.indices) // EDGES_OF_A_PIECE, store.offsets.tolist())
        rule = self.search.rule(self.network.longest)
        table = search_paths(graph, costs, rule, self.root, starts=starts, mapper=mapper)
        return Refreshed(table=table, recomputed=table.num_nodes)

    def _around(self, targets: Nodes, table: PathTable, edges: GraphBlock) -> PathBlock:
        """The paths of any nodes, and the nodes that these lead over."""
        found = table.of(targets.ids)
        ids = torch.unique(torch.cat([targets.ids, *(paths.nodes.flatten().long() for paths in found)]))
        others = ids[~torch.isin(ids, targets.ids)]
        sources = Nodes.concatenate([targets, self._named(others)])
        in_order, position = sources.ids.sort()
        tables = [(paths.offsets, position[torch.searchsorted(in_order, paths.nodes.long())]) for paths in found]
        device = self.worker.device
        return PathBlock.of(sources, tables, edges.key).to(device)

    def _named(self, ids: Tensor) -> Nodes:
        """Nodes by ascending ids, wherever they are: the store's files of all parts are on every host."""
        store, parts = self.shards.store, self.shards.store.owner_of(ids)
        several = []
        for part in torch.unique(parts).tolist():
            if part not in self._shards:
                self._shards[part] = store.shard(part)
            shard = self._shards[part]
            several.append(Nodes.of_shard(shard, ids[parts == part] - shard.first))
        return Nodes.concatenate(several)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder that every host is to have."""

    path: Path
    """The folder."""


def _on_grid(costs: Tensor) -> Tensor:
    return (costs.double() / GRID).round().clamp(min=1) * GRID


def _at_first(group: Group, values: Tensor) -> Tensor:
    """The values of all workers, in order of rank, at the first one; elsewhere nothing."""
    counts: list[int] = group.gather_json(len(values))
    sent = [len(values), *[0] * (group.size - 1)]
    return group.exchange(values, sent, counts if group.rank == 0 else [0] * group.size, "paths")


def _while_others_wait(worker: Worker, work: Callable[[Callable[[], object]], Refreshed]) -> Refreshed | None:
    """What `work` gives on the first worker. The others hear the beats that it makes, so that none waits for long."""

    def going_on(value: int) -> bool:
        return bool(worker.group.all_reduce(torch.tensor([value]), "state", "max"))

    if worker.group.rank == 0:
        found = work(lambda: going_on(1))
        going_on(0)
        return found
    while going_on(0):
        pass
    return None


def _told(mapper: Mapper, worker: Worker, beat: Callable[[], object]) -> Mapper:
    """The mapper, with a beat and an event for every result."""

    def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for number, result in enumerate(mapper(function, items), 1):
            beat()
            worker.watch({"event": "prepare", "what": "searching paths", "done": number / len(items)})
            yield result

    return mapped

"""Paths for a network that attends along them: searched by its own attention, between the stages of a run.

Assumptions: the network has two stages (a PathNetwork). At the end of the first, attention over edges says what edges
cost, and the cheapest paths around every node are searched; the second attends along these. Each later refresh takes
costs from the attention over paths of two nodes. The first worker has the whole graph's edges in memory while it
searches, and the launcher's tasks search with it; tables are files, which all workers map. Training may go on for some
epochs meanwhile: as many whenever the search was done, so that its speed does not show in what is learned.
"""

import concurrent.futures
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.meeting import verify_together
from framework.comm.reach import Shards
from framework.comm.stage import stage
from framework.config import placement
from framework.engine.run import Mapper, Run, Worker
from framework.errors import InputError, LostWorkerError
from framework.graph.block import Block, GraphBlock, Nodes
from framework.graph.edge_costs import edge_costs, refreshed_costs
from framework.graph.path_block import BlockPaths, PathBlock
from framework.graph.paths import PathTable
from framework.kernels.csr import row_of_entries
from framework.kernels.paths import PathRule
from framework.prepare.paths import PathGraph, Refreshed, refresh_paths, search_paths

EDGES_OF_A_PIECE = 100_000  # of the centres that one task searches around and writes the files of, about
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
        if not 0 <= self.degree_ratio < math.inf:
            raise InputError(f"--paths.degree-ratio is {self.degree_ratio}; expected a number of at least 0.")
        if not 0 <= self.path_ratio <= 1:
            raise InputError(f"--paths.path-ratio is {self.path_ratio}; expected a number from 0 to 1.")

    def rule(self, longest: int) -> PathRule:
        """The kernel's rule for paths of up to so many nodes. Raises InputError."""
        return PathRule(longest=longest, degree_ratio=self.degree_ratio, path_ratio=self.path_ratio)


class Paths:
    """The paths of a run, as one worker has them."""

    def __init__(self, search: PathSearch, network: PathNetwork, shards: Shards, run: Run, worker: Worker) -> None:
        """Tables are kept beneath the run's store. All workers call this. Raises InputError for a vertex-cut."""
        if shards.store.kind != "edge-cut":
            raise InputError("paths are searched over whole neighbourhoods, which a vertex-cut splits: use another.")
        self.search, self.network, self.shards, self.worker = search, network, shards, worker
        self.root, self.deadline = Path(run.store) / "paths", run.deadline
        self.table: PathTable | None = None
        self.done = 0
        self._under_way: _UnderWay | None = None
        self._seconds = 0.0
        self._whole: PathBlock | None = None
        store = stage(shards.group, worker.prepared)
        verify_together(shards.group, store.path, shards.store.files)
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

    def begin(self, pieces: Iterable[tuple[GraphBlock | PathBlock, Tensor]]) -> None:
        """Begins to search by the network's attention, on the first worker.

        `pieces`: first layers of all owned nodes without draws, in their order, with their rows. All workers call this
        together."""
        began = time.perf_counter()
        with torch.no_grad():
            attention = torch.cat([self._attention(block, x).cpu().double() for block, x in pieces])
        gathered = _at_first(self.shards.group, attention)
        if self.shards.group.rank == 0:
            mapper = self.worker.mapper if len(gathered) >= self.search.edges_for_tasks else map
            self._under_way = _UnderWay(lambda telling: self._searched(gathered, telling(mapper)))
        self._seconds = time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        """Enters the stage of the paths that are searched, once they are there; says what `enter` needs to know.

        All workers call this together. Raises LostWorkerError where the search gets no further."""
        began = time.perf_counter()
        found = _while_others_wait(self.worker, self._under_way, self.deadline)
        self._under_way, facts = None, None
        if found is not None:
            facts = {"table": found.table.path.name, "recomputed": found.recomputed, "centres": found.table.num_nodes}
        stage_facts: dict[str, Any] = self.shards.group.gather_json(facts)[0]
        stage_facts |= {"store": self.shards.store.digest, "refresh": self.done + 1, "staleness": self.search.staleness}
        self.enter(stage_facts)
        return {**stage_facts, "seconds": self._seconds + time.perf_counter() - began}

    def enter(self, facts: dict[str, Any]) -> None:
        """Goes to the stage after a search. All workers call this together.

        Raises StoreError for a lost table, and InputError for one whose nodes are numbered otherwise."""
        if facts["store"] != self.shards.store.digest:
            raise InputError(
                "this run's paths were searched in a store of other parts: "
                "resume it with the --partitioner and --parts that it had, or choose another --out."
            )
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

    def _searched(self, attention: Tensor, mapper: Mapper) -> Refreshed:
        """The table by the whole graph's attention."""
        store = self.shards.store
        graph = PathGraph.of_store(store)
        if self.table is None:
            costs = _on_grid(edge_costs(attention, graph.indptr, graph.indices))
            starts = graph.cut(1 + len(graph.indices) // EDGES_OF_A_PIECE, store.offsets.tolist())
            rule = self.search.rule(self.network.longest)
            table = search_paths(graph, costs, rule, self.root, starts=starts, mapper=mapper)
            return Refreshed(table=table, recomputed=table.num_nodes)
        edges = self.table.between(0, self.table.num_nodes).lengths[0]
        paths = BlockPaths(offsets=edges.offsets, nodes=edges.nodes, original=graph.original)
        before = self.table.edge_costs()
        costs = _on_grid(refreshed_costs(before, graph.indptr, graph.indices, paths, attention))
        return refresh_paths(self.table, graph, costs, tolerance=self.search.tolerance, mapper=mapper)

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


class _UnderWay:
    """A search on a thread of its own, which ends with the process; what share of it is done is heard as it is done."""

    def __init__(self, work: Callable[[Callable[[Mapper], Mapper]], Refreshed]) -> None:
        """`work` is given what makes a mapper tell of its results."""
        self._shares = queue.SimpleQueue[float | None]()  # None: that is all
        self._future = concurrent.futures.Future[Refreshed]()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def result(self, deadline: float, hear: Callable[[float], object]) -> Refreshed:
        """What `work` gives. `hear` is called for every share. Raises LostWorkerError where none comes in time."""
        try:
            while (share := self._shares.get(timeout=deadline)) is not None:
                hear(share)
        except queue.Empty:
            raise LostWorkerError(
                f"the search for paths got no further for {deadline:g} s (--deadline): a task or a disk does not "
                "answer. Start the run again with the same --out to resume it."
            ) from None
        return self._future.result()

    def _run(self, work: Callable[[Callable[[Mapper], Mapper]], Refreshed]) -> None:
        try:
            self._future.set_result(work(self._telling))
        except BaseException as error:  # of whoever asks for the result
            self._future.set_exception(error)
        finally:
            self._shares.put(None)

    def _telling(self, mapper: Mapper) -> Mapper:
        def mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            for number, result in enumerate(mapper(function, items), 1):
                self._shares.put(number / len(items))
                yield result

        return mapped


def _while_others_wait(worker: Worker, under_way: _UnderWay | None, deadline: float) -> Refreshed | None:
    """What is under way on the first worker. The others hear of every share that is done, so none waits for long."""

    def going_on(value: int) -> bool:
        return bool(worker.group.all_reduce(torch.tensor([value]), "state", "max"))

    def hear(share: float) -> None:
        going_on(1)
        worker.watch({"event": "prepare", "what": "searching paths", "done": share})

    if under_way is not None:
        found = under_way.result(deadline, hear)
        going_on(0)
        return found
    while going_on(0):
        pass
    return None

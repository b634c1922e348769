"""The search for the paths around every node, spread over tasks; and its repetition when costs have changed.

Assumptions: the edges of the whole graph fit in memory, once for all tasks of a host: they go to the mapper bound to
the function (functools.partial), which the launcher `ray` puts into its object store once, where tasks map them. A task
searches one piece of the centres and writes its files; nothing of a table travels. A table's folder is named by a
digest of everything it depends on, so one that is there and whole is the answer.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework import config
from framework.data.dataset import Mapper, each
from framework.errors import InputError
from framework.graph.paths import VERSION, PathTable, write_edge_costs, write_piece
from framework.graph.store import ShardStore
from framework.kernels import check
from framework.kernels.csr import offsets
from framework.kernels.paths import (
    CostRows,
    FoundPaths,
    PathRule,
    Paths,
    changed_costs_reach,
    find_paths,
    sort_rows,
)
from framework.store.columns import FileFacts
from framework.store.folder import once


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathGraph:
    """Where a path goes on from every node: the nodes it attends to."""

    indptr: Tensor
    """int64 [nodes + 1]."""
    indices: Tensor
    """int32 or int64 [edges]."""
    original: Tensor
    """Original ids: int64 [nodes]."""

    @classmethod
    def of_store(cls, store: ShardStore) -> "PathGraph":
        """The in-edges of every node of a store, by global id; its edges are those of the shards, one after the other.

        Raises InputError for a vertex-cut, whose shards do not have a node's in-edges together."""
        if store.kind != "edge-cut":
            raise InputError(
                f"'{store.path}' is a {store.kind}; expected an edge-cut: prepare it by such a partitioner."
            )
        shards = [store.shard(part) for part in range(store.parts)]
        columns = [
            torch.cat([torch.arange(shard.first, shard.first + shard.num_owned), shard.halo])[shard.indices.long()]
            for shard in shards
        ]
        return cls(
            indptr=offsets(torch.cat([shard.indptr.diff() for shard in shards])),
            indices=torch.cat(columns),
            original=torch.cat([shard.original for shard in shards]),
        )

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.indptr) - 1

    @functools.cached_property
    def digest(self) -> str:
        """Of all that it is: 64 hex digits."""
        return config.digest([_digest(array) for array in (self.indptr, self.indices.to(torch.int64), self.original)])

    def cut(self, count: int, parts: Sequence[int] = ()) -> tuple[int, ...]:
        """Where to begin about `count` pieces of as many edges each, and one at each of `parts`, a store's offsets.

        A worker reads the paths of a part without a copy if no piece reaches beyond it, and the part is one piece."""
        goals = torch.linspace(0, len(self.indices), count + 1)[1:-1].to(torch.int64)
        evenly = torch.searchsorted(self.indptr, goals).clamp(max=self.num_nodes)
        return tuple(sorted({0, self.num_nodes, *evenly.tolist(), *map(int, parts)}))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Refreshed:
    """A table for changed costs."""

    table: PathTable
    """The table."""
    recomputed: int
    """Centres that were searched for again."""


def search_paths(
    graph: PathGraph,
    costs: Tensor,
    rule: PathRule,
    root: Path,
    *,
    starts: Sequence[int] | None = None,
    mapper: Mapper = map,
) -> PathTable:
    """The paths around every node, in a folder beneath `root`; at once where it is there.

    `costs`: float32 or float64 [edges], at least 0, in the order of `graph.indices`. `starts`: where pieces begin, from
    0 to the number of nodes (`PathGraph.cut`); None for one piece. What the table says does not depend on them, nor on
    `mapper`. Raises InputError for costs or pieces that cannot be used, and for a full disk."""
    starts = (0, graph.num_nodes) if starts is None else tuple(map(int, starts))
    if list(starts) != sorted(starts) or len(starts) < 2 or (starts[0], starts[-1]) != (0, graph.num_nodes):
        raise InputError(f"starts is {starts}; expected increasing numbers from 0 to {graph.num_nodes}.")
    return _table(graph, costs, rule, starts, root, mapper, before=None, touched=None)


def refresh_paths(
    table: PathTable, graph: PathGraph, costs: Tensor, *, tolerance: float = 0.0, mapper: Mapper = map
) -> Refreshed:
    """The table of other `costs`, beside `table`, whose `graph` is the same: what cannot have changed is copied.

    An edge whose cost changed by no more than `tolerance` keeps the one it had. The files are those of a `search_paths`
    with these costs, byte by byte. Raises InputError as `search_paths` does."""
    if graph.digest != table.graph_digest:
        raise InputError(f"the graph is not the one that '{table.path}' was made of: search it with `search_paths`.")
    old = table.edge_costs()
    costs = check.features("costs", costs, (len(old),), like=old)
    costs = torch.where((costs - old).abs() <= tolerance, old, costs)  # and so one that is no number is seen
    radii = torch.cat([table.piece(number).radii for number in range(table.pieces)])
    touched = changed_costs_reach(graph.indptr, graph.indices, old, costs, radii)
    fresh = _table(graph, costs, table.rule, table.starts, table.path.parent, mapper, before=table, touched=touched)
    return Refreshed(table=fresh, recomputed=int(touched.sum()))


def _table(
    graph: PathGraph,
    costs: Tensor,
    rule: PathRule,
    starts: tuple[int, ...],
    root: Path,
    mapper: Mapper,
    *,
    before: PathTable | None,
    touched: NDArray[np.bool_] | None,
) -> PathTable:
    """Searches for `touched` centres (None: all) and takes the others from `before`."""
    digest = config.digest([VERSION, graph.digest, _digest(costs), dataclasses.asdict(rule), starts])
    path = root / digest[:16]

    def make(folder: Path) -> None:
        task = _Task(
            rows=sort_rows(graph.indptr, graph.indices, costs, graph.original),
            rule=rule,
            starts=starts,
            folder=folder.resolve(),  # another process may have another working folder
            touched=touched,
            before=before.path.resolve() if before else None,
        )
        files, counts = write_edge_costs(folder, costs), []
        for written, paths in each(mapper, functools.partial(_piece, task), list(range(len(starts) - 1))):
            files |= written
            counts.append(paths)
        PathTable(
            path=folder,
            digest=digest,
            graph_digest=graph.digest,
            rule=rule,
            starts=starts,
            counts=tuple(counts),
            files=files,
        ).seal()

    return once(path, PathTable.open, make)[0]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """What the search for every piece is told."""

    rows: CostRows
    rule: PathRule
    starts: tuple[int, ...]
    folder: Path
    touched: NDArray[np.bool_] | None  # of every node, whether it is to be searched for; None: all
    before: Path | None  # the table that has the others


def _piece(task: _Task, number: int) -> tuple[dict[str, FileFacts], tuple[int, ...]]:
    """Writes one piece; returns the facts of its files and how many paths of each length there are."""
    first, last = task.starts[number : number + 2]
    centres = np.arange(first, last)
    if task.touched is None or task.before is None:
        found = find_paths(task.rows, centres, task.rule)
    else:
        touched = task.touched[first:last]
        known = PathTable.open(task.before, verify=False).piece(number)
        found = _spliced(known, find_paths(task.rows, centres[touched], task.rule), torch.tensor(touched))
    files = write_piece(task.folder, number, found, task.rule)
    return files, tuple(len(paths.costs) for paths in found.lengths)


def _spliced(known: FoundPaths, found: FoundPaths, touched: Tensor) -> FoundPaths:
    """`known`, with the centres that were `touched` (bool [centres]) replaced by those `found`, in their order."""
    radii = known.radii.clone()
    radii[touched] = found.radii
    lengths = []
    for old, new in zip(known.lengths, found.lengths, strict=True):
        counts = old.offsets.diff()
        kept = torch.repeat_interleave(~touched, counts)
        counts[touched] = new.offsets.diff()
        fresh = torch.repeat_interleave(touched, counts)
        nodes, costs = old.nodes.new_empty(len(fresh), old.nodes.shape[1]), old.costs.new_empty(len(fresh))
        nodes[fresh], nodes[~fresh] = new.nodes, old.nodes[kept]
        costs[fresh], costs[~fresh] = new.costs, old.costs[kept]
        lengths.append(Paths(offsets=offsets(counts), nodes=nodes, costs=costs))
    return FoundPaths(lengths=tuple(lengths), radii=radii)


def _digest(array: Tensor) -> list[str]:
    return [str(array.dtype), hashlib.sha256(array.contiguous().numpy().data).hexdigest()]

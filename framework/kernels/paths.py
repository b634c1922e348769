"""The cheapest paths around every node: shortest-path trees to a small depth, sampled; and what changed costs reach.

*Tree.* A row says where a path goes on from a node, and what each step costs. Costs of a path are added in float64 from
its centre outwards. Of the nodes that an entry of a settled node leads to, the one of least (cost, original id) is
settled next (Dijkstra, Numerische Mathematik 1, 1959); its predecessor is, of the settled nodes that lead to it at that
cost, the one of least original id. That holds for costs of 0 and sums that a cost does not change, too, and knows
neither the numbering nor the order of entries. The depth of a node is the number of edges from the centre to it.

*Paths.* Of length c, in nodes: the tree's paths to depth c - 1. All are kept for c = 2; for c > 2 the first
int(min(degree * degree_ratio, count * path_ratio)) in the order of settling, which is that of (cost, original id of the
end) wherever costs are above 0; `degree` is the number of the tree's nodes of depth 1. Last comes one more path for
every c: the centre, c times, at cost 0.

*Where a search may stop.* Rows are sorted by cost, so that of every settled node only the next entry has to wait its
turn (Spira, SIAM Journal on Computing 2(1), 1973). Length c is decided once (a) whatever the nodes of depth at most
c - 2 lead to is settled: a node of depth c - 1 is led to by its predecessor, so by induction none is missing; or (b),
for c > 2, length 2 is decided, hence the degree, and so many nodes of depth c - 1 are settled that count * path_ratio
reaches degree * degree_ratio: those settled later come behind them. When all lengths are decided, what is kept is what
the whole tree would give.

*What a change of costs can reach.* Let R, the radius, be the greatest over all lengths of the cost that decides them:
the farthest of what (a) asks to be settled, or the node that fulfils (b) where there is one. If for no changed edge
(u, v) the cost of u and the lesser of the edge's two costs are together at most R, then no path of a cost up to R, by
the old costs or the new, has a changed edge: what comes before its first one is the same as it was and costs no less
than u. So both graphs have the same paths up to R and settle the same nodes in the same order up to R, where all is
decided: paths and radius are the same to the bit. One search from all changed edges at once, backwards and over
unchanged edges alone, finds the least such cost for every centre. It adds in another order; a sum of n costs is off by
at most a factor of 1 + n 2**-53 either way, which a margin of n 2**-51 covers.
"""

import dataclasses
import heapq
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.errors import InputError
from framework.kernels import check, native
from framework.kernels.csr import transpose

LONGEST = 5
"""Nodes of the longest paths that can be asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathRule:
    """Which paths are kept."""

    longest: int = 3
    """Nodes of the longest paths, the centre included: 2 to 5."""
    degree_ratio: float = 0.5
    """Paths of each length above 2, over the centre's nodes of depth 1."""
    path_ratio: float = 1.0
    """And over the paths of that length that there are: 0 to 1."""

    def __post_init__(self) -> None:
        """Refuses lengths and ratios that mean nothing."""
        if not isinstance(self.longest, int) or not 2 <= self.longest <= LONGEST:
            raise InputError(f"longest is {self.longest!r}; expected a number of nodes from 2 to {LONGEST}.")
        if not (math.isfinite(self.degree_ratio) and self.degree_ratio >= 0):
            raise InputError(f"degree_ratio is {self.degree_ratio!r}; expected a number of at least 0.")
        if not 0 <= self.path_ratio <= 1:
            raise InputError(f"path_ratio is {self.path_ratio!r}; expected a number from 0 to 1.")

    @property
    def lengths(self) -> range:
        """Every length that is searched for, in nodes."""
        return range(2, self.longest + 1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CostRows:
    """A graph with costs, its rows sorted by them. Arrays of NumPy, for other processes map these without a copy."""

    indptr: NDArray[np.int64]
    """Where each row begins and the last ends: [nodes + 1]."""
    heads: NDArray[np.int32]
    """Where each entry leads to: [edges]."""
    costs: NDArray[np.float32] | NDArray[np.float64]
    """What it costs, ascending inside a row: [edges]."""
    original: NDArray[np.int64]
    """The nodes' original ids: [nodes]."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.indptr) - 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """The kept paths of one length c, row by row of their centres; the last of a row is the centre's path to itself."""

    offsets: Tensor
    """Where each centre's paths begin and the last one's end: int64 [centres + 1]."""
    nodes: Tensor
    """A path from the centre's neighbour to its end, without the centre: int32 [paths, c - 1]."""
    costs: Tensor
    """What a path costs: float64 [paths]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FoundPaths:
    """What a search finds for its centres."""

    lengths: tuple[Paths, ...]
    """The paths of 2, 3, ... nodes."""
    radii: Tensor
    """The cost up to which a centre's paths depend on the graph: float64 [centres]."""


def sort_rows(indptr: Tensor, indices: Tensor, costs: Tensor, original: Tensor | None = None) -> CostRows:
    """The graph that searches go over. Row i of the CSR lists where a path goes on from i: the nodes i attends to.

    `indptr` int64 [nodes + 1]; `indices` int32 or int64 [edges], self-loops and duplicates allowed; `costs` float32 or
    float64 [edges], at least 0; `original` int64 [nodes], distinct (None: the numbers of the nodes). Raises InputError
    for a cost that is negative, infinite or not a number, and for an index that is no node."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    costs = check.features("costs", costs, (len(indices),))
    num_nodes = len(indptr) - 1
    if num_nodes >= 2**31 - 1:
        raise InputError(f"{num_nodes} nodes are too many for a search; expected fewer than {2**31 - 1}.")
    original = torch.arange(num_nodes) if original is None else check.long("original", original, num_nodes)
    check.below("indices", indices, num_nodes)  # before it is made narrower
    heads = indices.to(torch.int32)
    out_heads, out_costs = torch.empty_like(heads), torch.empty_like(costs)
    if native.usable(indptr, heads, costs):
        name = native.typed("sort_rows", costs)
        bad = native.call(name, indptr, heads, costs, num_nodes, out_heads, out_costs)
    else:
        bad = _sort_rows_torch(indptr, heads, costs, out_heads, out_costs)
    if bad:
        raise _unusable(int(indices[bad - 1]), float(costs[bad - 1]), bad - 1, num_nodes)
    return CostRows(
        indptr=indptr.numpy(), heads=out_heads.numpy(), costs=out_costs.numpy(), original=original.contiguous().numpy()
    )


def _sort_rows_torch(indptr: Tensor, heads: Tensor, costs: Tensor, out_heads: Tensor, out_costs: Tensor) -> int:
    wrong = ~((costs >= 0) & torch.isfinite(costs) & (heads >= 0) & (heads < len(indptr) - 1))
    if bool(wrong.any()):
        return int(wrong.nonzero()[0]) + 1
    rows = np.repeat(np.arange(len(indptr) - 1), indptr.diff().numpy())
    order = torch.from_numpy(np.lexsort((heads.numpy(), costs.numpy(), rows)))
    out_heads.copy_(heads[order])
    out_costs.copy_(costs[order])
    return 0


def _unusable(head: int, cost: float, edge: int, num_nodes: int) -> InputError:
    if not 0 <= head < num_nodes:
        return check.outside("indices", head, num_nodes)
    return InputError(f"costs holds {cost} at edge {edge}; expected finite numbers of at least 0: clamp them.")


def find_paths(rows: CostRows, centres: NDArray[np.int64], rule: PathRule) -> FoundPaths:
    """The paths that `rule` keeps around each of `centres` ([n]), and how far out these depend on the graph.

    The same bits for any split of centres and number of threads. Memory: that of 1 + degree_ratio * (longest - 2)
    paths an entry of the centres' rows, and of one more a centre and length; four bytes a node for each thread. Raises
    InputError for a centre that is no node."""
    if len(centres) and (int(centres.min()) < 0 or int(centres.max()) >= rows.num_nodes):
        wrong = centres[(centres < 0) | (centres >= rows.num_nodes)]
        raise check.outside("centres", int(wrong[0]), rows.num_nodes)
    if not native.available():
        return _find_paths_python(rows, centres.tolist(), rule)
    starts = _rooms(np.diff(rows.indptr)[centres], rows.num_nodes, rule)
    room = starts[:, -1].copy()
    widths = np.array(rule.lengths) - 1
    nodes = torch.empty(int((room * widths).sum()), dtype=torch.int32, device="cpu")
    costs = torch.empty(int(room.sum()), dtype=torch.float64, device="cpu")
    radii = torch.empty(len(centres), dtype=torch.float64, device="cpu")
    native.call(
        f"find_paths_{rows.costs.dtype}", rows.indptr, rows.heads, rows.costs, rows.original, rows.num_nodes,
        rule.longest, float(rule.degree_ratio), float(rule.path_ratio), centres.astype(np.int32), len(centres),
        starts, nodes, costs, radii,
    )  # fmt: skip
    lengths = []
    of_nodes, of_costs = torch.split(nodes, (room * widths).tolist()), torch.split(costs, room.tolist())
    for row, width, wide, narrow in zip(starts, widths.tolist(), of_nodes, of_costs, strict=True):
        count = int(row[-1])
        paths = wide[: count * width].view(count, width)
        lengths.append(Paths(offsets=torch.from_numpy(row), nodes=paths, costs=narrow[:count]))
    return FoundPaths(lengths=tuple(lengths), radii=radii)


def _rooms(degrees: NDArray[np.int64], num_nodes: int, rule: PathRule) -> NDArray[np.int64]:
    """Where the room for every centre's paths of each length begins, and the last ends: [lengths, centres + 1].

    A centre has at most as many nodes of depth 1 as entries, keeps `degree_ratio` of that of each other length, and has
    one path at most to every other node."""
    starts = np.zeros((rule.longest - 1, len(degrees) + 1), np.int64)
    np.cumsum(np.minimum(degrees, num_nodes) + 1, out=starts[0, 1:])
    sampled = np.minimum(degrees * float(rule.degree_ratio), num_nodes).astype(np.int64)
    for row in starts[1:]:
        np.cumsum(sampled + 1, out=row[1:])
    return starts


def changed_costs_reach(
    indptr: Tensor, indices: Tensor, old: Tensor, now: Tensor, radii: Tensor, first: int = 0
) -> NDArray[np.bool_]:
    """Which of the centres `first`, `first` + 1, ... have paths that may differ when costs `old` become `now`.

    `indptr`, `indices` as for `sort_rows`, the same for both; `old`, `now` [edges] of one type; `radii` float64
    [centres], found with `old`. The others have the same paths and radii under `now`, to the bit. Returns [centres].
    Raises InputError for an index that is no node."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    check.below("indices", indices, len(indptr) - 1)  # before it is made narrower
    indices = indices.to(torch.int32)
    old = check.features("old", old, (len(indices),))
    now = check.features("now", now, (len(indices),), like=old)
    num_nodes = len(indptr) - 1
    margin = 1 + num_nodes * 2.0**-51
    limit = float(radii.max()) * margin if len(radii) else 0.0
    back = transpose(indptr, indices, num_nodes)
    if native.usable(indptr, old, now):
        reach = torch.empty(num_nodes, dtype=torch.float64, device="cpu")
        native.call(
            native.typed("reach_changes", old), indptr, old, now, num_nodes,
            back.indptr, back.indices, back.edges, limit, reach,
        )  # fmt: skip
    else:
        reach = _reach_changes_python(indptr, old, now, back.indptr, back.indices, back.edges)
    touched: NDArray[np.bool_] = (reach[first : first + len(radii)] <= radii * margin).numpy()
    return touched


def _find_paths_python(rows: CostRows, centres: list[int], rule: PathRule) -> FoundPaths:
    """The same by whole trees: slow, and as plain as can be."""
    kept: list[list[list[_Branch]]] = [[] for _ in rule.lengths]
    radii = []
    for centre in centres:
        tree = _tree(rows, centre)
        by_depth = [[branch for branch in tree.values() if len(branch.path) == depth] for depth in range(rule.longest)]
        quota = int(len(by_depth[1]) * rule.degree_ratio)
        for length, paths in zip(rule.lengths, kept, strict=True):
            count = len(by_depth[length - 1])
            most = count if length == 2 else min(quota, int(count * rule.path_ratio))
            itself = _Branch(cost=0.0, path=(centre,) * (length - 1))
            paths.append([*by_depth[length - 1][:most], itself])
        radii.append(_radius(rows, tree, by_depth, quota, rule))
    return FoundPaths(
        lengths=tuple(_ragged(paths, length) for length, paths in zip(rule.lengths, kept, strict=True)),
        radii=torch.tensor(radii, dtype=torch.float64),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Branch:
    cost: float
    path: tuple[int, ...]  # without the centre


def _tree(rows: CostRows, centre: int) -> dict[int, _Branch]:
    """Every node that can be reached, in the order of settling."""
    tree: dict[int, _Branch] = {}
    original = rows.original
    candidates = [(0.0, int(original[centre]), -1, centre, -1)]
    while candidates:
        cost, _, _, node, before = heapq.heappop(candidates)
        if node in tree:
            continue
        tree[node] = _Branch(cost=cost, path=(*tree[before].path, node) if before >= 0 else ())
        for entry in range(rows.indptr[node], rows.indptr[node + 1]):
            head = int(rows.heads[entry])
            further = cost + float(rows.costs[entry])
            heapq.heappush(candidates, (further, int(original[head]), int(original[node]), head, node))
    return tree


def _radius(
    rows: CostRows, tree: dict[int, _Branch], by_depth: list[list[_Branch]], quota: int, rule: PathRule
) -> float:
    farthest = []  # for each depth, the greatest cost of what its nodes and those above lead to
    for depth in range(rule.longest - 1):
        nodes = [node for node, branch in tree.items() if len(branch.path) <= depth]
        heads = [int(head) for node in nodes for head in rows.heads[rows.indptr[node] : rows.indptr[node + 1]]]
        farthest.append(max((tree[head].cost for head in heads), default=0.0))
    radius = farthest[0]
    for depth in range(2, rule.longest):
        costs = [branch.cost for branch in by_depth[depth]]
        enough = next((m for m in range(len(costs) + 1) if int(m * rule.path_ratio) >= quota), None)
        if enough != 0:
            radius = max(radius, farthest[depth - 1] if enough is None else costs[enough - 1])
    return radius


def _ragged(rows: list[list[_Branch]], length: int) -> Paths:
    flat = [branch for row in rows for branch in row]
    return Paths(
        offsets=torch.tensor([0, *map(len, rows)]).cumsum(0),
        nodes=torch.tensor([branch.path for branch in flat], dtype=torch.int32).view(-1, length - 1),
        costs=torch.tensor([branch.cost for branch in flat], dtype=torch.float64),
    )


def _reach_changes_python(
    indptr: Tensor, old: Tensor, now: Tensor, back_indptr: Tensor, back_tails: Tensor, back_edges: Tensor
) -> Tensor:
    changed = old != now
    tails = torch.repeat_interleave(torch.arange(len(indptr) - 1), indptr.diff())[changed]
    reach: dict[int, float] = {}
    candidates = list(zip(torch.minimum(old, now)[changed].tolist(), tails.tolist(), strict=True))
    heapq.heapify(candidates)
    while candidates:
        cost, node = heapq.heappop(candidates)
        if node in reach:
            continue
        reach[node] = cost
        for entry in range(int(back_indptr[node]), int(back_indptr[node + 1])):
            edge = int(back_edges[entry])
            if not changed[edge]:
                heapq.heappush(candidates, (cost + float(old[edge]), int(back_tails[entry])))
    return torch.tensor([reach.get(node, math.inf) for node in range(len(indptr) - 1)], dtype=torch.float64)

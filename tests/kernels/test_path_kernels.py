"""Cheapest paths: networkx's distances with our rule for ties, the same bits in both implementations, and refreshes."""

import itertools
import math

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.errors import InputError
from framework.kernels import native
from framework.kernels.csr import CSR, build_csr
from framework.kernels.paths import FoundPaths, PathRule, changed_costs_reach, find_paths, sort_rows
from framework.memory import PeakMemory

EVERYTHING = PathRule(longest=5, degree_ratio=1e6)
"""All of the tree's paths, of every length."""


def graph_of(seed: int, nodes: int, edges: int) -> CSR:
    """Directed edges with self-loops and duplicates among a part of the nodes; the others are isolated."""
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.rand(2, edges, generator=generator) ** 1.5 * nodes * 0.9).long()
    return build_csr(ends[0], ends[1].to(torch.int32), nodes)


def tied_costs(seed: int, edges: int, levels: int = 3) -> Tensor:
    """Of `levels` values, whose sums are exact in any order."""
    return torch.randint(1, levels + 1, (edges,), generator=torch.Generator().manual_seed(seed)).double() / 4


def random_costs(seed: int, edges: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(edges, generator=torch.Generator().manual_seed(seed), dtype=dtype).clamp(min=1e-9)


def shuffled_ids(seed: int, nodes: int) -> Tensor:
    return torch.randperm(nodes, generator=torch.Generator().manual_seed(seed)) * 7 + 3


def search(
    graph: CSR, costs: Tensor, rule: PathRule, original: Tensor | None = None, centres: Tensor | None = None
) -> FoundPaths:
    rows = sort_rows(graph.indptr, graph.indices, costs, original)
    return find_paths(rows, np.arange(rows.num_nodes) if centres is None else centres.numpy(), rule)


def as_lists(found: FoundPaths) -> list[list[list[tuple[float, tuple[int, ...]]]]]:
    """By length and centre: (cost, nodes) of every path."""
    lists = []
    for paths in found.lengths:
        flat = [(cost, tuple(nodes)) for cost, nodes in zip(paths.costs.tolist(), paths.nodes.tolist(), strict=True)]
        offsets = paths.offsets.tolist()
        lists.append([flat[begin:end] for begin, end in itertools.pairwise(offsets)])
    return lists


def assert_same(one: FoundPaths, other: FoundPaths) -> None:
    assert len(one.lengths) == len(other.lengths)
    for ours, theirs in zip(one.lengths, other.lengths, strict=True):
        for name in ("offsets", "nodes", "costs"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(one.radii, other.radii)


def rows_of(found: FoundPaths, centres: Tensor) -> FoundPaths:
    """What was found for `centres`, a mask, of all."""
    lengths = []
    for paths in found.lengths:
        counts = paths.offsets.diff()
        kept = torch.repeat_interleave(centres, counts)
        counts = counts[centres]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        lengths.append(type(paths)(offsets=offsets, nodes=paths.nodes[kept], costs=paths.costs[kept]))
    return FoundPaths(lengths=tuple(lengths), radii=found.radii[centres])


def expected_by_networkx(
    graph: CSR, costs: Tensor, rule: PathRule, original: Tensor
) -> list[list[list[tuple[float, tuple[int, ...]]]]]:
    """By networkx's distances and tight predecessors; of these the one of least original id is the tree's."""
    nodes = len(graph.indptr) - 1
    net = networkx.DiGraph()
    net.add_nodes_from(range(nodes))
    tails = torch.repeat_interleave(torch.arange(nodes), graph.indptr.diff()).tolist()
    for tail, head, cost in zip(tails, graph.indices.tolist(), costs.tolist(), strict=True):
        known = net.get_edge_data(tail, head, {"weight": math.inf})["weight"]
        net.add_edge(tail, head, weight=min(cost, known))
    keys = original.tolist()
    lists: list[list[list[tuple[float, tuple[int, ...]]]]] = [[] for _ in rule.lengths]
    for centre in range(nodes):
        before, distance = networkx.dijkstra_predecessor_and_distance(net, centre)
        path: dict[int, tuple[int, ...]] = {centre: ()}
        for node in sorted(distance, key=lambda node: (distance[node], keys[node])):
            if node != centre:
                path[node] = (*path[min(before[node], key=keys.__getitem__)], node)
        for length, rows in zip(rule.lengths, lists, strict=True):
            row = [(distance[node], path[node]) for node in path if len(path[node]) == length - 1]
            if length > 2:
                degree = len(lists[0][centre]) - 1
                row = row[: int(min(degree * rule.degree_ratio, len(row) * rule.path_ratio))]
            rows.append([*row, (0.0, (centre,) * (length - 1))])
    return lists


RULES = [
    EVERYTHING,
    PathRule(),
    PathRule(longest=2),
    PathRule(longest=4, degree_ratio=1.0, path_ratio=0.5),
    PathRule(longest=5, degree_ratio=0.7, path_ratio=0.3),
    PathRule(longest=5, degree_ratio=0.0),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("nodes", "edges"), [(12, 20), (40, 90), (40, 400), (60, 60)])
def test_paths_are_those_of_networkx(backend, nodes, edges, rule):
    """Many ties, isolated nodes, disconnected parts, directed costs, duplicates and self-loops."""
    graph = graph_of(nodes + edges, nodes, edges)
    costs, original = tied_costs(edges, edges), shuffled_ids(nodes, nodes)
    assert as_lists(search(graph, costs, rule, original)) == expected_by_networkx(graph, costs, rule, original)


def test_paths_without_ties_are_those_of_networkx(backend):
    graph = graph_of(5, 50, 200)
    for costs in (random_costs(1, 200), random_costs(2, 200, torch.float32)):
        expected = expected_by_networkx(graph, costs.double(), EVERYTHING, torch.arange(50))
        assert as_lists(search(graph, costs, EVERYTHING)) == expected


AWKWARD = st.sampled_from([0.0, 1e-30, 1e-9, 0.25, 0.5, 1.0, 1.0 + 2**-20, 1e20])
"""Costs that tie, that are nothing, and that a sum does not notice."""


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_both_ways_find_the_same_bits(data):
    if not native.available():
        pytest.skip("no compiled kernels here")
    nodes = data.draw(st.integers(1, 12))
    node = st.integers(0, nodes - 1)
    edges = data.draw(st.lists(st.tuples(node, node, AWKWARD), max_size=40))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    rule = PathRule(
        longest=data.draw(st.integers(2, 5)),
        degree_ratio=data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        path_ratio=data.draw(st.sampled_from([0.0, 0.4, 1.0])),
    )
    columns = list(zip(*edges, strict=True)) or [(), (), ()]
    graph = build_csr(torch.tensor(columns[0], dtype=torch.int64), torch.tensor(columns[1], dtype=torch.int32), nodes)
    costs = torch.tensor(columns[2], dtype=dtype)[graph.edges]
    original = torch.tensor(data.draw(st.permutations(range(nodes))))
    ours = search(graph, costs, rule, original)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDYARD_KERNELS", "torch")
        assert_same(ours, search(graph, costs, rule, original))


def test_a_detour_that_is_cheaper_is_the_path(backend):
    """0 -> 1 costs more than 0 -> 2 -> 1; 4 is two edges away, but three are cheaper: it is too deep to be kept."""
    edges = [(0, 1, 1.0), (0, 2, 0.25), (2, 1, 0.25), (2, 3, 0.25), (3, 4, 0.25), (2, 4, 1.0)]
    tails, heads, costs = (torch.tensor(column) for column in zip(*edges, strict=True))
    graph = build_csr(tails, heads, 5)
    found = search(graph, costs.double()[graph.edges], PathRule(degree_ratio=10.0))
    two, three = as_lists(found)
    assert two[0] == [(0.25, (2,)), (0.0, (0,))]
    assert three[0] == [(0.5, (2, 1)), (0.5, (2, 3)), (0.0, (0, 0))]


def test_ties_go_to_the_least_original_id(backend):
    """3 is reached at the same cost over 1 and over 2, whatever they are called in this numbering."""
    graph = build_csr(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 3, 3, 4]), 5)
    costs = torch.full((5,), 0.5, dtype=torch.float64)
    everything = PathRule(degree_ratio=5.0)
    assert as_lists(search(graph, costs, everything))[1][0] == [(1.0, (1, 3)), (1.0, (2, 4)), (0.0, (0, 0))]
    original = torch.tensor([0, 9, 2, 8, 1])
    assert as_lists(search(graph, costs, everything, original))[1][0] == [(1.0, (2, 4)), (1.0, (2, 3)), (0.0, (0, 0))]
    assert as_lists(search(graph, costs, PathRule(), original))[1][0] == [(1.0, (2, 4)), (0.0, (0, 0))]


def test_what_is_kept_follows_the_degree_in_the_tree(backend):
    """Half of one neighbour is no path; of two, one; a neighbour that a detour undercuts does not count."""
    chain = build_csr(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 2, 1]), 3)
    kept = search(chain, torch.full((4,), 0.5, dtype=torch.float64), PathRule()).lengths[1].offsets.diff()
    assert kept.tolist() == [1, 1, 1]
    star = build_csr(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 4, 3, 4]), 5)
    costs = torch.tensor([0.25, 0.5, 1.0, 0.25, 0.25], dtype=torch.float64)
    two, three = as_lists(search(star, costs, PathRule()))
    assert [nodes for _, nodes in two[0]] == [(1,), (2,), (0,)]
    assert [nodes for _, nodes in three[0]] == [(1, 3), (0, 0)]


def test_isolated_nodes_have_the_path_to_themselves(backend):
    graph = build_csr(torch.tensor([1, 3]), torch.tensor([2, 3]), 4)
    found = search(graph, torch.ones(2, dtype=torch.float64), EVERYTHING)
    for length, rows in enumerate(as_lists(found), 2):
        for centre in (0, 2, 3):
            assert rows[centre] == [(0.0, (centre,) * (length - 1))]
    assert found.radii.tolist() == [0.0, 1.0, 0.0, 0.0]
    nothing = search(
        build_csr(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int32), 0), costs_of([]), EVERYTHING
    )
    assert [len(paths.costs) for paths in nothing.lengths] == [0] * 4


def costs_of(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("levels", [1, 1000])
def test_numbering_and_the_order_of_rows_do_not_show(backend, levels):
    nodes, edges = 50, 300
    graph, rule = graph_of(3, nodes, edges), PathRule(longest=4, degree_ratio=1.0)
    costs, original = tied_costs(4, edges, levels), shuffled_ids(5, nodes)
    expected = as_lists(search(graph, costs, rule, original))
    number = torch.randperm(nodes, generator=torch.Generator().manual_seed(6))  # the new number of each node
    tails = torch.repeat_interleave(torch.arange(nodes), graph.indptr.diff())
    shuffled = torch.randperm(edges, generator=torch.Generator().manual_seed(7))
    moved = build_csr(
        number[tails][shuffled], number[graph.indices.long()][shuffled], nodes, order=torch.randperm(nodes)
    )
    renamed = torch.empty_like(original)
    renamed[number] = original
    found = as_lists(search(moved, costs[shuffled][moved.edges], rule, renamed))
    back = torch.argsort(number).tolist()
    for rows, wanted in zip(found, expected, strict=True):
        for centre in range(nodes):
            ours = [(cost, tuple(back[node] for node in path)) for cost, path in rows[int(number[centre])]]
            assert ours == wanted[centre]


def test_threads_and_splits_of_centres_do_not_show():
    nodes = 3000
    graph, rule = graph_of(8, nodes, 12_000), PathRule(longest=4)
    costs, original = tied_costs(9, 12_000, 50), shuffled_ids(10, nodes)
    whole = search(graph, costs, rule, original)
    try:
        torch.set_num_threads(3)
        assert_same(whole, search(graph, costs, rule, original))
    finally:
        torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(11)
    chosen = torch.rand(nodes, generator=generator) < 0.3
    centres = chosen.nonzero().flatten()
    assert_same(rows_of(whole, chosen), search(graph, costs, rule, original, centres))


@pytest.mark.parametrize(
    "rule", [PathRule(), PathRule(longest=4, degree_ratio=1.0, path_ratio=0.5), EVERYTHING], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_centres_that_a_change_can_reach_need_a_new_search(backend, rule, dtype):
    """Several rounds, from one changed edge to a tenth of them, on sparse graphs with ties and without."""
    nodes, edges = 120, 240
    graph = graph_of(12, nodes, edges)
    spared = changed = 0
    for levels in (4, 10**6):
        costs = tied_costs(13, edges, levels).to(dtype)
        before = search(graph, costs, rule)
        for round_ in range(6):
            generator = torch.Generator().manual_seed(round_)
            chosen = torch.randperm(edges, generator=generator)[: 1 + round_ * edges // 50]
            now = costs.clone()
            now[chosen] = tied_costs(14 + round_, len(chosen), levels).to(dtype)
            touched = torch.from_numpy(changed_costs_reach(graph.indptr, graph.indices, costs, now, before.radii))
            after = search(graph, now, rule)
            assert_same(rows_of(before, ~touched), rows_of(after, ~touched))
            spared += int((~touched).sum())
            changed += as_lists(before) != as_lists(after)
            costs, before = now, after
    assert spared > 0.2 * 12 * nodes
    assert changed > 6


def test_both_ways_see_the_same_reach(monkeypatch):
    graph, costs = graph_of(20, 200, 500), random_costs(21, 500)
    found = search(graph, costs, PathRule())
    now = torch.where(random_costs(22, 500) < 0.02, random_costs(23, 500), costs)
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = changed_costs_reach(graph.indptr, graph.indices, costs, now, found.radii)
    some = changed_costs_reach(graph.indptr, graph.indices, costs, now, found.radii[50:90], first=50)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    np.testing.assert_array_equal(ours, changed_costs_reach(graph.indptr, graph.indices, costs, now, found.radii))
    np.testing.assert_array_equal(some, ours[50:90])
    assert 0 < ours.sum() < 200
    assert not changed_costs_reach(graph.indptr, graph.indices, costs, costs, found.radii).any()


def test_hubs_do_not_make_memory_grow_with_pairs():
    """Two hubs and 4,000 leaves: 16 million pairs are two edges apart, 12,000 paths are kept."""
    if not native.available():
        pytest.skip("no compiled kernels here")
    leaves = torch.arange(2, 4002)
    hubs = torch.tensor([0, 1]).repeat_interleave(len(leaves))
    ends = torch.cat([hubs, leaves.repeat(2)]), torch.cat([leaves.repeat(2), hubs])
    graph = build_csr(*ends, 4002)
    costs = 0.5 + random_costs(30, len(graph.indices)) / 2  # no detour is cheaper than an edge
    search(graph, costs, PathRule(), centres=torch.arange(10))
    memory = PeakMemory()
    found = search(graph, costs, PathRule())
    assert memory.added() < 2**23
    entries, nodes = len(graph.indices), 4002
    assert sum(len(paths.costs) for paths in found.lengths) <= 1.5 * entries + 2 * nodes
    assert len(found.lengths[1].costs) > nodes + 3000


def test_what_cannot_be_searched_is_refused(backend):
    indptr, indices = torch.tensor([0, 2, 2]), torch.tensor([0, 1])
    for cost in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=f"costs holds {cost} at edge 1; expected finite numbers of at least 0"):
            sort_rows(indptr, indices, costs_of([1.0, cost]))
    with pytest.raises(InputError, match="indices holds 2; expected ids from 0 to 1"):
        sort_rows(indptr, torch.tensor([0, 2]), costs_of([1.0, 1.0]))
    with pytest.raises(InputError, match="indices holds 4294967297; expected ids from 0 to 1"):  # 1, in 32 bits
        sort_rows(indptr, torch.tensor([0, 2**32 + 1]), costs_of([1.0, 1.0]))
    both = costs_of([1.0, 1.0])
    with pytest.raises(InputError, match="indices holds 4294967297; expected ids from 0 to 1"):
        changed_costs_reach(indptr, torch.tensor([0, 2**32 + 1]), both, both, torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InputError, match="original has 3 entries; expected 2"):
        sort_rows(indptr, indices, costs_of([1.0, 1.0]), torch.arange(3))
    rows = sort_rows(indptr, indices, costs_of([1.0, 1.0]))
    with pytest.raises(InputError, match="centres holds 2; expected ids from 0 to 1"):
        find_paths(rows, np.array([0, 2]), PathRule())
    with pytest.raises(InputError, match="longest is 6; expected a number of nodes from 2 to 5"):
        PathRule(longest=6)
    with pytest.raises(InputError, match="degree_ratio is -1.0; expected a number of at least 0"):
        PathRule(degree_ratio=-1.0)
    with pytest.raises(InputError, match="path_ratio is 1.1; expected a number from 0 to 1"):
        PathRule(path_ratio=1.1)

"""The C++ of the partitioners against its NumPy twins, and both against the formulas written out."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from framework.errors import InputError
from framework.kernels import native
from framework.kernels import partition as kernels
from framework.kernels.partition import EdgeState, Rule, Scan

NODES, EDGES, PARTS = 60, 700, 5

needs_native = pytest.mark.skipif(not native.available(), reason="no compiled kernels")


def edges(seed: int, *, symmetric: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A random multigraph with self-loops, duplicates and isolated nodes."""
    draw = np.random.default_rng(seed)
    source, target = draw.integers(0, NODES - 10, EDGES), draw.zipf(1.6, EDGES) % (NODES - 10)
    if symmetric:
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    return source.astype(np.int64), target.astype(np.int64)


def rows(source: NDArray[np.int64], target: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Both directions of the edges but self-loops, as CSR."""
    proper = source != target
    node = np.concatenate([source[proper], target[proper]])
    near = np.concatenate([target[proper], source[proper]])
    order = np.argsort(node, kind="stable")
    counts = np.bincount(node, minlength=NODES)
    return np.concatenate([[0], np.cumsum(counts)]), near[order].astype(np.int32)


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways a kernel is run."""
    if request.param == "torch":
        monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    return str(request.param)


def test_scan_counts_degrees_and_sees_symmetry(either: str) -> None:
    source, target = edges(0)
    scan = Scan.empty(NODES)
    for start in range(0, EDGES, 100):
        kernels.scan_edges(source[start : start + 100], target[start : start + 100], scan)
    loop = source == target
    assert np.array_equal(scan.out_degrees, np.bincount(source[~loop], minlength=NODES))
    assert np.array_equal(scan.in_degrees, np.bincount(target[~loop], minlength=NODES))
    assert np.array_equal(scan.loops, np.bincount(source[loop], minlength=NODES))
    assert scan.asymmetry[0] != 0

    both = Scan.empty(NODES)
    kernels.scan_edges(*edges(0, symmetric=True), both)
    assert both.asymmetry[0] == 0


@needs_native
def test_scan_hashes_the_same_bits_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    for setting in ("", "torch"):
        monkeypatch.setenv("SHARDYARD_KERNELS", setting)
        scans.append(Scan.empty(NODES))
        kernels.scan_edges(*edges(1), scans[-1])
    assert scans[0].asymmetry[0] == scans[1].asymmetry[0]


@pytest.mark.parametrize("both", [False, True])
def test_buckets_then_rows_are_the_adjacency(either: str, both: bool) -> None:
    source, target = edges(2)
    window = (np.arange(NODES) // 20).astype(np.int32)
    ends, pairs = kernels.bucket_edges(source, target, window, 3, both=both)
    proper = source != target
    dense = coo_matrix((np.ones(proper.sum()), (source[proper], target[proper])), shape=(NODES, NODES)).toarray()
    if both:
        dense = dense + dense.T
    begins = np.concatenate([[0], ends[:-1]])
    for number in range(3):
        of_window = pairs[begins[number] : ends[number]]
        assert np.array_equal(np.unique(window[of_window[:, 0]]), [number])
        counts = dense[20 * number : 20 * number + 20].sum(axis=1).astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        neighbors = np.empty(indptr[-1], np.int32)
        following = indptr[:-1].copy()
        assert kernels.fill_rows(of_window, 20 * number, following, indptr[1:], neighbors) is None
        assert np.array_equal(following, indptr[1:])
        for row in range(20):
            found = np.bincount(neighbors[indptr[row] : indptr[row + 1]], minlength=NODES)
            assert np.array_equal(found, dense[20 * number + row])


def test_a_pair_whose_row_is_full_is_told(either: str) -> None:
    pairs = np.array([[7, 1], [8, 2], [7, 3], [7, 4], [8, 5]], np.int32)
    neighbors = np.full(4, -1, np.int32)
    assert kernels.fill_rows(pairs, 7, np.array([0, 2]), np.array([2, 3]), neighbors) == 3
    assert neighbors[3] == -1


@needs_native
@pytest.mark.parametrize("both", [False, True])
def test_buckets_are_the_same_in_both(both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = edges(3)
    window = (np.arange(NODES) // 7).astype(np.int32)
    native_ends, native_pairs = kernels.bucket_edges(source, target, window, 9, both=both)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    twin_ends, twin_pairs = kernels.bucket_edges(source, target, window, 9, both=both)
    assert np.array_equal(native_ends, twin_ends)
    assert np.array_equal(native_pairs, twin_pairs)


@pytest.mark.parametrize("bad", [(-1, 0), (0, NODES), (NODES, 3)])
def test_an_id_that_is_no_node_is_refused(either: str, bad: tuple[int, int]) -> None:
    source, target = (np.array([1, end, 2], np.int64) for end in bad)
    window = np.zeros(NODES, np.int32)
    with pytest.raises(InputError, match=f"{bad[0]} -> {bad[1]}; expected node ids from 0 to 59"):
        kernels.scan_edges(source, target, Scan.empty(NODES))
    with pytest.raises(InputError, match=f"{bad[0]} -> {bad[1]}"):
        kernels.bucket_edges(source, target, window, 1, both=True)
    with pytest.raises(InputError, match=f"{bad[0]} -> {bad[1]}"):
        kernels.assign_edges(source, target, EdgeState.empty(NODES, 2), balance=1.0, capacity=9)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (np.zeros(4, np.int64), np.ones(3, np.int64), r"sources int64 \[4\] and targets int64 \[3\]; expected int64"),
        (np.zeros(4, np.int32), np.ones(4, np.int32), r"sources int32 \[4\] and targets int32 \[4\]; expected int64"),
        (np.zeros((2, 2), np.int64), np.ones((2, 2), np.int64), r"sources int64 \[2, 2\] and targets int64 \[2, 2\]"),
    ],
)
def test_ends_that_do_not_fit_together_are_refused(
    either: str, source: NDArray[np.int64], target: NDArray[np.int64], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        kernels.scan_edges(source, target, Scan.empty(NODES))
    with pytest.raises(InputError, match=said):
        kernels.bucket_edges(source, target, np.zeros(NODES, np.int32), 1, both=True)
    with pytest.raises(InputError, match=said):
        kernels.assign_edges(source, target, EdgeState.empty(NODES, 2), balance=1.0, capacity=9)


RULES = [
    Rule(kind="ldg", capacity=16),
    Rule(kind="fennel", capacity=16, mean_load=12.0, mean_weight=1.3, strength=7.5, exponent=0.5),
    Rule(kind="fennel", capacity=1000, mean_load=12.0, mean_weight=1.3, strength=0.2, exponent=0.37),
    Rule(kind="spinner", capacity=16),
]


@needs_native
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start", ["none", "drawn"])
@pytest.mark.parametrize("weighted", [False, True])
def test_windows_are_assigned_alike_in_both(
    rule: Rule, start: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    indptr, neighbors = rows(*edges(4))
    draw = np.random.default_rng(5)
    weights = draw.integers(0, 4, NODES) if weighted else np.ones(NODES, np.int64)
    begin = np.full(NODES, -1, np.int32) if start == "none" else draw.integers(0, PARTS, NODES).astype(np.int32)
    answers = []
    for setting in ("", "torch"):
        monkeypatch.setenv("SHARDYARD_KERNELS", setting)
        owners = begin.copy()
        loads = np.zeros(PARTS, np.int64)
        np.add.at(loads, begin[begin >= 0], weights[begin >= 0])
        log = []
        for _ in range(3):  # two windows a pass
            log.append(kernels.assign_window(rule, 0, indptr[:31], neighbors, weights, owners, loads))
            second = indptr[30:] - indptr[30]
            log.append(kernels.assign_window(rule, 30, second, neighbors[indptr[30] :], weights, owners, loads))
        assert np.array_equal(loads, np.bincount(owners, weights, minlength=PARTS))
        answers.append((owners.tolist(), log))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_node_goes_where_the_formula_says(either: str, rule: Rule) -> None:
    indptr, neighbors = rows(*edges(6))
    weights = np.ones(NODES, np.int64)
    owners, loads = np.full(NODES, -1, np.int32), np.zeros(PARTS, np.int64)
    kernels.assign_window(rule, 0, indptr, neighbors, weights, owners, loads)

    expected: list[int] = []
    for node in range(NODES):
        near = [expected[other] for other in neighbors[indptr[node] : indptr[node + 1]] if other < node]
        full = [expected.count(part) for part in range(PARTS)]
        best = min(range(PARTS), key=lambda part: full[part])
        options = [part for part in range(PARTS) if full[part] + 1 <= rule.capacity or part == best]

        def score(part: int, near: list[int] = near, full: list[int] = full, node: int = node) -> float:
            if rule.kind == "ldg":
                return near.count(part) * (1 - full[part] / rule.capacity)
            if rule.kind == "fennel":
                cost = rule.strength * math.pow(full[part] / rule.mean_load, rule.exponent)
                return near.count(part) - cost / rule.mean_weight
            return near.count(part) - float(indptr[node + 1] - indptr[node]) * full[part] / rule.capacity

        expected.append(max(options, key=lambda part: (round(score(part), 9), -full[part], -part)))
    assert owners.tolist() == expected


def test_a_node_that_fits_nowhere_goes_to_the_lightest_part(either: str) -> None:
    owners, loads = np.array([-1, 0, 1], np.int32), np.array([4, 3], np.int64)
    indptr, neighbors = np.array([0, 1], np.int64), np.array([1], np.int32)
    weights = np.array([9, 4, 3], np.int64)
    rule = Rule(kind="ldg", capacity=5)
    assert kernels.assign_window(rule, 0, indptr, neighbors, weights, owners, loads) == (1, 0)
    assert (owners[0], loads.tolist()) == (1, [4, 12])


@needs_native
@pytest.mark.parametrize(("parts", "capacity"), [(3, 10**6), (5, EDGES // 5 + 1), (70, 12)])
def test_edges_are_assigned_alike_in_both(parts: int, capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = edges(7)
    answers = []
    for setting in ("", "torch"):
        monkeypatch.setenv("SHARDYARD_KERNELS", setting)
        state = EdgeState.empty(NODES, parts)
        found = [
            kernels.assign_edges(source[part], target[part], state, balance=1.0, capacity=capacity)
            for part in (slice(0, 300), slice(300, None))
        ]
        answers.append((np.concatenate(found), state))
    (ours, our_state), (twins, twin_state) = answers
    assert np.array_equal(ours, twins)
    assert np.array_equal(our_state.replicas, twin_state.replicas)
    assert np.array_equal(our_state.degrees, twin_state.degrees)
    assert our_state.loads.max() <= capacity


def test_edges_go_where_hdrf_says(either: str) -> None:
    source, target = edges(8)
    answers = kernels.assign_edges(source, target, EdgeState.empty(NODES, PARTS), balance=1.5, capacity=10**6)
    degree, on, load = [0] * NODES, [set() for _ in range(NODES)], [0] * PARTS  # type: ignore[var-annotated]
    for s, t, answer in zip(source.tolist(), target.tolist(), answers.tolist(), strict=True):
        degree[s] += 1
        degree[t] += 1
        theta = degree[s] / (degree[s] + degree[t])

        def score(part: int, s: int = s, t: int = t, theta: float = theta) -> float:
            replication = (part in on[s]) * (1 + 1 - theta) + (part in on[t]) * (1 + theta)
            return replication + 1.5 * (max(load) - load[part]) / (1 + max(load) - min(load))

        best = max(range(PARTS), key=lambda part: (round(score(part), 9), -load[part], -part))
        assert answer == best
        load[best] += 1
        on[s].add(best)
        on[t].add(best)

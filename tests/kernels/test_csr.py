"""CSR, transposes and degrees against SciPy and NetworkX."""

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch

from framework.errors import InputError
from framework.kernels.aggregate import spmm
from framework.kernels.attention import attention, edge_softmax
from framework.kernels.csr import build_csr, degrees, transpose
from framework.kernels.geometric import geometric_sum
from framework.kernels.path_pool import path_attention
from framework.kernels.paths import sort_rows
from framework.kernels.sample import sample_neighbors
from framework.random import Key


def test_build_csr_equals_scipy_and_sorts_by_source_then_position(backend, case):
    matrix = build_csr(case.targets, case.sources, case.num_targets)
    assert matrix.indices.dtype == case.sources.dtype
    expected = sorted(range(len(case.targets)), key=lambda i: (case.targets[i], case.sources[i], i))
    assert matrix.edges.tolist() == expected
    assert torch.equal(matrix.indices, case.sources[matrix.edges])
    if case.num_targets and case.num_sources:
        ones = np.ones(len(case.targets))
        oracle = scipy.sparse.coo_matrix((ones, (case.targets, case.sources)), (case.num_targets, case.num_sources))
        counts = np.bincount(case.targets, minlength=case.num_targets)
        np.testing.assert_array_equal(matrix.indptr.diff(), counts)
        ours = scipy.sparse.csr_matrix((ones, matrix.indices, matrix.indptr), oracle.shape)
        np.testing.assert_array_equal(ours.toarray(), oracle.toarray())


def test_build_csr_follows_the_order_given(backend, case):
    order = torch.randperm(case.num_sources, generator=torch.Generator().manual_seed(0)) * 2**33
    matrix = build_csr(case.targets, case.sources, case.num_targets, order=order)
    rank = order[case.sources.long()]
    expected = sorted(range(len(case.targets)), key=lambda i: (case.targets[i], rank[i], i))
    assert matrix.edges.tolist() == expected


def test_transpose_equals_scipy(backend, case):
    back = transpose(case.matrix.indptr, case.matrix.indices, case.num_sources)
    assert back.indices.dtype == torch.int32
    positions = np.arange(1, len(case.targets) + 1)
    shape = (case.num_targets, case.num_sources)
    rows = np.repeat(np.arange(case.num_targets), case.matrix.indptr.diff())
    by_column = np.lexsort((positions, case.matrix.indices.numpy()))
    np.testing.assert_array_equal(back.edges, by_column)
    np.testing.assert_array_equal(back.indices, rows[by_column])
    if all(shape):
        oracle = scipy.sparse.csr_matrix((positions, case.matrix.indices, case.matrix.indptr), shape).T.tocsr()
        ours = scipy.sparse.csr_matrix((back.edges.numpy() + 1, back.indices, back.indptr), shape[::-1])
        np.testing.assert_array_equal(ours.toarray(), oracle.toarray())


def test_degrees_and_neighbours_equal_networkx(backend, square):
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(square.num_targets))
    graph.add_edges_from(zip(square.sources.tolist(), square.targets.tolist(), strict=True))
    counts = degrees(square.targets, square.num_targets)
    assert counts.tolist() == [graph.in_degree(node) for node in range(square.num_targets)]
    assert degrees(square.sources, square.num_sources).tolist() == [
        graph.out_degree(node) for node in range(square.num_sources)
    ]
    matrix = build_csr(square.targets, square.sources, square.num_targets)
    for node in range(square.num_targets):
        neighbours = matrix.indices[matrix.indptr[node] : matrix.indptr[node + 1]].tolist()
        assert neighbours == sorted(source for source, _ in graph.in_edges(node))


def test_the_number_of_threads_changes_nothing():
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(0, 300, (200_000,), generator=generator)
    sources = torch.randint(0, 400, (200_000,), generator=generator)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        matrix = build_csr(targets, sources, 300)
        back = transpose(matrix.indptr, matrix.indices, 400)
        results.append((matrix.indptr, matrix.indices, matrix.edges, back.indptr, back.indices, back.edges))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("bad", [-1, 3])
def test_ids_outside_are_refused(backend, bad):
    ids = torch.tensor([0, 2, bad])
    with pytest.raises(InputError, match=f"targets holds {bad}; expected ids from 0 to 2"):
        build_csr(ids, torch.zeros(3, dtype=torch.int64), 3)
    with pytest.raises(InputError, match="sources holds"):
        build_csr(torch.zeros(3, dtype=torch.int64), ids, 3, order=torch.arange(3))
    with pytest.raises(InputError, match="indices holds"):
        transpose(torch.tensor([0, 3]), ids, 3)
    with pytest.raises(InputError, match="ids holds"):
        degrees(ids, 3)


def test_wrong_types_and_shapes_are_refused():
    good = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match="targets is float32"):
        build_csr(good.float(), good, 1)
    with pytest.raises(InputError, match="sources has 2 entries; expected 3"):
        build_csr(good, good[:2], 1)
    with pytest.raises(InputError, match="indptr runs from 0 to 2"):
        transpose(torch.tensor([0, 2]), good, 1)


@pytest.mark.parametrize("call", ["transpose", "spmm", "attention", "softmax", "geometric", "paths", "draw", "search"])
def test_rows_that_end_before_they_begin_are_refused(backend, call):
    indptr, indices, x = torch.tensor([0, 9, 2, 4]), torch.tensor([0, 1, 2, 0]), torch.rand(3, 2)
    calls = {
        "transpose": lambda: transpose(indptr, indices, 3),
        "spmm": lambda: spmm(indptr, indices, x),
        "attention": lambda: attention(indptr, indices, torch.rand(3, 2, 4), x, x),
        "softmax": lambda: edge_softmax(indptr, torch.rand(4, 2)),
        "geometric": lambda: geometric_sum(indptr, indices, x, x, torch.rand(1, 2, 2), torch.rand(1, 2)),
        "paths": lambda: path_attention(indptr, indices.view(4, 1).repeat(1, 2), torch.rand(3, 2, 4), x, x),
        "draw": lambda: sample_neighbors(indptr, indices, indices, indices, 1, Key.root(0)),
        "search": lambda: sort_rows(indptr, indices, torch.rand(4)),
    }
    with pytest.raises(InputError, match="indptr falls from 9 to 2 at row 1; expected each row to end where it begins"):
        calls[call]()


def test_numbers_of_rows_below_0_are_refused(backend):
    ids = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(InputError, match="num_targets is -1; expected a number of at least 0"):
        build_csr(ids, ids, -1)
    with pytest.raises(InputError, match="num_columns is -1"):
        transpose(torch.tensor([0, 1]), ids, -1)
    with pytest.raises(InputError, match="num_nodes is -1"):
        degrees(ids, -1)


def test_a_default_device_is_not_where_a_kernel_writes():
    """A user's module may set one; the kernels' results lie where their inputs do."""
    targets, sources = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])
    expected = build_csr(targets, sources, 2)
    with torch.device("meta"):
        found = build_csr(targets, sources, 2)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("indptr", "indices", "edges"))

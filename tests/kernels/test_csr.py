"""CSR, transposes and degrees against SciPy and NetworkX."""

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch

from framework.errors import InputError
from framework.kernels.csr import build_csr, degrees, transpose


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

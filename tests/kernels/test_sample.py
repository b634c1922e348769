"""Sampling: same bits in both implementations, without replacement, uniform, independent of where a row is."""

import pytest
import scipy.stats
import torch

from framework.errors import InputError
from framework.kernels import check
from framework.kernels.csr import row_of_entries
from framework.kernels.sample import gather_rows, sample_neighbors, sample_shared, scatter_rows, unique_relabel
from framework.random import Key, philox

KEY = Key.root(7).fold(1, 2)


def sample(case, fanout, rows=None, keys=None, key=KEY):
    rows = torch.arange(case.num_targets) if rows is None else rows
    keys = rows * 2**33 + 5 if keys is None else keys
    return sample_neighbors(case.matrix.indptr, case.matrix.indices, rows, keys, fanout, key)


def column_keys(case):
    return torch.arange(case.num_sources) * 2**33 + 5


def shared(case, fanout, rows=None):
    rows = torch.arange(case.num_targets) if rows is None else rows
    return sample_shared(case.matrix.indptr, case.matrix.indices, rows, column_keys(case), fanout, KEY)


@pytest.mark.parametrize("fanout", [-1, 0, 1, 3, 40])
def test_both_ways_draw_the_same_bits(case, fanout, monkeypatch):
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = sample(case, fanout)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    twin = sample(case, fanout)
    for name in ("indptr", "indices", "edges"):
        assert torch.equal(getattr(ours, name), getattr(twin, name))
        assert getattr(ours, name).dtype == getattr(twin, name).dtype


@pytest.mark.parametrize("fanout", [0, 1, 3, 40, -1])
def test_a_sample_is_distinct_entries_of_its_row(backend, case, fanout):
    drawn = sample(case, fanout)
    degree = case.matrix.indptr.diff()
    assert torch.equal(drawn.indptr.diff(), degree if fanout < 0 else degree.clamp(max=fanout))
    row = row_of_entries(drawn.indptr, len(drawn.edges))
    assert bool((drawn.edges >= case.matrix.indptr[row]).all())
    assert bool((drawn.edges < case.matrix.indptr[row + 1]).all())
    assert bool((drawn.edges.diff()[row.diff() == 0] > 0).all()), "increasing, so distinct, inside a row"
    assert torch.equal(drawn.indices, case.matrix.indices[drawn.edges])


@pytest.mark.parametrize(("degree", "fanout"), [(10, 3), (30, 25), (100, 1), (17, 16), (2000, 30)])
def test_sampling_is_uniform(backend, degree, fanout):
    keys = torch.arange(20_000) * 3
    indptr, indices = torch.tensor([0, degree]), torch.arange(degree)
    drawn = sample_neighbors(indptr, indices, torch.zeros_like(keys), keys, fanout, KEY)
    counts = torch.bincount(drawn.indices, minlength=degree)
    # Counts of one draw without replacement vary less than independent ones, by (degree - fanout) / (degree - 1).
    expected = len(keys) * fanout / degree
    statistic = float(((counts - expected) ** 2 / expected).sum()) * (degree - 1) / (degree - fanout)
    assert scipy.stats.chi2.sf(statistic, degree - 1) > 1e-4


def test_every_pair_is_equally_likely(backend):
    keys = torch.arange(30_000)
    drawn = sample_neighbors(torch.tensor([0, 6]), torch.arange(6), torch.zeros_like(keys), keys, 2, KEY)
    pairs = drawn.indices.view(-1, 2)
    counts = torch.bincount(pairs[:, 0] * 6 + pairs[:, 1], minlength=36)
    assert int((counts > 0).sum()) == 15
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-4


def test_a_draw_depends_on_the_key_and_the_id_alone(backend, square):
    whole = sample(square, 3)
    rows = torch.randperm(square.num_targets, generator=torch.Generator().manual_seed(1))[:20]
    some = sample(square, 3, rows=rows.to(torch.int32), keys=rows * 2**33 + 5)
    for i, row in enumerate(rows.tolist()):
        ours = some.edges[some.indptr[i] : some.indptr[i + 1]]
        assert torch.equal(ours, whole.edges[whole.indptr[row] : whole.indptr[row + 1]])
    assert not torch.equal(sample(square, 3, key=KEY.fold(0)).edges, whole.edges)
    assert not torch.equal(sample(square, 3, keys=torch.arange(square.num_targets)).edges, whole.edges)


@pytest.mark.parametrize("fanout", [-1, 0, 1, 3, 40])
def test_both_ways_share_the_same_draws(case, fanout, monkeypatch):
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = shared(case, fanout)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    twin = shared(case, fanout)
    for name in ("indptr", "indices", "edges"):
        assert torch.equal(getattr(ours, name), getattr(twin, name))
        assert getattr(ours, name).dtype == getattr(twin, name).dtype


def test_shared_draws_take_the_lowest_of_each_row(backend, square):
    rows = torch.tensor([3, 0, 3, square.num_targets - 1])
    drawn = shared(square, 4, rows)
    keys = column_keys(square)
    draws = philox(KEY.value, (0, keys, keys >> 32, 0))[0]
    for i, row in enumerate(rows.tolist()):
        entries = range(int(square.matrix.indptr[row]), int(square.matrix.indptr[row + 1]))
        lowest = sorted(entries, key=lambda entry: (int(draws[square.matrix.indices[entry]]), entry))[:4]
        assert drawn.edges[drawn.indptr[i] : drawn.indptr[i + 1]].tolist() == sorted(lowest)


@pytest.mark.parametrize(("degree", "fanout"), [(10, 3), (30, 25), (100, 1), (17, 16)])
def test_shared_draws_are_uniform(backend, degree, fanout):
    rows = 20_000
    indptr, indices = torch.arange(rows + 1) * degree, torch.arange(rows * degree)
    drawn = sample_shared(indptr, indices, torch.arange(rows), indices * 3, fanout, KEY)
    counts = torch.bincount(drawn.indices % degree, minlength=degree)
    expected = rows * fanout / degree
    statistic = float(((counts - expected) ** 2 / expected).sum()) * (degree - 1) / (degree - fanout)
    assert scipy.stats.chi2.sf(statistic, degree - 1) > 1e-4


@pytest.mark.parametrize("column", range(8))
def test_parallel_edges_share_a_draw_however_high_it_is(backend, column):
    indptr, indices = torch.tensor([0, 5000]), torch.full((5000,), column)
    drawn = sample_shared(indptr, indices, torch.tensor([0]), torch.arange(8), 3, KEY)
    assert drawn.edges.tolist() == [0, 1, 2]


def test_a_column_without_a_key_is_refused(backend):
    indptr, indices, row = torch.tensor([0, 3]), torch.tensor([0, 1, 7]), torch.tensor([0])
    with pytest.raises(InputError, match="indices holds 7; expected ids from 0 to 4"):
        sample_shared(indptr, indices, row, torch.arange(5), 2, KEY)
    with pytest.raises(InputError, match="rows holds 1"):
        sample_shared(indptr, indices, row + 1, torch.arange(9), 2, KEY)


def test_relabelling_keeps_the_first_ids_and_the_order_of_first_occurrence(backend):
    first, rest = torch.tensor([30, 10, 50]), torch.tensor([7, 10, 9, 7, 30, 2**40])
    unique, positions, occurs = unique_relabel(first, rest)
    assert unique.tolist() == [30, 10, 50, 7, 9, 2**40]
    assert occurs.tolist() == [0, 2, 5]
    assert positions.tolist() == [3, 1, 4, 3, 0, 5]
    assert positions.dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("known", "sampled", "ids"), [(0, 0, 1), (0, 50, 20), (40, 0, 100), (500, 20_000, 9_000), (9, 300, 9_000)]
)
def test_relabelling_equals_a_dictionary(backend, dtype, known, sampled, ids):
    generator = torch.Generator().manual_seed(sampled)
    first = torch.randperm(ids, generator=generator)[:known].to(dtype)
    rest = torch.randint(0, ids, (sampled,), generator=generator).to(dtype)
    unique, positions, occurs = unique_relabel(first, rest)
    place: dict[int, int] = {}
    for value in [*first.tolist(), *rest.tolist()]:
        place.setdefault(value, len(place))
    assert unique.tolist() == list(place)
    assert positions.tolist() == [place[value] for value in rest.tolist()]
    assert unique[known:].tolist() == rest[occurs].tolist()
    assert unique.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8, torch.bool, torch.bfloat16])
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 4, 5), (50, 0)])
def test_gathering_and_scattering_equal_indexing(backend, dtype, shape):
    source = (torch.rand(shape) * 100).to(dtype)
    rows = torch.randint(0, 50, (200,))
    assert torch.equal(gather_rows(source, rows.to(torch.int32)), source[rows])
    out = torch.empty(200, *shape[1:], dtype=dtype)
    assert gather_rows(source, rows, out) is out
    assert torch.equal(out, source[rows])
    places = torch.randperm(50)[:20]
    target, expected = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    scatter_rows(target, places, source[:20])
    expected[places] = source[:20]
    assert torch.equal(target, expected)


def test_gathering_reads_strided_and_empty_sources(backend):
    source = torch.rand(20, 30).T
    rows = torch.tensor([3, 29, 3])
    assert torch.equal(gather_rows(source, rows), source[rows])
    assert gather_rows(source, rows[:0]).shape == (0, 20)
    assert gather_rows(torch.empty(0, 4), rows[:0]).shape == (0, 4)


def test_rows_that_a_backward_pass_needs_do_not_change_unnoticed(backend):
    for change in (
        lambda rows: scatter_rows(rows, torch.tensor([1]), torch.zeros(1, 2)),
        lambda rows: gather_rows(torch.zeros(3, 2), torch.tensor([1, 0]), rows),
    ):
        weight, rows = torch.rand(2, 2, requires_grad=True), torch.rand(2, 2)
        product = weight * rows
        change(rows)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


def test_a_fanout_beyond_every_number_takes_all(backend, square):
    for draw in (sample, shared):
        everything, more = draw(square, -1), draw(square, 2**64 + 1)
        assert torch.equal(more.indices, everything.indices)
        assert torch.equal(more.indptr, everything.indptr)


def test_rows_that_are_not_drawn_for_are_not_looked_at(square, monkeypatch):
    """A batch draws for few rows of a large shard."""
    monkeypatch.setattr(check, "pointers", lambda indptr, num_edges: pytest.fail("all rows were looked at"))
    for draw in (sample, shared):
        assert len(draw(square, 2, torch.tensor([1, 5])).indptr) == 3


def test_rows_outside_are_refused(backend, square):
    with pytest.raises(InputError, match="rows holds 60; expected ids from 0 to 59"):
        sample(square, 3, rows=torch.tensor([1, 60]))
    with pytest.raises(InputError, match="rows holds -1"):
        gather_rows(torch.rand(3, 2), torch.tensor([-1]))
    with pytest.raises(InputError, match="rows holds 3"):
        scatter_rows(torch.rand(3, 2), torch.tensor([3]), torch.rand(1, 2))
    with pytest.raises(InputError, match="fanout is -2"):
        sample(square, -2)
    with pytest.raises(InputError, match="requires a gradient"):
        gather_rows(torch.rand(3, 2, requires_grad=True), torch.tensor([1]))
    with pytest.raises(InputError, match="out is"):
        gather_rows(torch.rand(3, 2), torch.tensor([1]), torch.empty(2, 2))

"""Edges among the members of sets: the same bits in both implementations, and those that the definition says."""

import pytest
import torch

from framework.errors import InputError
from framework.kernels import induced, segments
from framework.kernels.csr import build_csr, offsets
from framework.kernels.induced import induced_edges
from framework.kernels.sample import Sampled


def graph(nodes, edges, dtype, *, seed=0):
    """Rows in order, with hubs among targets and sources, edges several times, and self-loops."""
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.rand(edges, 2, generator=generator) ** 4 * nodes).long()
    ends[::5, 1] = ends[::5, 0]
    ends = torch.cat([ends, ends[::3]])
    return build_csr(ends[:, 0], ends[:, 1].to(dtype), nodes)


def sets(nodes, sizes, dtype, *, seed=1):
    """Sorted sets of so many nodes, which share some of them."""
    generator = torch.Generator().manual_seed(seed)
    several = [torch.randperm(nodes, generator=generator)[:size].sort().values.to(dtype) for size in sizes]
    return offsets(torch.tensor(sizes)), torch.cat([torch.empty(0, dtype=dtype), *several])


CASES = {
    "usual": (60, 900, [5, 0, 1, 12, 60, 0, 30]),
    "hubs": (400, 30_000, [3, 9, 400, 2, 0, 200]),
    "threads": (300, 6000, [40] * 120),
    "no edges": (10, 0, [3, 10]),
    "no members": (10, 40, [0, 0]),
    "no sets": (10, 40, []),
    "nothing": (0, 0, []),
}


@pytest.fixture(params=list(CASES))
def case(request):
    """Sets, and the graph that they are of."""
    nodes, edges, sizes = CASES[request.param]
    return lambda dtype: (*sets(nodes, sizes, dtype), graph(nodes, edges, dtype))


def found(case):
    starts, members, matrix = case
    return induced_edges(starts, members, matrix.indptr, matrix.indices)


def by_definition(case) -> Sampled:
    starts, members, matrix = case
    counts, places, edges = [], [], []
    for first, last in zip(starts.tolist(), starts[1:].tolist(), strict=False):
        place_of = {int(members[place]): place for place in range(first, last)}
        for member in members[first:last].tolist():
            row = range(int(matrix.indptr[member]), int(matrix.indptr[member + 1]))
            hits = [edge for edge in row if int(matrix.indices[edge]) in place_of]
            counts.append(len(hits))
            places += [place_of[int(matrix.indices[edge])] for edge in hits]
            edges += hits
    return Sampled(
        indptr=offsets(torch.tensor(counts, dtype=torch.int64)),
        indices=torch.tensor(places, dtype=torch.int32),
        edges=torch.tensor(edges, dtype=torch.int64),
    )


def assert_same(one: Sampled, other: Sampled) -> None:
    for name in ("indptr", "indices", "edges"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_they_are_what_the_definition_says(backend, case, dtype):
    assert_same(found(case(dtype)), by_definition(case(dtype)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_both_ways_give_the_same_bits(case, dtype, monkeypatch):
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    ours = found(case(dtype))
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    assert_same(ours, found(case(dtype)))


def test_the_cases_walk_both_lists_and_meet_parallel_edges_and_loops():
    """Else equality would show little: rows longer and shorter than their sets, each of them with hits."""
    starts, members, matrix = (*sets(400, CASES["hubs"][2], torch.int32), graph(400, 30_000, torch.int32))
    answer = by_definition((starts, members, matrix))
    sizes = torch.repeat_interleave(starts.diff(), starts.diff())
    rows, hits = matrix.indptr.diff()[members.long()], answer.indptr.diff()
    assert ((rows > 4 * sizes) & (hits > 0)).any()
    assert ((rows * 4 < sizes) & (hits > 0)).any()
    within = torch.repeat_interleave(torch.arange(len(members)), hits)
    assert (answer.indices == within).any(), "loops"
    assert ((answer.indices.diff() == 0) & (within.diff() == 0)).any(), "parallel edges"


def test_the_twin_holds_few_entries_at_once(case, monkeypatch):
    whole = found(case(torch.int32))
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    monkeypatch.setattr(segments, "_ENTRIES_AT_ONCE", 7)
    held = []
    cut = induced.chunks
    monkeypatch.setattr(induced, "chunks", lambda *args: [held.append(piece) or piece for piece in cut(*args)])
    assert_same(found(case(torch.int32)), whole)
    rows = case(torch.int32)[2].indptr.diff()
    longest = max(7, int(rows.max()) if len(rows) else 0)
    assert all(entries.stop - entries.start <= longest for _, entries in held)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_nodes_may_be_of_either_type(backend, dtype):
    starts, members = sets(60, [5, 9], torch.int64)
    matrix = graph(60, 900, dtype)
    mixed = induced_edges(starts, members, matrix.indptr, matrix.indices)
    assert_same(mixed, by_definition((starts, members, matrix)))


def test_nodes_outside_are_refused(backend):
    starts, indptr, indices = torch.tensor([0, 2]), torch.tensor([0, 1, 2]), torch.tensor([1, 0])
    with pytest.raises(InputError, match="members holds 2; expected ids from 0 to 1"):
        induced_edges(starts, torch.tensor([0, 2]), indptr, indices)
    with pytest.raises(InputError, match="indices holds -1"):
        induced_edges(starts, torch.tensor([0, 1]), indptr, torch.tensor([1, -1]))
    with pytest.raises(InputError, match="indptr runs from 0 to 2; expected 0 to the number of edges, 3"):
        induced_edges(starts, torch.tensor([0, 1, 1]), indptr, indices)

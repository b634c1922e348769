"""The search over all centres: the same table for any tasks, pieces and parts, and after any changes of costs."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_store import random_edges, shard_bytes
from torch import Tensor

from framework.data.arrays import from_arrays
from framework.errors import InputError
from framework.graph.paths import PathTable
from framework.graph.store import ShardStore
from framework.kernels.csr import build_csr
from framework.kernels.paths import PathRule
from framework.prepare import prepare
from framework.prepare.paths import PathGraph, refresh_paths, search_paths
from launch.ray import Ray
from partitioners.random import Random

NODES, EDGES = 300, 1500
RULE = PathRule(longest=4)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray of this machine for all tests."""
    import ray

    Ray()._connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def graph() -> PathGraph:
    source, target = random_edges(NODES, EDGES)
    matrix = build_csr(torch.from_numpy(target), torch.from_numpy(source), NODES)
    return PathGraph(indptr=matrix.indptr, indices=matrix.indices, original=torch.arange(NODES))


def costs_of(graph: PathGraph, salt: int = 0) -> Tensor:
    """One of 40 values an edge, by the original ids of its ends: the same in every numbering."""
    tails = graph.original.repeat_interleave(graph.indptr.diff())
    return ((tails * 31 + graph.original[graph.indices.long()] * 17 + salt) % 40 + 1).float() / 40


def said(table: PathTable, graph: PathGraph) -> list[dict[int, list[tuple[float, tuple[int, ...]]]]]:
    """By length: original id of the centre -> (cost, original ids) of every path."""
    original, answer = graph.original.tolist(), []
    for paths in table.between(0, table.num_nodes).lengths:
        nodes, costs, offsets = (
            graph.original[paths.nodes.long()].tolist(),
            paths.costs.tolist(),
            paths.offsets.tolist(),
        )
        flat = list(zip(costs, map(tuple, nodes), strict=True))
        answer.append({centre: flat[offsets[i] : offsets[i + 1]] for i, centre in enumerate(original)})
    return answer


def everything(table: PathTable) -> list[Tensor]:
    found = table.between(0, table.num_nodes)
    return [found.radii, *(column for paths in found.lengths for column in (paths.offsets, paths.nodes, paths.costs))]


@pytest.mark.parametrize("count", [2, 4, 9])
def test_pieces_do_not_show(graph, tmp_path, count):
    whole = search_paths(graph, costs_of(graph), RULE, tmp_path)
    starts = graph.cut(count)
    assert len(starts) == count + 1
    table = search_paths(graph, costs_of(graph), RULE, tmp_path, starts=starts)
    assert table.starts == starts
    for ours, theirs in zip(everything(table), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_a_table_that_is_there_is_the_answer(graph, tmp_path):
    table = search_paths(graph, costs_of(graph), RULE, tmp_path)

    def nobody(function: object, items: object) -> list[object]:
        raise AssertionError("nothing is left to do")

    again = search_paths(graph, costs_of(graph), RULE, tmp_path, mapper=nobody)
    assert (again.path, again.digest) == (table.path, table.digest)
    assert search_paths(graph, costs_of(graph, 1), RULE, tmp_path).path != table.path
    victim = next(table.path.glob("part-00000/nodes-2.arrow"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    mended = search_paths(graph, costs_of(graph), RULE, tmp_path)
    mended_files = shard_bytes(mended.path)
    assert mended_files == shard_bytes(search_paths(graph, costs_of(graph), RULE, tmp_path / "other").path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("parts", [1, 4, 16])
def test_parts_do_not_show(graph, tmp_path, parts):
    dataset = from_arrays(*random_edges(NODES, EDGES), num_nodes=NODES)
    store = ShardStore.open(prepare(dataset, Random(), parts, tmp_path).path)
    stored = PathGraph.of_store(store)
    table = search_paths(stored, costs_of(stored), RULE, tmp_path, starts=stored.cut(1, store.offsets.tolist()))
    assert table.pieces == parts
    assert said(table, stored) == said(search_paths(graph, costs_of(graph), RULE, tmp_path), graph)


def test_a_vertex_cut_has_no_rows(tmp_path):
    from partitioners.dbh import DegreeBasedHashing

    store = ShardStore.open(prepare(from_arrays([0, 1, 2], [1, 2, 0]), DegreeBasedHashing(), 2, tmp_path).path)
    with pytest.raises(InputError, match="is a vertex-cut; expected an edge-cut"):
        PathGraph.of_store(store)


@pytest.mark.parametrize("starts", [None, (0, 70, 150, 150, NODES)])
def test_a_refresh_is_a_search_with_the_new_costs(graph, tmp_path, starts):
    """Over several rounds, file by file; few centres are searched for where few edges changed."""
    table = search_paths(graph, costs_of(graph), RULE, tmp_path / "refreshed", starts=starts)
    costs = costs_of(graph)
    shares = []
    for round_ in range(5):
        generator = torch.Generator().manual_seed(round_)
        chosen = torch.randperm(len(costs), generator=generator)[: 1 + 40 * round_ * round_]
        costs = costs.clone()
        costs[chosen] = torch.randint(1, 41, (len(chosen),), generator=generator).float() / 40
        refreshed = refresh_paths(table, graph, costs)
        table = refreshed.table
        expected = search_paths(graph, costs, RULE, tmp_path / "searched", starts=starts)
        assert table.digest == expected.digest
        assert shard_bytes(table.path) == shard_bytes(expected.path)
        assert torch.equal(table.edge_costs(), costs)
        shares.append(refreshed.recomputed / NODES)
    assert shares[0] < 0.2
    assert shares[0] < shares[-1]


def test_a_tolerance_keeps_costs_that_hardly_changed(graph, tmp_path):
    costs = costs_of(graph).double()
    table = search_paths(graph, costs, RULE, tmp_path)
    moved = costs.clone()
    moved[::2] += 1e-4
    moved[7] += 0.3
    refreshed = refresh_paths(table, graph, moved, tolerance=1e-3)
    expected = costs.clone()
    expected[7] = moved[7]
    assert torch.equal(refreshed.table.edge_costs(), expected)
    assert refreshed.table.digest == search_paths(graph, expected, RULE, tmp_path / "other").digest
    assert 0 < refreshed.recomputed < refresh_paths(table, graph, moved).recomputed
    assert refresh_paths(table, graph, costs).recomputed == 0


def test_what_does_not_fit_is_refused(graph, tmp_path):
    table = search_paths(graph, costs_of(graph), RULE, tmp_path)
    with pytest.raises(InputError, match=r"starts is \(0, 9\); expected increasing numbers from 0 to 300"):
        search_paths(graph, costs_of(graph), RULE, tmp_path, starts=(0, 9))
    with pytest.raises(InputError, match="costs is .* expected shape"):
        refresh_paths(table, graph, costs_of(graph)[1:])
    other = PathGraph(indptr=graph.indptr, indices=graph.indices, original=graph.original.flip(0))
    with pytest.raises(InputError, match="the graph is not the one that"):
        refresh_paths(table, other, costs_of(graph))
    with pytest.raises(InputError, match="costs holds nan"):
        refresh_paths(table, graph, costs_of(graph) * float("nan"))
    assert [path for path in tmp_path.iterdir() if path != table.path] == []


@pytest.mark.parametrize("count", [1, 2, 4])
def test_pieces_can_be_searched_by_tasks_of_ray(ray_here, graph, tmp_path, count):
    mapper, starts = Ray().mapper(), graph.cut(count)
    table = search_paths(graph, costs_of(graph), RULE, tmp_path / "here", starts=starts)
    mapped = search_paths(graph, costs_of(graph), RULE, tmp_path, starts=starts, mapper=mapper)
    assert shard_bytes(mapped.path) == shard_bytes(table.path)
    ours = refresh_paths(table, graph, costs_of(graph, 3))
    theirs = refresh_paths(mapped, graph, costs_of(graph, 3), mapper=mapper)
    assert shard_bytes(ours.table.path) == shard_bytes(theirs.table.path)


def glance(array: np.ndarray, item: int) -> tuple[bool, float]:
    return array.flags.writeable, float(array[item])


def test_what_is_bound_goes_to_ray_once_and_is_mapped(ray_here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import ray

    puts = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: (puts.append(value), put(value))[1])
    array = np.arange(1_000_000.0)
    answers = list(Ray().mapper()(partial(glance, array), [3, 4, 5]))
    assert answers == [(False, 3.0), (False, 4.0), (False, 5.0)]  # memory of the store can only be read
    assert [value is array for value in puts] == [True]

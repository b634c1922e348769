"""Windows of neighbours against SciPy, in memory and through the temporary file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from framework.errors import InputError
from framework.graph import adjacency as module
from framework.graph.adjacency import open_adjacency
from framework.graph.edges import ArrayEdges, EdgeBatch

NODES = 300


def graph(*, symmetric: bool = False, edges: int = 4000) -> ArrayEdges:
    draw = np.random.default_rng(0)
    source, target = draw.integers(0, NODES - 20, edges), draw.zipf(1.5, edges) % (NODES - 20)
    if symmetric:
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    return ArrayEdges(source=source, target=target, num_nodes=NODES, batch_size=999)


def dense(stream: ArrayEdges) -> NDArray[np.float64]:
    proper = stream.source != stream.target
    ends = (stream.source[proper], stream.target[proper])
    found: NDArray[np.float64] = coo_matrix((np.ones(proper.sum()), ends), shape=(NODES, NODES)).toarray()
    return found


@pytest.mark.parametrize("budget", [None, 1, 400, 1500])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_pass_gives_the_rows_of_the_symmetric_matrix(
    budget: int | None, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 128)
    stream = graph(symmetric=symmetric)
    expected = dense(stream) if symmetric else dense(stream) + dense(stream).T
    with open_adjacency(stream, budget=budget) as adjacency:
        assert np.array_equal(adjacency.edge_weights, np.bincount(stream.target, minlength=NODES))
        assert np.array_equal(adjacency.degrees, expected.sum(axis=1))
        assert (adjacency.file is None) == (budget is None)
        for _ in range(2):
            found = np.zeros((NODES, NODES))
            last = 0
            for window in adjacency.windows():
                assert window.first == last
                last = window.first + len(window.indptr) - 1
                assert len(window.neighbors) <= max(budget or 10**6, expected.sum(axis=1).max())
                node = np.repeat(np.arange(window.first, last), np.diff(window.indptr))
                np.add.at(found, (node, window.neighbors), 1)
            assert last == NODES
            assert np.array_equal(found, expected)


def test_an_empty_graph_has_one_empty_window() -> None:
    empty = np.empty(0, np.int64)
    for nodes in (0, 4):
        with open_adjacency(ArrayEdges(source=empty, target=empty, num_nodes=nodes)) as adjacency:
            assert [len(window.indptr) - 1 for window in adjacency.windows()] == [nodes]


class Changing:
    """A stream that is another one every time."""

    num_nodes, num_edges, node_weights = 50, 200, None

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)

    def __iter__(self) -> Iterator[EdgeBatch]:
        yield self.draw.integers(0, 50, 200), self.draw.integers(0, 50, 200)


def test_a_stream_that_changes_is_refused() -> None:
    with (
        pytest.raises(InputError, match="other edges the second time"),
        open_adjacency(Changing(), budget=100),
    ):
        pass


class Moving:
    """A stream whose edges lie elsewhere every time; as many of them, in every window of four nodes."""

    num_nodes, num_edges, node_weights = 8, 20_000, None

    def __init__(self) -> None:
        self.first = 2

    def __iter__(self) -> Iterator[EdgeBatch]:
        self.first = 2 - self.first
        source = np.repeat([self.first, self.first + 4], self.num_edges // 2)
        yield source, source + 1


@pytest.mark.parametrize("budget", [None, 20_000])
@pytest.mark.parametrize("setting", ["", "torch"])
def test_as_many_edges_of_other_nodes_are_refused(
    budget: int | None, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDYARD_KERNELS", setting)
    with (
        pytest.raises(InputError, match="node 2 has more neighbours than the first time"),
        open_adjacency(Moving(), budget=budget) as adjacency,
    ):
        assert (adjacency.file is None) == (budget is None)


def test_an_unknown_node_is_refused() -> None:
    stream = ArrayEdges(source=np.array([0, 3]), target=np.array([1, 1]), num_nodes=3)
    with pytest.raises(InputError, match="3 -> 1; expected node ids from 0 to 2"), open_adjacency(stream):
        pass


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with (
        pytest.raises(InputError, match=r"No space left on device; free .* or set TMPDIR"),
        open_adjacency(graph(), budget=100),
    ):
        pass


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_adjacency(graph(), budget=100) as adjacency:
        list(adjacency.windows())
    assert not list(tmp_path.iterdir())

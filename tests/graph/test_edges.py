"""Edge streams: the same edges whatever the size of a batch."""

import numpy as np
import pytest
from oracle_store import random_edges

from framework.graph.edges import ArrayEdges, EdgeStream, both_directions, doubled
from framework.graph.pairs import PairFiles, append_pairs


def collected(stream: EdgeStream) -> tuple[np.ndarray, np.ndarray]:
    batches = list(stream)
    return np.concatenate([source for source, _ in batches]), np.concatenate([target for _, target in batches])


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_arrays_in_batches(batch_size):
    source, target = random_edges(50, 100)
    stream = ArrayEdges(source=source.astype(np.int32), target=target, num_nodes=50, batch_size=batch_size)
    for _ in range(2):
        for found, given in zip(collected(stream), (source, target), strict=True):
            np.testing.assert_array_equal(found, given)
            assert found.dtype == np.int64
    assert isinstance(stream, EdgeStream)
    assert stream.num_edges == 100


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_files_of_pairs_in_batches(tmp_path, batch_size):
    source, target = random_edges(50, 100)
    files = (tmp_path / "a", tmp_path / "never written", tmp_path / "b")
    append_pairs(files[0], source[:20], target[:20])
    append_pairs(files[0], source[20:60], target[20:60])
    append_pairs(files[2], source[60:], target[60:])
    files[1].touch()
    stream = PairFiles(files=files, num_nodes=50, batch_size=batch_size)
    for found, given in zip(collected(stream), (source, target), strict=True):
        np.testing.assert_array_equal(found, given)
    assert stream.num_edges == 100


def test_both_directions_are_adjacent_and_loops_stay_single():
    source, target = np.asarray([1, 2, 3]), np.asarray([4, 2, 0])
    assert [ends.tolist() for ends in both_directions(source, target)] == [[1, 4, 2, 3, 0], [4, 1, 2, 0, 3]]
    assert np.repeat([10, 20, 30], 2)[doubled(source, target)].tolist() == [10, 10, 20, 30, 30]


def test_both_directions_do_not_depend_on_batches():
    source, target = random_edges(9, 60)
    whole = both_directions(source, target)
    parts = [both_directions(source[start : start + 7], target[start : start + 7]) for start in range(0, 60, 7)]
    for end in range(2):
        np.testing.assert_array_equal(whole[end], np.concatenate([part[end] for part in parts]))

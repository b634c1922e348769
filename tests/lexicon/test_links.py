"""Links: two directions become one as the published procedure says; what is written is read."""

import numpy as np
import pytest

from framework.errors import StoreError
from framework.lexicon.links import Links, grow_diag_final_and


def published(forward: list[int], backward: list[int]) -> list[tuple[int, int]]:
    """The procedure word by word, over the whole grid of both sentences."""
    rows, columns = len(backward), len(forward)
    ahead = {(source, target) for target, source in enumerate(forward) if source >= 0}
    behind = {(source, target) for source, target in enumerate(backward) if target >= 0}
    links = ahead & behind
    steps = [(-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]

    def free_source(source):
        return all(link[0] != source for link in links)

    def free_target(target):
        return all(link[1] != target for link in links)

    while True:
        size = len(links)
        for target in range(columns):
            for source in range(rows):
                if (source, target) in links:
                    for down, right in steps:
                        new = (source + down, target + right)
                        if (free_source(new[0]) or free_target(new[1])) and new in ahead | behind:
                            links.add(new)
        if len(links) == size:
            break
    for said in (ahead, behind):
        for target in range(columns):
            for source in range(rows):
                if (source, target) in said and free_source(source) and free_target(target):
                    links.add((source, target))
    return sorted(links)


def test_two_directions_become_one_as_published():
    generator = np.random.default_rng(0)
    for _ in range(300):
        rows, columns = generator.integers(1, 9, size=2)
        forward, backward = generator.integers(-1, rows, columns), generator.integers(-1, columns, rows)
        assert grow_diag_final_and(forward, backward) == published(forward.tolist(), backward.tolist())


def test_what_one_direction_says_alone_is_kept_where_both_words_are_free():
    assert grow_diag_final_and(np.array([0, 2, -1]), np.array([0, -1, -1])) == [(0, 0), (2, 1)]
    assert grow_diag_final_and(np.array([0, 0]), np.array([0])) == [(0, 0), (0, 1)]
    assert grow_diag_final_and(np.array([0, -1, 0]), np.array([0])) == [(0, 0)]
    assert grow_diag_final_and(np.array([-1]), np.array([], np.int64)) == []


PAIRS = [[(2, 0), (0, 1)], [], [(0, 0), (0, 3), (1, 0)]]


def test_links_are_in_order_and_taken_by_pair():
    links = Links.of(PAIRS)
    assert [links.pair(number) for number in range(3)] == [sorted(pair) for pair in PAIRS]
    assert links.pairs.tolist() == [0, 0, 2, 2, 2]
    taken = links.take(np.array([2, 1, 2]))
    assert [taken.pair(number) for number in range(3)] == [sorted(PAIRS[2]), [], sorted(PAIRS[2])]
    joined = Links.joined([links, Links.of([]), taken])
    assert [joined.pair(number) for number in range(6)] == [links.pair(n) for n in (0, 1, 2, 2, 1, 2)]
    assert len(Links.of([])) == 0


def test_what_is_written_is_read(tmp_path):
    links = Links.of(PAIRS)
    links.write(tmp_path)
    again = Links.open(tmp_path)
    assert [again.pair(number) for number in range(3)] == [links.pair(number) for number in range(3)]
    with pytest.raises(StoreError, match="missing"):
        Links.open(tmp_path / "elsewhere")

"""Accuracy of lexical choice: examples made by hand, and loops as the oracle."""

from collections import defaultdict

import numpy as np
import pytest

from framework.errors import InputError
from framework.lexicon.bitext import Sentences
from framework.lexicon.choice import Buckets, hits_of_choice, probability_of_choice
from framework.lexicon.links import Links

OCCURRENCES = np.array([0, 7, 7, 100, 3, 0, 10, 1])
"""Of types 0 to 7; by rank: 3, 6, 1, 2, 4, 7."""
BY_RANK = Buckets.by_rank(OCCURRENCES)

SOURCE = Sentences.of([[3, 1], [7, 0, 3]])
REFERENCE = Sentences.of([[5, 6, 4], [2, 2]])
LINKS = Links.of([[(0, 2), (0, 1), (1, 0)], [(0, 1), (2, 0)]])


def test_thirds_by_rank():
    names = [BY_RANK.names[bucket] for bucket in BY_RANK.of_types]
    assert names == ["O", "M", "M", "H", "L", "O", "H", "L"]


def test_thirds_of_a_number_that_is_no_multiple_of_three():
    assert Buckets.by_rank(np.array([5, 4, 3, 2])).of_types.tolist() == [0, 0, 1, 2]
    assert Buckets.by_rank(np.array([1])).of_types.tolist() == [0]
    assert Buckets.by_rank(np.zeros(2, np.int64)).of_types.tolist() == [3, 3]


def test_buckets_of_fixed_counts():
    buckets = Buckets.by_count(np.array([0, 1, 9, 10, 99, 100, 999, 1000, 50_000]))
    assert buckets.names == ("1000+", "100-999", "10-99", "1-9", "0")
    assert [buckets.names[bucket] for bucket in buckets.of_types] == [
        *("0", "1-9", "1-9", "10-99", "10-99", "100-999", "100-999", "1000+", "1000+")
    ]
    with pytest.raises(InputError, match="ascending"):
        Buckets.by_count(OCCURRENCES, bounds=(10, 10))


def test_probability_of_the_choice_by_hand():
    probabilities = np.array([0.1, 0.2, 0.4, 0.5, 0.9])
    # 3 -> 6 at .2 (its first link), 1 -> 5 at .1; 7 -> 2 at .9; 0 has no link; 3 -> 2 at .5
    choice = probability_of_choice(SOURCE, REFERENCE, LINKS, probabilities, BY_RANK)
    assert choice.mean == pytest.approx((0.2 + 0.1 + 0.9 + 0.5) / 4)
    assert choice.by_bucket == pytest.approx({"H": 0.35, "M": 0.1, "L": 0.9})
    assert choice.counts == {"H": 2, "M": 1, "L": 1, "O": 0}


def test_hits_of_the_choice_by_hand():
    hypothesis = Sentences.of([[6, 5], [2, 7, 7]])
    to_hypothesis = Links.of([[(0, 1), (1, 1), (1, 0), (2, 0)], [(1, 1)]])
    # 3 -> 6 at 1 -> 6 at 0, its first: a hit; 1 -> 5 at 0 -> 5 at 1: a hit; 7 -> 2 at 1 -> 7: none;
    # the second 3 -> 2 at 0, which nothing is linked to: it does not count
    choice = hits_of_choice(SOURCE, REFERENCE, hypothesis, LINKS, to_hypothesis, BY_RANK)
    assert choice.counts == {"H": 1, "M": 1, "L": 1, "O": 0}
    assert choice.by_bucket == {"H": 1.0, "M": 1.0, "L": 0.0}
    assert choice.mean == pytest.approx(2 / 3)


def test_nothing_linked_is_nothing_known():
    choice = probability_of_choice(SOURCE, REFERENCE, Links.of([[], []]), np.zeros(5), BY_RANK)
    assert choice.mean is None
    assert choice.by_bucket == {}


def random_links(generator, rows, columns):
    return Links.of(
        [(generator.integers(len(a)), generator.integers(len(b))) for _ in range(generator.integers(6))]
        for a, b in zip(rows, columns, strict=True)
    )


def test_both_measures_are_those_of_loops():
    generator = np.random.default_rng(0)
    source, reference, hypothesis = (
        Sentences.of(generator.integers(0, 8, generator.integers(1, 7)) for _ in range(50)) for _ in range(3)
    )
    links, further = random_links(generator, source, reference), random_links(generator, reference, hypothesis)
    probabilities = generator.random(len(reference.tokens))
    likely, hit = defaultdict(list), defaultdict(list)
    sentences = zip(source, reference, hypothesis, strict=True)
    for number, (ours, gold, written) in enumerate(sentences):
        first = dict(reversed(links.pair(number)))
        second = dict(reversed(further.pair(number)))
        for i, j in first.items():
            bucket = BY_RANK.names[BY_RANK.of_types[ours[i]]]
            likely[bucket].append(probabilities[reference.offsets[number] + j])
            if j in second:
                hit[bucket].append(written[second[j]] == gold[j])
    tail = slice(20, 50)
    cut = probability_of_choice(source, reference, links, probabilities, BY_RANK)
    assert cut.by_bucket == pytest.approx({name: np.mean(values) for name, values in likely.items()})
    choice = hits_of_choice(source, reference, hypothesis, links, further, BY_RANK)
    assert choice.by_bucket == pytest.approx({name: np.mean(values) for name, values in hit.items()})
    assert choice.mean == pytest.approx(np.mean([value for values in hit.values() for value in values]))
    # A part of a larger set of sentences, which is a view of it
    chosen = np.arange(50)[tail]
    views, copies = (
        hits_of_choice(*sides, links.take(chosen), further.take(chosen), BY_RANK)
        for sides in (
            [side.between(20, 50) for side in (source, reference, hypothesis)],
            [side.take(chosen) for side in (source, reference, hypothesis)],
        )
    )
    assert views == copies


def test_probabilities_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="4 probabilities; expected one a reference token, 5"):
        probability_of_choice(SOURCE, REFERENCE, LINKS, np.zeros(4), BY_RANK)

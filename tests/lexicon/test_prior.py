"""Priors: the published figures, plain sums as the oracle, and the memory that was promised."""

import math
from collections import Counter, defaultdict
from typing import Literal

import numpy as np
import pytest
import torch
from bitexts import WORDS, drawn

from framework.errors import InputError
from framework.kernels.csr import offsets
from framework.kernels.sparse_rows import SparseRows, sparse_kl
from framework.lexicon.bitext import Bitext, Sentences
from framework.lexicon.links import Links
from framework.lexicon.pair_priors import prior_weight
from framework.lexicon.prior import Flattening, TypeCounts, count_links, flattened, mean_of, position_priors

SUPPORTS: tuple[Literal["observed", "full"], ...] = ("observed", "full")
THREE = TypeCounts(vocabulary=100, keys=np.array([705, 720, 730]), counts=np.array([0.3, 0.6, 0.1]))
"""t(20 | 7) = .6, t(5 | 7) = .3, t(30 | 7) = .1."""
PUBLISHED = {0: 1.0, 100: 0.613, 1_000: 0.420, 10_000: 0.227, 50_000: 0.092, 100_000: 0.034, 150_000: 0.0, 200_000: 0.0}


def row(prior: SparseRows, number: int) -> dict[int, float]:
    here = slice(int(prior.indptr[number]), int(prior.indptr[number + 1]))
    return dict(zip(prior.tokens[here].tolist(), prior.weights[here].tolist(), strict=True))


def test_published_figures_of_both_forms():
    softmax, power = (flattened(THREE, Flattening(form=form)) for form in ("softmax", "power"))
    assert [round(row(softmax, 7)[token], 2) for token in (20, 5, 30)] == [0.38, 0.33, 0.30]
    assert [round(row(power, 7)[token], 2) for token in (20, 5, 30)] == [0.47, 0.33, 0.19]
    assert softmax.known.nonzero().flatten().tolist() == [7]
    assert list(row(softmax, 7)) == [5, 20, 30]


def test_temperature_1_of_the_power_form_changes_nothing():
    assert row(flattened(THREE, Flattening(form="power", temperature=1)), 7) == pytest.approx(
        {5: 0.3, 20: 0.6, 30: 0.1}
    )


@pytest.mark.parametrize(
    "how",
    [
        *(Flattening(form="power", temperature=temperature) for temperature in (0.1, 0.01, 1e-4)),
        *(
            Flattening(temperature=temperature, support=support)
            for temperature in (0.01, 0.002)
            for support in SUPPORTS
        ),
    ],
)
def test_a_sharp_prior_has_no_weight_that_is_nothing(how: Flattening) -> None:
    table = TypeCounts.of(np.array([5, 5, 5, 7, 7]), np.array([6, 7, 8, 1, 2]), np.array([1e5, 2, 1, 1, 1]), 10)
    prior = flattened(table.relative(), how)
    assert (prior.weights > 0).all()
    assert row(prior, 5)[6] == pytest.approx(1)
    assert {token: row(prior, 7)[token] for token in (1, 2)} == pytest.approx({1: 0.5, 2: 0.5})
    assert sparse_kl(torch.full((10, 10), -math.log(10)), prior).isfinite().all()


def test_softmax_over_the_whole_vocabulary_is_the_dense_one_and_nearly_uniform():
    prior = flattened(THREE, Flattening(support="full", top=100))
    dense = np.zeros(100)
    dense[[5, 20, 30]] = [0.3, 0.6, 0.1]
    expected = torch.from_numpy(dense / 2).softmax(dim=0)
    torch.testing.assert_close(prior.dense(100)[7].double(), expected, rtol=1e-6, atol=0)
    certain = TypeCounts(vocabulary=4096, keys=np.array([3]), counts=np.array([1.0]))
    weights = flattened(certain, Flattening(support="full", top=4096)).weights.double()
    assert float(weights.max()) * 4096 == pytest.approx(math.exp(0.5), rel=1e-3)  # 1.65 times the uniform mass
    assert float(-(weights * weights.log()).sum()) == pytest.approx(math.log(4096), abs=1e-4)


def test_the_full_support_cut_short_has_the_observed_and_the_first_tokens():
    assert list(row(flattened(THREE, Flattening(support="full", top=6)), 7)) == [0, 1, 2, 5, 20, 30]
    assert list(row(flattened(THREE, Flattening(support="full", top=2)), 7)) == [5, 20]


def test_a_row_keeps_its_likeliest():
    generator = np.random.default_rng(0)
    sources, targets = generator.integers(0, 20, 2000), generator.integers(0, 50, 2000)
    table = TypeCounts.of(sources, targets, generator.random(2000), 50).relative()
    prior = flattened(table, Flattening(top=7, form="power", temperature=1))
    plain: dict[int, dict[int, float]] = defaultdict(dict)
    for key, share in zip(table.keys.tolist(), table.counts.tolist(), strict=True):
        plain[key // 50][key % 50] = share
    for f in range(20):
        kept = dict(sorted(plain[f].items(), key=lambda entry: (-entry[1], entry[0]))[:7])
        assert row(prior, f) == pytest.approx({e: share / sum(kept.values()) for e, share in kept.items()}, rel=1e-6)
    assert not prior.known[20:].any()


def test_links_are_counted_as_in_a_loop():
    bitext = drawn(100)
    generator = np.random.default_rng(1)
    pairs = [
        [(int(generator.integers(len(source))), place) for place in range(len(target)) if generator.random() < 0.8]
        for source, target in zip(bitext.source, bitext.target, strict=True)
    ]
    links = Links.of(pairs)
    plain = Counter(
        (source[i], target[j])
        for source, target, linked in zip(bitext.source, bitext.target, pairs, strict=True)
        for i, j in linked
    )
    table = count_links(bitext, links, 2 * WORDS)
    assert dict(zip(table.keys.tolist(), table.counts.tolist(), strict=True)) == {
        f * 2 * WORDS + e: count for (f, e), count in plain.items()
    }
    halves = [count_links(bitext.between(*cut), links.take(np.arange(*cut)), 2 * WORDS) for cut in ((0, 40), (40, 100))]
    joined = TypeCounts.joined(halves)
    assert np.array_equal(joined.keys, table.keys)
    assert np.array_equal(joined.counts, table.counts)


def of_rows(rows: list[dict[int, float]]) -> SparseRows:
    held = [sorted(row.items()) for row in rows]
    return SparseRows(
        indptr=offsets(torch.tensor([len(row) for row in held])),
        tokens=torch.tensor([token for row in held for token, _ in row], dtype=torch.int32),
        weights=torch.tensor([weight for row in held for _, weight in row], dtype=torch.float32),
    )


def test_mean_of_two_priors():
    one = of_rows([{0: 1.0}, {1: 0.5, 2: 0.5}, {}, {}])
    two = of_rows([{0: 0.5, 3: 0.5}, {}, {2: 1.0}, {}])
    mean = mean_of([one, two], top=32)
    assert [row(mean, number) for number in range(4)] == [{0: 0.75, 3: 0.25}, {1: 0.5, 2: 0.5}, {2: 1.0}, {}]
    assert row(mean_of([one, two], top=1), 0) == {0: 1.0}


def test_rows_of_positions_are_means_over_links():
    prior = of_rows([{}, {0: 0.25, 3: 0.75}, {3: 1.0}, {1: 0.5, 2: 0.5}, {}])
    source = torch.tensor([[1, 2, 3], [3, 4, 0]])
    links = Links.of([[(0, 0), (1, 0), (2, 2)], [(0, 1), (1, 1), (1, 3), (0, 0)]])
    rows = position_priors(prior, source, links, width=4)
    assert [row(rows, place) for place in range(8)] == [
        {0: 0.125, 3: 0.875},  # two links: the mean of both
        {},  # no link
        {1: 0.5, 2: 0.5},
        {},
        {1: 0.5, 2: 0.5},
        {1: 0.5, 2: 0.5},  # of two links the one whose token says something
        {},
        {},  # linked to a token that says nothing
    ]


def test_rows_of_positions_are_those_of_a_loop():
    generator = np.random.default_rng(2)
    vocabulary, width = 40, 9
    table = TypeCounts.of(generator.integers(0, 30, 500), generator.integers(0, 40, 500), np.ones(500), vocabulary)
    prior = flattened(table.relative(), Flattening(top=5))
    bitext = Bitext(
        source=Sentences.of(generator.integers(0, vocabulary, size) for size in (7, 1, 9, 4)),
        target=Sentences.of(generator.integers(0, vocabulary, size) for size in (9, 3, 2, 5)),
    )
    sizes = zip(bitext.source.lengths, bitext.target.lengths, strict=True)
    pairs = [[(generator.integers(i), generator.integers(j)) for _ in range(8)] for i, j in sizes]
    source = torch.zeros(4, 9, dtype=torch.int64)
    for number, sentence in enumerate(bitext.source):
        source[number, : len(sentence)] = torch.tensor(sentence)
    rows, full = position_priors(prior, source, Links.of(pairs), width), prior.dense(vocabulary)
    expected = torch.zeros(4 * width, vocabulary)
    for number, linked in enumerate(pairs):
        for target in range(width):
            types = [int(source[number, i]) for i, j in sorted(set(linked)) if j == target]
            said = [full[f] for f in types if full[f].any()]
            if said:
                expected[number * width + target] = torch.stack(said).mean(dim=0)
    torch.testing.assert_close(rows.dense(vocabulary), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(rows.known, expected.sum(dim=1) > 0)


def test_32768_types_take_no_more_than_16_megabytes():
    types, top = 32768, 32
    keys = (np.arange(types)[:, None] * types + np.arange(top + 1)).ravel()
    table = TypeCounts(vocabulary=types, keys=keys, counts=np.ones(len(keys)))
    prior = flattened(table.relative(), Flattening(top=top))
    assert len(prior.tokens) == types * top
    held = sum(array.element_size() * array.numel() for array in (prior.indptr, prior.tokens, prior.weights))
    assert held <= 9_000_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": 0.001}, "expected at least 0.002 of a softmax"),
        ({"top": 0}, "at least 1"),
        ({"form": "exp"}, "softmax or power"),
    ],
)
def test_what_cannot_be_is_named(wrong, message):
    with pytest.raises(InputError, match=message):
        Flattening(**wrong)


@pytest.mark.parametrize(("update", "weight"), PUBLISHED.items())
def test_a_prior_fades_as_published(update: int, weight: float) -> None:
    assert prior_weight(update, 300_000) == pytest.approx(weight, abs=5e-4)


def test_a_prior_weighs_little_on_average() -> None:
    assert prior_weight(0, 2) == 0  # too short a run
    weights = [prior_weight(update, 300_000) for update in range(150_000)]
    assert sum(weights) / len(weights) == pytest.approx(0.084, abs=5e-4)
    assert min(weights) >= 0
    assert weights == sorted(weights, reverse=True)

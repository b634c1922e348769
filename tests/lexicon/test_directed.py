"""Alignment models: likelihood never falls, loops over dictionaries say the same, and pieces do not show."""

import dataclasses

import numpy as np
import pytest
from bitexts import WORDS, drawn
from plain_alignment import even, hmm_pass, model1_pass, paths
from threadpoolctl import threadpool_info, threadpool_limits

from framework.errors import InputError
from framework.lexicon.bitext import Bitext, Sentences
from framework.lexicon.blas import one_thread
from framework.lexicon.directed import Directed, Passes, _union, estimate
from framework.lexicon.instances import LONGEST
from framework.lexicon.jumps import even_jumps, transitions
from framework.lexicon.pairwise import joined_pairwise

VOCABULARY = 2 * WORDS


def table_of(model: Directed) -> dict:
    """A model's table as the plain one: (f, e) -> t, None for NULL."""
    rows, columns = model.keys // VOCABULARY, model.keys % VOCABULARY
    return {
        (None if f == VOCABULARY else f, e): t
        for f, e, t in zip(rows.tolist(), columns.tolist(), model.probabilities.tolist(), strict=True)
    }


def weights_of(weights: np.ndarray) -> dict[int, float]:
    return {place - len(weights) // 2: weight for place, weight in enumerate(weights.tolist())}


def assert_same(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[key] - theirs[key]) for key in ours) < 1e-9


def test_model_1_is_the_one_of_dictionaries(tmp_path):
    bitext = drawn(200)
    model = estimate(bitext, VOCABULARY, Passes(model1=4, hmm=0), tmp_path, size=64)
    table, likelihoods = even(bitext, VOCABULARY), []
    for _ in range(4):
        table, likelihood = model1_pass(bitext, table)
        likelihoods.append(likelihood)
    assert_same(table_of(model), table)
    np.testing.assert_allclose(model.log_likelihoods, likelihoods, rtol=1e-9)


def test_hmm_is_the_sum_over_every_alignment(tmp_path):
    bitext, passes = drawn(40, longest=4), Passes(model1=1, hmm=3, null=0.15)
    model = estimate(bitext, VOCABULARY, passes, tmp_path, size=16)
    table, _ = model1_pass(bitext, even(bitext, VOCABULARY))
    weights, likelihoods = weights_of(even_jumps(4)), []
    for _ in range(3):
        table, weights, likelihood = hmm_pass(bitext, table, weights, 0.15, steps=4)
        likelihoods.append(likelihood)
    assert_same(table_of(model), table)
    assert_same(weights_of(model.weights), weights)
    np.testing.assert_allclose(model.log_likelihoods[1:], likelihoods, rtol=1e-9)


@pytest.mark.parametrize("passes", [Passes(model1=12, hmm=0), Passes(model1=2, hmm=12, null=0.3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_likelihood_never_falls(passes, seed, tmp_path):
    bitext = drawn(150, seed=seed, longest=12, noise=0.3)
    likelihoods = estimate(bitext, VOCABULARY, passes, tmp_path).log_likelihoods
    of_each = likelihoods[: passes.model1], likelihoods[passes.model1 :]
    for rises in map(np.diff, of_each):
        assert (rises >= -1e-9 * abs(likelihoods[0])).all()
        assert not len(rises) or rises[0] > 0


@pytest.mark.parametrize("passes", [Passes(model1=5, hmm=24), Passes(model1=2, hmm=60)])
def test_jumps_that_are_never_made_do_not_end_in_nan(passes, tmp_path):
    """The weights of all jumps but one halve their digits with every pass, until float64 has none that small."""
    sentences = Sentences.of([list(range(first, first + 20)) for first in range(40)])
    bitext = Bitext(source=sentences, target=sentences)
    model = estimate(bitext, VOCABULARY, passes, tmp_path)
    for values in (model.probabilities, model.weights, model.log_likelihoods):
        assert np.isfinite(values).all()
    rises = np.diff(model.log_likelihoods[passes.model1 :])
    assert (rises >= -1e-9 * abs(model.log_likelihoods[0])).all()
    assert model.weights.min() > 0
    assert all(np.array_equal(links, np.arange(20)) for links in model.links(bitext, VOCABULARY, passes)[:5])


def test_pieces_show_in_rounding_alone(tmp_path):
    bitext, passes = drawn(300), Passes(model1=3, hmm=3)
    whole, cut = (estimate(bitext, VOCABULARY, passes, tmp_path / str(size), size=size) for size in (300, 7))
    assert np.array_equal(whole.keys, cut.keys)
    np.testing.assert_allclose(cut.probabilities, whole.probabilities, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(cut.weights, whole.weights, rtol=1e-11)
    np.testing.assert_allclose(cut.log_likelihoods, whole.log_likelihoods, rtol=1e-12)


def test_a_text_without_lines_is_not_aligned(tmp_path):
    """What grows by the square of a sentence has an end: longer ones are as if they were not there."""
    bitext = drawn(60)
    rows = list(range(LONGEST + 1))
    lost = Bitext(
        source=Sentences.of([[row % WORDS for row in rows], [0]]),
        target=Sentences.of([[WORDS], [WORDS + row % WORDS for row in rows]]),
    )
    longer = Bitext(
        source=Sentences.joined([bitext.source, lost.source]), target=Sentences.joined([bitext.target, lost.target])
    )
    passes = Passes(model1=2, hmm=2)
    plain, model = (
        estimate(pairs, VOCABULARY, passes, tmp_path / name) for name, pairs in (("a", bitext), ("b", longer))
    )
    for field in dataclasses.fields(Directed):
        assert np.array_equal(getattr(plain, field.name), getattr(model, field.name))
    links = model.links(longer, VOCABULARY, passes)
    assert [link.tolist() for link in links[:60]] == [link.tolist() for link in plain.links(bitext, VOCABULARY, passes)]
    assert [link.tolist() for link in links[60:]] == [[-1], [-1] * len(rows)]


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7, 8])
def test_a_union_has_every_number_once(pieces):
    drawing = np.random.default_rng(pieces)
    several = [np.unique(drawing.integers(0, 50, 20)) for _ in range(pieces)]
    assert joined_pairwise(several, _union).tolist() == sorted({number for one in several for number in one.tolist()})


def test_how_many_threads_there_are_does_not_show(tmp_path):
    """Of groups whose products a library would share out: then it adds up in another order."""
    words = np.random.default_rng(0).integers(0, WORDS, (500, 40))
    bitext = Bitext(source=Sentences.of(words.tolist()), target=Sentences.of((words + WORDS).tolist()))
    passes, found = Passes(model1=1, hmm=1), []
    for threads in (1, 4):
        with threadpool_limits(threads, user_api="blas"):
            before = threadpool_info()
            found.append(estimate(bitext, VOCABULARY, passes, tmp_path / f"{threads}"))
            assert threadpool_info() == before
    assert np.array_equal(found[0].weights, found[1].weights)
    assert np.array_equal(found[0].probabilities, found[1].probabilities)


def test_one_thread_is_one_until_the_last_has_left():
    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(3, user_api="blas"):
        with one_thread():
            with one_thread():
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {3}


def test_who_computes_does_not_show_at_all(tmp_path):
    bitext, passes = drawn(100), Passes(model1=2, hmm=2)

    def backwards(function, items):  # a mapper may do the items in any order, as long as it answers in theirs
        return reversed([function(item) for item in reversed(items)])

    ours = estimate(bitext, VOCABULARY, passes, tmp_path / "a", size=16)
    theirs = estimate(bitext, VOCABULARY, passes, tmp_path / "b", size=16, mapper=backwards)
    for field in dataclasses.fields(Directed):
        assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name))


def test_what_was_cut_goes_on(tmp_path):
    """A pass that dies leaves the ones before it; the next call ends with the bits of one that was never stopped."""
    bitext, passes = drawn(100), Passes(model1=2, hmm=3)
    calls = []

    def counting(function, items):
        for item in items:
            calls.append(item)
            if len(calls) == 25:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        estimate(bitext, VOCABULARY, passes, tmp_path / "cut", size=16, mapper=counting)
    assert len(list((tmp_path / "cut").glob("pass-*"))) == 1
    resumed = estimate(bitext, VOCABULARY, passes, tmp_path / "cut", size=16, mapper=counting)
    assert len(calls) == 25 + 7 + 7 * 3  # pieces are looked at again, passes 0 and 1 are there
    whole = estimate(bitext, VOCABULARY, passes, tmp_path / "whole", size=16)
    assert np.array_equal(resumed.probabilities, whole.probabilities)
    assert np.array_equal(resumed.weights, whole.weights)


@pytest.mark.parametrize("passes", [Passes(model1=8, hmm=0), Passes()])
def test_the_lexicon_is_found(passes, tmp_path):
    table = table_of(estimate(drawn(800), VOCABULARY, passes, tmp_path))
    for word in range(WORDS // 2):
        likeliest = max((t, e) for (f, e), t in table.items() if f == word)[1]
        assert likeliest == word + WORDS


def test_links_are_the_best_of_all(tmp_path):
    bitext, passes = drawn(60, longest=4), Passes(model1=2, hmm=2)
    model = estimate(bitext, VOCABULARY, passes, tmp_path)
    table, weights = table_of(model), weights_of(model.weights)
    found = model.links(bitext, VOCABULARY, passes)
    for source, target, links in zip(bitext.source, bitext.target, found, strict=True):
        every = {links: probability for links, probability, _ in paths(source, target, table, weights, passes.null)}
        assert every[tuple((links + 1).tolist())] == pytest.approx(max(every.values()), rel=1e-9)


def test_links_of_pairs_that_were_never_seen(tmp_path):
    passes = Passes()
    model = estimate(drawn(500), VOCABULARY, passes, tmp_path).pruned()
    fresh = Bitext(
        source=Sentences.of([[1, 2, 3], list(range(12)), [], [4], [1, 59]]),
        target=Sentences.of([[31, 32, 33], list(range(30, 42)), [31], [], [31, 59]]),
    )
    found = [links.tolist() for links in model.links(fresh, VOCABULARY, passes)]
    assert found[0] == [0, 1, 2]
    assert found[1][:6] == [0, 1, 2, 3, 4, 5]  # the sentence is longer than any that was seen
    assert found[2:4] == [[-1], []]
    assert found[4][0] == 0


def test_links_do_not_depend_on_what_else_is_aligned(tmp_path):
    bitext, passes = drawn(80), Passes()
    model = estimate(bitext, VOCABULARY, passes, tmp_path)
    together = model.links(bitext, VOCABULARY, passes)
    for number in range(0, 80, 7):
        alone = model.links(bitext.between(number, number + 1), VOCABULARY, passes)
        assert np.array_equal(alone[0], together[number])


def test_transitions_are_distributions_and_reach_further_than_they_were_seen():
    weights = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(transitions(weights, 2), [[4 / 9, 5 / 9], [3 / 7, 4 / 7], [2 / 5, 3 / 5]])
    np.testing.assert_allclose(transitions(weights, 7).sum(axis=1), np.ones(8))


def test_what_cannot_be_aligned_is_named(tmp_path):
    with pytest.raises(InputError, match="token 60; expected 0 to 59"):
        estimate(Bitext(source=Sentences.of([[1]]), target=Sentences.of([[60]])), VOCABULARY, Passes(), tmp_path / "a")
    with pytest.raises(InputError, match="no pair of sentences has words"):
        estimate(Bitext(source=Sentences.of([[1]]), target=Sentences.of([[]])), VOCABULARY, Passes(), tmp_path / "b")
    with pytest.raises(InputError, match="1 source and 2 target"):
        Bitext(source=Sentences.of([[1]]), target=Sentences.of([[1], [2]]))
    with pytest.raises(InputError, match="at least one of either"):
        Passes(model1=0, hmm=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        Passes(null=1.0)

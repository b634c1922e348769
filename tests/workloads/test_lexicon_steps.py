"""Steps of a pipeline about words: alignment, prior and lexical choice, against loops over what they are made of."""

import dataclasses
import functools
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backwards import Backwards, Rhymes, Translating, trained
from made_steps import ignored, made
from safetensors.torch import load_file

from framework.config import encode
from framework.data.dataset import TRAIN
from framework.engine.folder import read_run
from framework.errors import InputError
from framework.lexicon import aligner
from framework.lexicon.aligner import HmmAligner
from framework.lexicon.choice import Buckets, probability_of_choice
from framework.lexicon.directed import Passes
from framework.lexicon.fast_align import FastAlign
from framework.lexicon.pair_priors import ROWS, PairPriors, open_rows, prepare_pair_priors
from framework.lexicon.prior import Flattening, count_links, flattened, position_priors
from framework.lexicon.stored import bitext_of
from framework.made import Made
from framework.models.translation.masked import CMLM
from framework.prepare.pairs import prepare_pairs
from framework.random import Key
from framework.samples.pairs import PairReader, PairStore
from framework.store.product import ProductFolder
from framework.workloads import align as align_step
from framework.workloads.align import Align, Alignment
from framework.workloads.lexical_choice import LexicalChoice
from framework.workloads.prior import Prior
from launch.local import Local

STUDENT = CMLM(width=16, heads=2, inner=24, encoder_layers=1, decoder_layers=1, longest=32, length_beam=2, passes=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def student(root: Path) -> Made:
    return trained(root / "student", STUDENT)


@pytest.fixture(scope="module")
def store(root: Path) -> PairStore:
    return PairStore.open(Translating().prepare(root / "stores", map, ignored).path)


@pytest.fixture(scope="module")
def align(root: Path, student: Made) -> Made:
    return made(Align(pairs=student), root / "align")


def files(step: Made) -> dict[str, bytes]:
    return {str(file.relative_to(step.path)): file.read_bytes() for file in Path(step.path).rglob("*.arrow")}


def test_words_are_linked_to_themselves(align: Made, store: PairStore) -> None:
    links, pairs = Alignment.of(align).links(), bitext_of(store)
    assert len(links) == store.num_pairs
    equal = (
        pairs.source.tokens[pairs.source.offsets[links.pairs] + links.sources]
        == (pairs.target.tokens[pairs.target.offsets[links.pairs] + links.targets])
    )
    assert equal.mean() > 0.9
    facts = ProductFolder.open(align.path).facts
    assert facts["linked_targets"] > 0.9
    assert facts["links"] == len(links.sources)
    assert (np.diff(facts["forward_log_likelihoods"][5:]) > 0).all()


def test_the_table_counts_the_links_of_training(align: Made, store: PairStore) -> None:
    alignment, pairs = Alignment.of(align), bitext_of(store)
    trained_on = np.flatnonzero(store.split().numpy() == TRAIN)
    expected = count_links(pairs.take(trained_on), alignment.links().take(trained_on), store.vocabulary_size)
    assert np.array_equal(alignment.table().keys, expected.keys)
    assert np.array_equal(alignment.table().counts, expected.counts)
    occurrences = np.bincount(pairs.take(trained_on).source.tokens, minlength=store.vocabulary_size)
    assert np.array_equal(alignment.occurrences(), occurrences)


def test_it_does_not_show_who_aligned(root: Path, student: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, function in ((aligner, "estimate"), (align_step, "link_all")):
        monkeypatch.setattr(module, function, functools.partial(getattr(module, function), size=37))
    lengths = []

    def last_first(function: Any, items: Any) -> Any:
        lengths.append(len(items))
        return reversed([function(item) for item in reversed(items)])

    expected = files(made(Align(pairs=student), root / "pieces"))
    assert files(made(Align(pairs=student), root / "last-first", last_first)) == expected
    assert set(lengths) == {4, 5}, "120 pairs of training, all 150"


def test_the_prior_of_an_alignment_is_its_table_flattened(root: Path, align: Made) -> None:
    how = Flattening(form="power", top=3)
    rows = open_rows(Path(made(Prior(align=align, flattening=how), root / "prior").path) / ROWS)
    expected = flattened(Alignment.of(align).table().relative(), how)
    assert torch.equal(rows.indptr, expected.indptr)
    assert torch.equal(rows.tokens, expected.tokens)
    torch.testing.assert_close(rows.weights, expected.weights)


def predictions(student: Made, store: PairStore, samples: torch.Tensor) -> dict[int, torch.Tensor]:
    """The student's probabilities at every place of some targets, pair by pair: [T, vocabulary]."""
    network = STUDENT.build(store.vocabulary_size)
    network.load_state_dict(load_file(Path(student.path) / "model.safetensors"))
    network.eval()
    reader = PairReader(store)
    found = {}
    for number in samples.tolist():
        one = torch.tensor([number])
        batch = reader.batch(one, reader.lengths(one), key=Key.root(1))
        with torch.inference_mode():
            found[number] = network.forced(batch)[0].exp().double()
    return found


def test_the_prior_of_a_student_is_the_mean_of_what_it_predicts(
    root: Path, align: Made, student: Made, store: PairStore
) -> None:
    size = store.vocabulary_size
    step = Prior(
        align=align, student=student, alignment=False, flattening=Flattening(top=size), kept=size, piece_tokens=100
    )
    rows = open_rows(Path(made(step, root / "asked").path) / ROWS).dense(size).double()
    samples, links, pairs = torch.nonzero(store.split() == TRAIN)[:, 0], Alignment.of(align).links(), bitext_of(store)
    answers = predictions(student, store, samples)
    occurrences: dict[int, list[torch.Tensor]] = defaultdict(list)
    for number in samples.tolist():
        source = pairs.source.tokens[int(pairs.source.offsets[number]) :]
        for i, j in links.pair(number):
            occurrences[int(source[i])].append(answers[number][j])
    assert set(torch.nonzero(rows.sum(dim=1))[:, 0].tolist()) == set(occurrences)
    for token, several in occurrences.items():
        torch.testing.assert_close(rows[token], torch.stack(several).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_both_together_are_their_mean(root: Path, align: Made, student: Made, store: PairStore) -> None:
    size = store.vocabulary_size
    alone = {"align": align, "flattening": Flattening(top=size), "kept": size}
    steps = {
        "links-alone": Prior(**alone),
        "student-alone": Prior(**alone, student=student, alignment=False),
        "both": Prior(**alone, student=student),
    }
    rows = {name: open_rows(Path(made(step, root / name).path) / ROWS).dense(size) for name, step in steps.items()}
    torch.testing.assert_close(rows["both"], (rows["links-alone"] + rows["student-alone"]) / 2)


def test_a_student_that_was_stopped_is_not_asked_again(root: Path, align: Made, student: Made) -> None:
    step = Prior(align=align, student=student, piece_tokens=100)
    asked: list[Any] = []

    def mapper(function, items):
        for item in items:
            asked.append(item)
            if len(asked) == 4:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        made(step, root / "stopped", mapper)
    (root / "stopped").rmdir()
    again = made(step, root / "stopped", mapper)
    whole = made(step, root / "whole", Local().mapper())
    assert files(again) == files(whole)
    pieces = len(list((root / "whole-work").glob("predicted-*")))
    assert pieces > 5
    assert len(asked) == 4 + pieces - 3


def test_what_is_known_of_pairs_goes_by_their_own_links(root: Path, align: Made, store: PairStore) -> None:
    prior = made(Prior(align=align), root / "for-pairs")
    path = prepare_pair_priors(store, Path(prior.path), root / "stores")
    priors, links = PairPriors.open(path), Alignment.of(align).links()
    assert np.array_equal(priors.links.offsets, links.offsets)
    assert np.array_equal(priors.links.sources, links.sources)  # the same pairs: linked again, as they were
    samples = torch.tensor([40, 3, 149])
    source, _ = PairReader(store).tokens("source", samples)
    rows = priors.rows(samples, source, 12)
    expected = position_priors(priors.prior, source, links.take(samples.numpy()), 12)
    assert torch.equal(rows.weights, expected.weights)
    assert torch.equal(rows.tokens, expected.tokens)
    assert rows.known.sum() > 10
    changed = path.stat().st_mtime_ns
    assert prepare_pair_priors(store, Path(prior.path), root / "stores") == path
    assert path.stat().st_mtime_ns == changed


def test_pairs_of_another_vocabulary_are_refused(root: Path, align: Made) -> None:
    prior = made(Prior(align=align), root / "of-60-tokens")
    other = prepare_pairs(Rhymes(), 50, root / "stores").store
    with pytest.raises(InputError, match="expected one for both"):
        prepare_pair_priors(other, Path(prior.path), root / "stores")


def test_lexical_choice_is_that_of_the_definitions(root: Path, align: Made, student: Made, store: PairStore) -> None:
    step = made(LexicalChoice(model=student, align=align, split="validation", piece_tokens=50), root / "choice")
    facts, alignment = ProductFolder.open(step.path).facts, Alignment.of(align)
    samples = torch.nonzero(store.split() == 2)[:, 0]
    pairs, links = bitext_of(store).take(samples.numpy()), alignment.links().take(samples.numpy())
    answers = predictions(student, store, samples)
    own = [
        float(answers[number][place, token])
        for number, sentence in zip(samples.tolist(), pairs.target, strict=True)
        for place, token in enumerate(sentence)
    ]
    buckets = Buckets.by_rank(alignment.occurrences())
    expected = probability_of_choice(pairs.source, pairs.target, links, np.array(own), buckets)
    assert facts["probability"]["rank"]["mean"] == pytest.approx(expected.mean, rel=1e-4)
    assert facts["probability"]["rank"]["by_bucket"] == pytest.approx(dict(expected.by_bucket), rel=1e-4)
    assert facts["probability"]["count"]["mean"] == pytest.approx(expected.mean, rel=1e-4)
    assert facts["sentences"] == len(samples)


def test_who_repeats_hits_every_word(root: Path, align: Made, store: PairStore) -> None:
    """The reference is the source: what says it backwards has all of its words, elsewhere."""
    teacher = trained(root / "teacher", Backwards())
    step = made(LexicalChoice(model=teacher, align=align, probabilities=False), root / "hits")
    facts = ProductFolder.open(step.path).facts
    assert "probability" not in facts
    assert set(facts["hit"]) == {"rank", "count"}
    assert facts["hit"]["rank"]["mean"] == facts["hit"]["count"]["mean"] == 1
    assert sum(facts["hit"]["rank"]["counts"].values()) == sum(facts["hit"]["count"]["counts"].values())
    with pytest.raises(InputError, match="word after word"):
        made(LexicalChoice(model=teacher, align=align), root / "asked-too-much")


def test_steps_that_made_something_else_are_named(root: Path, align: Made, store: PairStore) -> None:
    prior = made(Prior(align=align), root / "no-alignment")
    with pytest.raises(InputError, match="step 'no-alignment' made no alignment"):
        made(Prior(align=prior), root / "wrong")
    with pytest.raises(InputError, match=r"no prior was made in '.*align'; expected the folder of a step `Prior`"):
        prepare_pair_priors(store, Path(align.path), root / "stores")
    with pytest.raises(InputError, match="neither alignment nor student"):
        Prior(align=align, alignment=False)
    with pytest.raises(InputError, match="kept is 0"):
        Prior(align=align, kept=0)


def test_choices_that_nothing_can_be_said_of_are_refused(root: Path, align: Made, student: Made) -> None:
    with pytest.raises(InputError, match=r"bounds are \(10, 5\); expected ascending numbers"):
        LexicalChoice(model=student, align=align, bounds=(10, 5))
    run = read_run(Path(student.path), trusted=True)
    path = root / "without-test"
    shutil.copytree(student.path, path)
    data = Rhymes(pairs=9)  # the tenth would be tested on
    workload = dataclasses.replace(run.workload, data=data)
    (path / "run.json").write_text(json.dumps(encode(dataclasses.replace(run, workload=workload))))
    few = dataclasses.replace(student, path=str(path))
    aligned = made(Align(pairs=few), root / "few")
    with pytest.raises(InputError, match="split is 'test', of which the data of step 'teacher' has no sentence"):
        made(LexicalChoice(model=few, align=aligned), root / "choice-of-none")


def test_a_student_of_other_pairs_is_refused(root: Path, align: Made, student: Made) -> None:
    other = trained(root / "other", STUDENT)
    run = read_run(Path(other.path), trusted=True)
    workload = Translating(model=STUDENT, data=Rhymes(pairs=140))
    (root / "other" / "run.json").write_text(json.dumps(encode(dataclasses.replace(run, workload=workload))))
    with pytest.raises(InputError, match="other pairs"):
        made(Prior(align=align, student=other), root / "of-others")


@pytest.mark.parametrize("aligner", [HmmAligner(passes=Passes(model1=3, hmm=0)), FastAlign(iterations=2)])
def test_other_aligners(root: Path, student: Made, store: PairStore, aligner: Any) -> None:
    if isinstance(aligner, FastAlign):
        pytest.importorskip("systran_align", reason="the extra `align` is not installed")
    name = type(aligner).__name__
    align = made(Align(pairs=student, aligner=aligner), root / name)
    assert Alignment.of(align).aligner == aligner
    assert files(made(Align(pairs=student, aligner=aligner), root / f"{name}-again")) == files(align)
    prior = made(Prior(align=align), root / f"{name}-prior")
    priors = PairPriors.open(prepare_pair_priors(store, Path(prior.path), root / "stores"))
    assert np.array_equal(priors.links.targets, Alignment.of(align).links().targets)

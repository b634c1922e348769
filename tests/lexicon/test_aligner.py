"""Aligners: they find links that are known, in pieces as in one, twice alike; and say what is missing."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from bitexts import WORDS, drawn

from framework.errors import InputError
from framework.lexicon.aligner import Aligner, HmmAligner, link_all
from framework.lexicon.bitext import Bitext, Sentences
from framework.lexicon.directed import Passes
from framework.lexicon.fast_align import FastAlign
from framework.lexicon.links import Links

VOCABULARY = 2 * WORDS
ALIGNERS = [HmmAligner(passes=Passes(model1=3, hmm=2)), HmmAligner(passes=Passes(model1=3, hmm=0)), FastAlign()]


@pytest.fixture(params=ALIGNERS, ids=["hmm", "model-1", "fast-align"])
def aligner(request: pytest.FixtureRequest) -> Aligner:
    """Each of them."""
    if isinstance(request.param, FastAlign):
        pytest.importorskip("systran_align", reason="the extra `align` is not installed")
    return request.param


def estimated(aligner: Aligner, bitext: Bitext, folder: Path) -> Path:
    model, work = folder / "model", folder / "work"
    model.mkdir(parents=True)
    work.mkdir()
    aligner.estimate(bitext, VOCABULARY, model, work, map, lambda share: None)
    return model


def same(links: Links, others: Links) -> bool:
    return all(
        np.array_equal(getattr(links, name), getattr(others, name)) for name in ("offsets", "sources", "targets")
    )


def test_links_that_are_known_are_found(aligner: Aligner, tmp_path: Path) -> None:
    bitext = drawn(600, noise=0.0)
    links = aligner.links(estimated(aligner, bitext, tmp_path), bitext, VOCABULARY)
    sources = bitext.source.tokens[bitext.source.offsets[links.pairs] + links.sources]
    targets = bitext.target.tokens[bitext.target.offsets[links.pairs] + links.targets]
    assert (sources + WORDS == targets).mean() > 0.95
    assert len(links.sources) > 0.95 * len(bitext.target.tokens)


def test_pieces_do_not_show(aligner: Aligner, tmp_path: Path) -> None:
    bitext = drawn(60)
    model = estimated(aligner, bitext, tmp_path)
    whole = aligner.links(model, bitext, VOCABULARY)
    shares: list[float] = []
    cut = link_all(aligner, model, bitext, VOCABULARY, tmp_path, told=shares.append, size=25)
    assert same(whole, cut)
    assert shares == [1 / 3, 2 / 3, 1.0]


def test_estimated_again_it_has_the_same_bytes(
    aligner: Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # which the library would use, each time in another order
    bitext = drawn(300)
    first, again = (estimated(aligner, bitext, tmp_path / name) for name in ("first", "again"))
    for file in filter(Path.is_file, first.rglob("*")):
        assert file.read_bytes() == (again / file.relative_to(first)).read_bytes()
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_sentences_without_words_have_no_links(aligner: Aligner, tmp_path: Path) -> None:
    model = estimated(aligner, drawn(50), tmp_path)
    empty = Bitext(source=Sentences.of([[1], [], []]), target=Sentences.of([[], [31], []]))
    assert len(aligner.links(model, empty, VOCABULARY).sources) == 0
    with pytest.raises(InputError, match="no pair of sentences has words"):
        estimated(aligner, empty, tmp_path / "empty")


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systran_align", None)
    with pytest.raises(InputError, match=r"install shardyard\[align\], or choose `hmm`"):
        estimated(FastAlign(), drawn(5), tmp_path)


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"null": 0.0}])
def test_what_cannot_be_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected at least 1, and one between"):
        FastAlign(**wrong)  # type: ignore[arg-type]

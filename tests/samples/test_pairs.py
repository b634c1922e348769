"""Pairs of sentences on disk: the vocabulary, the store, the same bytes whoever writes it, and what is read of it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import Backwards

from framework.errors import InputError, StoreError
from framework.prepare.pairs import prepare_pairs, prepare_vocabulary
from framework.random import Key
from framework.samples.pairs import PairReader, PairStore
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN, Vocabulary
from launch.inspect import inspect

TEXT = ["a man walks his dog", "two dogs run", "a dog is a dog", "the man runs"] * 3


def test_a_vocabulary_begins_with_the_known_tokens() -> None:
    vocabulary = Vocabulary.learn(TEXT, 40)
    assert len(vocabulary) == 40
    assert [vocabulary.piece(token) for token in (PAD, BOS, EOS, UNKNOWN, MASK)] == [
        *("<pad>", "<s>", "</s>", "<unk>", "<mask>")
    ]
    sentences = vocabulary.encode([*TEXT[:4], "", "<mask> ß"])
    assert all(sentence[-1] == EOS and EOS not in sentence[:-1] for sentence in sentences)
    assert vocabulary.decode(sentences)[:5] == [*TEXT[:4], ""]
    assert MASK not in sentences[5]  # no text spells it
    assert UNKNOWN in sentences[5]
    assert vocabulary.decode([[BOS, *sentences[0], PAD, PAD, MASK]]) == TEXT[:1]


def test_a_vocabulary_is_a_function_of_the_sentences() -> None:
    assert Vocabulary.learn(TEXT, 40).model == Vocabulary.learn(iter(TEXT), 40).model
    assert Vocabulary.learn(TEXT, 40).digest != Vocabulary.learn(TEXT, 39).digest


def test_a_long_sentence_is_learned_from() -> None:
    long = "two dogs run " * 400 + "é"
    vocabulary = Vocabulary.learn([*TEXT, long], 40)
    assert UNKNOWN not in vocabulary.encode(["é"])[0]


def test_text_is_normalised() -> None:
    vocabulary = Vocabulary.learn([*TEXT, "one ... two"], 40)
    assert vocabulary.decode(vocabulary.encode(["one\u00a0 \u2026 two"])) == ["one ... two"]


def test_a_vocabulary_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no vocabulary of 4000 tokens can be made .*Please set it to a value <= \d+\.$"
    ):
        Vocabulary.learn(TEXT, 4000)
    few = r"no vocabulary of 6 tokens can .* text: its characters and marks alone are \d+; give --vocabulary more\.$"
    with pytest.raises(InputError, match=few):
        Vocabulary.learn(TEXT, 6)
    with pytest.raises(InputError, match=r"text: there are 5 marks alone; give --vocabulary more\.$"):
        Vocabulary.learn(TEXT, 3)
    (tmp_path / "bad").write_bytes(b"nothing of the kind")
    with pytest.raises(StoreError, match="is no vocabulary, or was altered"):
        Vocabulary.read(tmp_path / "bad")
    with pytest.raises(StoreError, match="missing' cannot be read"):
        Vocabulary.read(tmp_path / "missing")


def backwards(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """A mapper that does the last item first."""
    answers = [function(item) for item in reversed(list(items))]
    return reversed(answers)


def prepared(root: Path, **settings: Any) -> PairStore:
    return prepare_pairs(Backwards(), 64, root, **settings).store


def test_who_tokenizes_does_not_show(tmp_path: Path) -> None:
    one = prepared(tmp_path / "one", pairs_a_part=16)
    two = prepared(tmp_path / "two", pairs_a_part=16, mapper=backwards)
    assert one.parts == 4
    assert one.files == two.files
    for name in [*one.files, "manifest.json"]:
        digests = {hashlib.sha256((store.path / name).read_bytes()).hexdigest() for store in (one, two)}
        assert len(digests) == 1


def test_parts_do_not_show_in_what_is_read(tmp_path: Path) -> None:
    whole, parts = (PairReader(prepared(tmp_path, pairs_a_part=pairs)) for pairs in (1000, 7))
    assert (whole.store.parts, parts.store.parts) == (1, 9)
    assert whole.store.data_digest == parts.store.data_digest
    samples = torch.tensor([58, 3, 3, 41, 7, 0, 59])
    for side in ("source", "target"):
        for found, expected in zip(parts.tokens(side, samples), whole.tokens(side, samples), strict=True):
            assert found.equal(expected)
        assert parts.texts(side, samples) == whole.texts(side, samples)
    assert parts.split.equal(whole.split)
    assert parts.store.raw_ids().to_pylist() == whole.store.raw_ids().to_pylist()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store, raw = prepared(tmp_path, pairs_a_part=16), Backwards().open()
    reader, vocabulary = PairReader(store), store.vocabulary()
    everyone = torch.arange(60)
    sides = (("source", raw.source), ("target", raw.target))
    for side, texts in sides:
        assert reader.texts(side, everyone) == texts.to_pylist()
        tokens, lengths = reader.tokens(side, everyone)
        for row, length, sentence in zip(tokens, lengths.tolist(), vocabulary.encode(texts.to_pylist()), strict=True):
            assert row[:length].tolist() == sentence
            assert (row[length:] == PAD).all()
    assert reader.split.tolist() == raw.split.tolist()
    samples = torch.tensor([40, 2, 17])
    batch = reader.batch(samples, reader.lengths(everyone), key=Key.root(1))
    assert batch.size == 60
    assert batch.everyone[samples].equal(torch.stack([samples, batch.source_lengths, batch.target_lengths], dim=1))
    assert batch.target.shape == (3, int(batch.target_lengths.max()))
    assert torch.gather(batch.target, 1, batch.target_lengths[:, None] - 1).eq(EOS).all()
    nobody, no_lengths = reader.tokens("source", samples[:0])
    assert nobody.shape == (0, 0)
    assert no_lengths.shape == (0,)


def test_a_store_is_made_once(tmp_path: Path) -> None:
    first, again = (prepare_pairs(Backwards(), 64, tmp_path) for _ in range(2))
    assert (first.reused, again.reused) == (False, True)
    assert first.store.digest == again.store.digest
    assert prepare_vocabulary(Backwards(), 64, tmp_path).digest == first.store.vocabulary_digest
    assert prepare_pairs(Backwards(), 63, tmp_path).store.data_digest != first.store.data_digest
    assert prepare_pairs(Backwards(pairs=61), 64, tmp_path).store.data_digest != first.store.data_digest


def test_inspection_counts_pairs(tmp_path: Path) -> None:
    store = prepared(tmp_path, pairs_a_part=16)
    found = inspect(store.path, verify=True)
    assert (found.kind, found.verified) == ("pairs", True)
    counts = [found.facts[name] for name in ("pairs", "train", "validation", "test", "vocabulary")]
    assert counts == [60, 48, 6, 6, 64]
    assert [part["pairs"] for part in found.parts] == [16, 16, 16, 12]


def test_damage_is_named(tmp_path: Path) -> None:
    store = prepared(tmp_path, pairs_a_part=16)
    file = store.path / "part-00002" / "source_tokens.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(StoreError, match=r"source_tokens\.arrow' has \d+ bytes; the manifest says"):
        PairStore.open(store.path)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    file.write_bytes(altered)
    PairStore.open(store.path).verify(1)
    with pytest.raises(StoreError, match=r"source_tokens\.arrow' was altered"):
        PairStore.open(store.path).verify(2)
    with pytest.raises(StoreError, match=r"source_tokens\.arrow' was altered"):
        store.verify()
    other = prepare_vocabulary(Backwards(), 63, tmp_path)
    (store.path / "vocabulary.model").write_bytes(other.model)
    with pytest.raises(StoreError, match=r"vocabulary\.model' was altered: it is not the vocabulary of the pairs"):
        store.vocabulary()
    offsets = store.path / "part-00000" / "source_offsets.arrow"
    offsets.write_bytes((store.path / "part-00000" / "target_tokens.arrow").read_bytes())
    with pytest.raises(StoreError, match=r"source_offsets\.arrow' has \d+ rows and does not fit the tokens"):
        PairReader(store)

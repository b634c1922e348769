"""Data sets of pairs of sentences: files as they are, what is wrong with files named, splits by source sentence."""

import codecs
import dataclasses
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sentences import Backwards

from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.distilled import Distilled
from framework.data.pair_sets import RawPairs, check_pairs
from framework.data.parallel_text import EN_DE, MULTI30K, ParallelText, TabSeparated
from framework.errors import InputError
from framework.made import Made
from framework.samples.decoded import read_decoded, write_decoded
from framework.store.product import ProductFolder

ENGLISH = {
    "train": "A man .\nTwo dogs run .\n\nA line\u2028with a strange end \nLast",
    "val": "One\n",
    "test_2016_flickr": "Six",
}
GERMAN = {
    "train": "Ein Mann .\nZwei Hunde laufen .\nNichts\nEine Zeile\t\nZuletzt\n",
    "val": "Eins\n",
    "test_2016_flickr": "Sechs",
}


def written(folder: Path, **changed: bytes) -> ParallelText:
    """The set of those files, English ones packed; `changed`: other content of a German file."""
    folder.mkdir(exist_ok=True)
    for name, text in ENGLISH.items():
        (folder / f"{name}.en.gz").write_bytes(gzip.compress(text.encode()))
        (folder / f"{name}.de").write_bytes(changed.get(name, GERMAN[name].encode()))
    return ParallelText(folder=str(folder))


def test_parallel_text_is_read_line_by_line(tmp_path: Path) -> None:
    pairs = written(tmp_path).open()
    assert pairs.source.to_pylist() == [
        "A man .",
        "Two dogs run .",
        "A line\u2028with a strange end",
        "Last",
        "One",
        "Six",
    ]
    assert pairs.target.to_pylist() == ["Ein Mann .", "Zwei Hunde laufen .", "Eine Zeile", "Zuletzt", "Eins", "Sechs"]
    assert pairs.split.tolist() == [TRAIN] * 4 + [VALIDATION, TEST]
    assert pairs.ids is not None
    assert pairs.ids.tolist()[1:5] == ["train-0000002", "train-0000004", "train-0000005", "val-0000001"]
    assert pairs.facts == {"blank_pairs": 1}


def test_a_fingerprint_is_of_content_and_settings(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert one.fingerprint() == two.fingerprint()
    assert dataclasses.replace(one, source="de", target="en").fingerprint() != one.fingerprint()
    assert written(tmp_path / "three", val=b"Zwei\n").fingerprint() != one.fingerprint()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"val": b"Eins\nZwei\n"}, r"val\.en\.gz' has 1 lines and '.*val\.de' 2; expected as many"),
        ({"train": b"Ein Mann .\nZwei Hunde laufen \xff.\n"}, r"train\.de' is not UTF-8 in line 2"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, changed: dict[str, bytes], text: str) -> None:
    with pytest.raises(InputError, match=text):
        written(tmp_path, **changed).open()


def test_missing_and_torn_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = written(tmp_path)
    torn = tmp_path / "val.en.gz"
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"val\.en\.gz' cannot be read .*: it may be cut short"):
        pairs.open()
    torn.unlink()
    with pytest.raises(InputError, match=r"val\.en' is not there, and 'val\.en\.gz' neither; .*\$SHARDYARD_MULTI30K"):
        pairs.fingerprint()
    monkeypatch.setenv(MULTI30K, str(written(tmp_path).folder))
    assert len(ParallelText().open().source) == 6
    monkeypatch.delenv(EN_DE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"'en-de\.tsv\.gz' is not there; name it by --data\.path or \$SHARDYARD_EN_DE"
    ):
        TabSeparated().open()


def test_a_source_sentence_is_in_one_split(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    sentences = [f"Sentence {number % 400}" for number in range(1000)]
    sentences[7] = "  sentence   407 ".replace("407", "7")
    file.write_text("".join(f"{text}\tSatz {line}\tmore\n" for line, text in enumerate(sentences)) + "Nothing\t \tx\n")
    pairs = TabSeparated(path=str(file), shares=(0.6, 0.2)).open()
    assert pairs.facts == {"blank_pairs": 1}
    by_sentence: dict[str, set[int]] = {}
    for source, split in zip(pairs.source.to_pylist(), pairs.split.tolist(), strict=True):
        by_sentence.setdefault(" ".join(source.split()).lower(), set()).add(split)
    assert len(by_sentence) == 400
    assert {len(splits) for splits in by_sentence.values()} == {1}
    shares = [sum(splits == {value} for splits in by_sentence.values()) / 400 for value in (TRAIN, VALIDATION, TEST)]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.08)
    assert pairs.target.to_pylist()[:2] == ["Satz 0", "Satz 1"]
    assert pairs.ids is not None
    assert pairs.ids.tolist() == list(range(1, 1001))
    swapped = TabSeparated(path=str(file), source_column=1, target_column=0).open()
    assert swapped.source.to_pylist()[0] == "Satz 0"


def test_an_empty_cell_keeps_its_column(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    file.write_bytes(b"Hello\t Hallo \tCC\r\n\tNur deutsch\tCC\nGood day\t\nYes\tJa\r\n")
    pairs = TabSeparated(path=str(file)).open()
    assert (pairs.source.to_pylist(), pairs.target.to_pylist()) == (["Hello", "Yes"], ["Hallo", "Ja"])
    assert pairs.facts == {"blank_pairs": 2}
    assert pairs.ids is not None
    assert pairs.ids.tolist() == [1, 4]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    pairs = written(tmp_path, val=codecs.BOM_UTF8 + b"Eins\n")
    assert pairs.open().target.to_pylist()[4] == "Eins"
    with pytest.raises(InputError, match=r"val\.de' is not UTF-8 in line 2"):
        written(tmp_path, val=codecs.BOM_UTF8 + b"E\n\xff\n").open()


def test_a_language_is_not_translated_to_itself() -> None:
    with pytest.raises(InputError, match="--data.source and --data.target are both 'de'; expected two languages"):
        ParallelText(source="de")


def test_what_a_table_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    file.write_text("one\teins\ntwo\n")
    with pytest.raises(InputError, match=r"table\.tsv' has 1 columns in line 2; expected at least 2"):
        TabSeparated(path=str(file)).open()
    with pytest.raises(InputError, match=r"--data\.shares is 0\.9, 0\.2"):
        TabSeparated(path=str(file), shares=(0.9, 0.2))


def distilled(folder: Path, texts: dict[int, str], of: Any = None, left_out: int = 0) -> Distilled:
    folder.mkdir(exist_ok=True)
    write_decoded(folder, list(texts), list(texts.values()), [-0.5] * len(texts))
    ProductFolder.seal(folder, digest="d" * 64, facts={"left_out": left_out})
    made = Made(step="decode", digest="d" * 64, path=str(folder))
    return Distilled(of=of or Backwards(pairs=20), decoded=made)


def test_training_targets_are_replaced(tmp_path: Path) -> None:
    raw = Backwards(pairs=20).open()
    training = np.flatnonzero(raw.split == TRAIN).tolist()
    texts = {number: f"made of {number}" for number in reversed(training)}
    pairs = distilled(tmp_path / "all", texts | {training[3]: " "}).open()
    kept = [number for number in range(20) if number != training[3]]
    assert pairs.source.to_pylist() == [raw.source[number].as_py() for number in kept]
    assert pairs.target.to_pylist() == [texts.get(number, raw.target[number].as_py()) for number in kept]
    assert pairs.facts == {"blank_pairs": 1}
    del texts[training[5]]
    with pytest.raises(
        InputError, match=rf"'decode' translated 15 of the 16 training pairs, but not number {training[5]}"
    ):
        distilled(tmp_path / "few", texts).open()
    fewer = distilled(tmp_path / "long", texts, left_out=1).open()  # too long for the step, as it says itself
    assert fewer.facts == {"blank_pairs": 0, "untranslated_pairs": 1}
    assert fewer.ids is not None
    assert fewer.ids.tolist() == [f"pair {number:04}" for number in range(20) if number != training[5]]


def test_distilled_pairs_are_spelled_as_the_raw_ones(tmp_path: Path) -> None:
    once = distilled(tmp_path / "once", {})
    twice = distilled(tmp_path / "twice", {}, of=once)
    assert twice.origin() == Backwards(pairs=20)
    other = dataclasses.replace(once, decoded=dataclasses.replace(once.decoded, digest="e" * 64))
    assert other.fingerprint() != once.fingerprint()
    moved = dataclasses.replace(once, decoded=dataclasses.replace(once.decoded, path="elsewhere"))
    assert moved.fingerprint() == once.fingerprint()
    with pytest.raises(InputError, match="what step 'decode' made, which nobody has walked yet"):
        Distilled(of=Backwards(), decoded=Made(step="decode")).fingerprint()


def test_decoded_sentences_come_back_in_order(tmp_path: Path) -> None:
    write_decoded(tmp_path, [5, 2, 9], ["fünf", "", "neun"], [-1.0, -2.0, -3.0])
    found = read_decoded(tmp_path)
    assert found.samples.tolist() == [2, 5, 9]
    assert found.texts.to_pylist() == ["", "fünf", "neun"]
    assert found.scores.tolist() == [-2.0, -1.0, -3.0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"target": pa.array(["a"])}, "target has 1 rows; expected 2, one a pair"),
        ({"split": np.array([1, 7], np.uint8)}, "the split of pair 1 is 7; expected 0 to 3"),
        ({"split": np.array([2, 3], np.uint8)}, "no pair of sentences is for training"),
    ],
)
def test_what_pairs_cannot_be(fields: dict[str, Any], text: str) -> None:
    texts = pa.array(["a", "b"])
    pairs = RawPairs(**{"source": texts, "target": texts, "split": np.array([1, 2], np.uint8), **fields})
    with pytest.raises(InputError, match=text):
        check_pairs(pairs)


@pytest.mark.skipif(MULTI30K not in os.environ, reason=f"${MULTI30K} does not say where Multi30k is")
def test_multi30k_is_whole() -> None:
    pairs = ParallelText().open()
    assert [int((pairs.split == value).sum()) for value in (TRAIN, VALIDATION, TEST)] == [29_000, 1014, 1000]
    assert pairs.facts == {"blank_pairs": 0}

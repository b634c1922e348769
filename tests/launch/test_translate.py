"""`shardyard translate`: lines in, as many lines out, the same as what the run itself makes of its own sentences."""

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from line_workload import Line
from sentences import SMALL, Backwards, sentence_run

from framework.config import encode
from framework.engine.optimize import Adam
from framework.engine.run import Mapper, Run
from framework.errors import InputError, StoreError
from framework.samples.pairs import PairStore
from framework.workloads.translate import translate
from launch import cli
from launch.local import Local
from launch.prepared import known_data
from launch.ray import Ray
from launch.recipes.images import cnn_resnet
from launch.start import recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out, copies = tmp_path_factory.mktemp("runs") / "copies", Backwards(same_order=True, capitals=False)
    run = sentence_run(out, data=copies, vocabulary=50, epochs=40, bleu=(), optimizer=Adam(lr=1e-2), evaluate_every=40)
    recorded(run, lambda event: None)
    return run


@pytest.fixture(scope="module")
def own(run: Run) -> dict[str, tuple[str, float]]:
    """What `predict` makes of the run's own sentences: source -> translation and score."""
    assert cli.main(["predict", run.out, "--json"]) == 0
    table = parquet.read_table(Path(run.out) / "predictions.parquet")
    columns = (table[name].to_pylist() for name in ("source", "translation", "score"))
    return {source: (text, score) for source, text, score in zip(*columns, strict=True)}


def said(run: Run, sentences: list[str], mapper: Mapper) -> list[tuple[str, float | None]]:
    vocabulary = PairStore.open(known_data(run, lambda event: None).path).vocabulary()
    return [(each.text, each.score) for each in translate(run, vocabulary, sentences, mapper, lambda event: None)]


def test_lines_come_out_as_predict_has_them(
    run: Run, own: dict[str, tuple[str, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = [*own, "", *reversed(own)]
    text, out = tmp_path / "text.gz", tmp_path / "out.txt"
    text.write_bytes(gzip.compress("\n".join(sentences).encode()))
    assert cli.main(["translate", run.out, "--text", str(text), "--out", str(out)]) == 0
    assert out.read_text().split("\n") == [*(own[line][0] if line else "" for line in sentences), ""]
    capsys.readouterr()
    assert cli.main(["translate", run.out, "--text", str(text), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in answer] == sentences
    for row in answer:
        text, score = own[row["source"]] if row["source"] else ("", None)
        assert row["translation"] == text
        assert row["score"] == (pytest.approx(score) if score is not None else None)


def test_standard_input_and_output(run: Run, own: dict[str, tuple[str, float]]) -> None:
    """In a process of its own, with nothing on its output but the lines."""
    source = next(source for source, (text, _) in own.items() if text)
    assert len({text for text, _ in own.values()}) > 5
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "translate", run.out, "--trust"],
        input=f"{source}\r\n\n{source}".encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.decode() == f"{own[source][0]}\n\n{own[source][0]}\n"


def test_who_translates_and_how_many_at_a_time_does_not_show(run: Run, own: dict[str, tuple[str, float]]) -> None:
    sentences = [f"{first} {second}" for first in own for second in own][:40]
    alone = said(run, sentences, map)
    assert said(run, sentences, Local().mapper()) == alone
    assert said(run, sentences[::-1], Local().mapper()) == alone[::-1]
    small = dataclasses.replace(run, workload=dataclasses.replace(run.workload, evaluation_tokens=8))
    for (text, score), (same, near) in zip(said(small, sentences, map), alone, strict=True):
        assert text == same
        assert score == pytest.approx(near)


def test_actors_of_ray_translate_the_same(run: Run, own: dict[str, tuple[str, float]]) -> None:
    assert said(run, [*own], Ray().mapper()) == said(run, [*own], map)


def test_nothing_to_translate_is_no_failure(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("empty", ""), ("blank", " \n\n")):
        (tmp_path / name).write_text(text)
        assert cli.main(["translate", run.out, "--text", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == "\n" * text.count("\n")


def test_what_cannot_be_translated_is_told_before_anything_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        assert cli.main(["translate", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    other = Run(workload=Line(points=16), epochs=1, out=str(tmp_path / "line"), store=str(tmp_path / "stores"))
    recorded(other, lambda event: None)
    images = Run(workload=cnn_resnet().workload, out=str(tmp_path / "images"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "run.json").write_text(json.dumps(encode(images)))
    assert "does not translate; `shardyard predict" in refused(images.out)
    assert "does not translate; `shardyard predict" in refused(other.out)
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    (untrained / "run.json").write_text(json.dumps(encode(run)))
    assert "has no trained weights yet" in refused(str(untrained))
    assert "there is no folder" in refused(run.out, "--out", str(tmp_path / "nowhere" / "out"))
    assert "is a folder" in refused(run.out, "--out", str(tmp_path))
    assert "cannot be read" in refused(run.out, "--text", str(tmp_path / "missing"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ba\n\xff\n")))
    assert "standard input is not UTF-8 in line 2" in refused(run.out)
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed; name a file of sentences by --text" in refused(run.out)


def test_altered_weights_do_not_translate(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "copy")
    copy = dataclasses.replace(run, out=str(tmp_path / "copy"))
    assert said(copy, ["ba be"], map) == said(run, ["ba be"], map)
    file = tmp_path / "copy" / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"model\.safetensors' was altered"):
        said(copy, ["ba be"], map)


def test_a_sentence_beyond_learned_positions_is_named(tmp_path: Path) -> None:
    model = dataclasses.replace(SMALL, positions="learned", longest=24)
    run = sentence_run(tmp_path / "learned", epochs=1, model=model, bleu=())
    recorded(run, lambda event: None)
    with pytest.raises(InputError, match=r"sentence 2 has \d+ tokens, and the model has learned positions for 24"):
        said(run, ["ba be", "ba be bi bo bu " * 12], map)

"""The decode job: every sentence once, the same bytes whoever made them, and nothing made twice after a kill."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backwards import Backwards, Rhymes, Translating, ignored, trained
from made_steps import made

from framework.data.dataset import TRAIN
from framework.data.distilled import Distilled
from framework.engine.run import Mapper
from framework.errors import InputError, StoreError
from framework.made import Made
from framework.models.translation.transformer import Transformer
from framework.samples.decoded import read_decoded
from framework.samples.pairs import PairReader, PairStore
from framework.store.product import ProductFolder
from framework.workloads.align import Align
from framework.workloads.decode import Decode, check_each_once, pieces
from framework.workloads.translation import Translation
from launch.local import Local
from launch.ray import Ray

TRANSFORMER = Transformer(width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1, beam=3)


def decoded(folder: Path, teacher: Made, mapper: Mapper = map, watch: Any = ignored, **fields: Any) -> dict[str, bytes]:
    """The files that a decode step makes, by name."""
    work = folder.with_name("work")
    folder.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    facts = Decode(model=teacher, **fields).make(folder, work, mapper, watch)
    assert facts["sentences"] == len(read_decoded(folder).samples)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_every_training_sentence_is_translated_once(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", Backwards())
    decoded(tmp_path / "made", teacher)
    found, raw = read_decoded(tmp_path / "made"), Rhymes().open()
    assert found.samples.tolist() == np.flatnonzero(raw.split == TRAIN).tolist()
    reader = PairReader(PairStore.open(Translating().prepare(tmp_path / "stores", map, ignored).path))
    vocabulary = reader.store.vocabulary()
    tokens = vocabulary.encode(raw.source.take(found.samples).to_pylist())
    assert found.texts.to_pylist() == vocabulary.decode([sentence[-2::-1] for sentence in tokens])
    assert found.scores.tolist() == [-0.5 * len(sentence) for sentence in tokens]


def test_a_student_set_is_made_of_it(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", Backwards())
    decoded(tmp_path / "made", teacher)
    ProductFolder.seal(tmp_path / "made", digest="d", facts={})
    pairs = Distilled(of=Rhymes(), decoded=Made(step="decode", digest="d", path=str(tmp_path / "made"))).open()
    found = read_decoded(tmp_path / "made")
    assert pairs.target.take(found.samples).to_pylist() == found.texts.to_pylist()


def test_what_the_teacher_has_not_learned_to_translate_is_left_out(tmp_path: Path) -> None:
    """Neither sentences beyond the places that it has, nor those that are too long for a student as well."""
    model = dataclasses.replace(TRANSFORMER, positions="learned", longest=12)
    workload = Translation(data=Rhymes(), model=model, vocabulary=60, longest=14, bleu=())
    teacher = trained(tmp_path / "run", model, workload=workload)
    prepared = workload.prepare(tmp_path / "stores", map, ignored)
    reader = PairReader(PairStore.open(prepared.path))
    short = (reader.split == TRAIN) & (reader.source_lengths <= 12)
    assert 0 < short.sum() < (reader.split == TRAIN).sum()
    product = made(Decode(model=teacher), tmp_path / "decode")
    assert read_decoded(product.folder).samples.tolist() == short.nonzero().squeeze(1).tolist()
    pairs = Distilled(of=Rhymes(), decoded=product).open()
    assert len(pairs.source) == int(short.sum() + (reader.split != TRAIN).sum()) - pairs.facts["blank_pairs"]


def test_altered_data_is_not_translated(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", Backwards())
    store = PairStore.open(Translating().prepare(tmp_path / "stores", map, ignored).path)
    file = store.path / "part-00000" / "source_tokens.arrow"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    for step in (Decode(model=teacher), Align(pairs=teacher)):
        with pytest.raises(StoreError, match=r"source_tokens\.arrow' was altered"):
            made(step, tmp_path / type(step).__name__)


def test_it_does_not_show_who_decoded(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", TRANSFORMER)
    expected = decoded(tmp_path / "one" / "made", teacher)
    assert decoded(tmp_path / "threads" / "made", teacher, Local().mapper()) == expected
    assert set(expected) == {"samples.arrow", "scores.arrow", "text.arrow"}
    assert torch.get_num_threads() == 1


@pytest.fixture
def three_processors() -> Iterator[None]:
    """A Ray of three processors, whatever the machine has."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_one_process_and_three_actors_make_the_same_bytes(tmp_path: Path, three_processors: None) -> None:
    teacher = trained(tmp_path / "run", TRANSFORMER)
    expected = decoded(tmp_path / "one" / "made", teacher, piece_tokens=64)
    assert decoded(tmp_path / "three" / "made", teacher, Ray().mapper(), piece_tokens=64) == expected


def test_a_killed_job_goes_on_with_the_pieces_it_has(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", Backwards(pause=0.2))
    script = (
        "import sys; from pathlib import Path; from test_decode import *;"
        "decoded(Path(sys.argv[1]), Made(step='teacher', digest='0' * 64, path=sys.argv[2]), piece_tokens=48)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cut" / "made"), teacher.path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    work, deadline = tmp_path / "cut" / "work", time.monotonic() + 300
    while len(list(work.glob("piece-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {file.name: file.stat().st_mtime_ns for file in work.glob("piece-*")}
    assert len(there) >= 3
    assert not list((tmp_path / "cut" / "made").iterdir())
    (tmp_path / "cut" / "made").rmdir()
    (work / "piece-0000001.arrow").write_bytes(b"torn")  # as by a loss of power
    events: list[dict[str, Any]] = []
    quick = trained(tmp_path / "quick", Backwards())
    found = decoded(tmp_path / "cut" / "made", quick, watch=events.append, piece_tokens=48)
    for name in there.keys() - {"piece-0000001.arrow"}:
        assert (work / name).stat().st_mtime_ns == there[name], "no piece is made twice"
    told = [event for event in events if event["event"] == "pieces"]
    assert len(told) == len(list(work.glob("piece-*"))) - len(there) + 1
    assert told[-1]["done"] == told[-1]["total"] == 120
    assert told[-1]["left"] == 0
    assert found == decoded(tmp_path / "whole" / "made", quick, piece_tokens=48)


def test_pieces_hold_every_sentence_once_and_no_more_than_they_may() -> None:
    lengths, samples = torch.tensor([3, 9, 1, 4, 4, 50, 2, 9]), torch.arange(8) + 100
    cut = pieces(samples, lengths, 18)
    assert [piece.tolist() for piece in cut] == [[105], [101, 107], [103, 104, 100, 106], [102]]
    assert sorted(torch.cat(cut).tolist()) == samples.tolist()
    assert pieces(samples[:0], lengths[:0], 18) == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [([1, 3], "sentence 2 is missing"), ([1, 2, 2, 3], "2 is there 2 times"), ([1, 2, 3, 4], "4 was not asked for")],
)
def test_a_lost_or_doubled_sentence_is_named(samples: list[int], message: str) -> None:
    check_each_once(np.array([3, 1, 2]), np.array([1, 2, 3]))
    with pytest.raises(StoreError, match=message):
        check_each_once(np.array(samples), np.array([1, 2, 3]))


def test_what_cannot_be_decoded_with_is_named(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "run", Backwards())
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="model.safetensors' cannot be read: .* Train the step 'teacher' again"):
        decoded(tmp_path / "a" / "made", teacher)
    with pytest.raises(InputError, match="piece-tokens is 0"):
        Decode(model=teacher, piece_tokens=0)

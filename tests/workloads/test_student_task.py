"""Students that write all words at once, in runs: the same on any number of workers, resumed as never stopped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from node_runs import same_metrics
from sentences import SMALL as TEACHER
from sentences import Backwards, sentence_run
from shapes import told_by_workers

from framework.config import decode, encode
from framework.engine.optimize import Adam, InverseSquareRoot
from framework.engine.pipeline import Product
from framework.engine.run import Run
from framework.errors import InputError, StoreError
from framework.lexicon.aligner import HmmAligner
from framework.lexicon.directed import Passes
from framework.made import Made
from framework.models.translation.levenshtein import Levenshtein
from framework.models.translation.masked import CMLM
from framework.models.translation.translator import TranslationModel
from framework.store.product import ProductFolder
from framework.workloads.align import Align
from framework.workloads.prior import Prior
from launch.start import start

SIZES: dict[str, Any] = {"heads": 2, "encoder_layers": 1, "longest": 32, "deviation": 0.1}
SMALL: dict[str, TranslationModel] = {
    "cmlm": CMLM(width=16, inner=24, decoder_layers=1, length_beam=2, passes=2, **SIZES),
    "levenshtein": Levenshtein(width=16, inner=24, decoder_layers=1, most=8, iterations=2, **SIZES),
}


def ignore(event: Any) -> None:
    """Nobody watches."""


def made(step: Product, folder: Path) -> Made:
    """What a step makes in the new `folder`."""
    work = folder / "work"
    work.mkdir(parents=True)
    facts = step.make(folder, work, map, ignore)
    ProductFolder.seal(folder, digest=folder.name, facts=facts)
    return Made(step=folder.name, digest=folder.name, path=str(folder))


def prior_of(run: Run, folder: Path) -> Made:
    """What is known of the words of a run's pairs by aligning them."""
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "run.json").write_text(json.dumps(encode(run)))
    raw = Made(step="raw", path=str(folder / "run"))
    align = made(Align(pairs=raw, aligner=HmmAligner(passes=Passes(model1=3, hmm=0))), folder / "align")
    return made(Prior(align=align), folder / "prior")


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """A run of either student, with a prior that fades in it; one that is stopped; the same, to its end."""
    prior = prior_of(sentence_run(folder / "raw"), folder / "steps")
    runs: dict[str, Run] = {}
    for name, model in SMALL.items():
        settings = {
            "model": model,
            "prior": prior,
            "epochs": 2,
            "bleu": ("test",),
            "evaluate_every": 0,
            "prior_updates": 40,
        }
        whole = sentence_run(folder / name, **settings, workers=workers)
        stopped = dataclasses.replace(whole, out=str(folder / f"{name}-stopped"), epochs=1)
        runs |= {name: whole, f"{name}-stopped": stopped, f"{name}-resumed": dataclasses.replace(stopped, epochs=2)}
    return runs


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, Any]]]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


@pytest.mark.parametrize("name", SMALL)
def test_workers_do_not_show(told: dict[int, dict[str, dict[str, Any]]], name: str) -> None:
    one, two = told[1][name], told[2][name]
    assert len(one["loss"]) == 2
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert same_metrics(two["metrics"], one["metrics"])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_resumed_is_never_stopped(told: dict[int, dict[str, dict[str, Any]]], name: str, workers: int) -> None:
    resumed, whole = told[workers][f"{name}-resumed"], told[workers][name]
    assert len(told[workers][f"{name}-stopped"]["loss"]) == 1
    assert resumed["loss"] == whole["loss"]
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize("name", SMALL)
def test_students_are_values(name: str) -> None:
    assert encode(SMALL[name])["plugin"] == f"translator:{name}"
    assert decode(encode(SMALL[name])) == SMALL[name]


LEARNING: dict[str, tuple[TranslationModel, int]] = {
    "cmlm": (CMLM(width=32, inner=64, decoder_layers=1, length_beam=1, passes=3, dropout=0.0, **SIZES), 15),
    "levenshtein": (Levenshtein(width=32, inner=64, decoder_layers=2, most=8, dropout=0.0, **SIZES), 24),
}


@pytest.mark.parametrize("name", LEARNING)
def test_sentences_are_learned_backwards(tmp_path: Path, name: str) -> None:
    model, epochs = LEARNING[name]
    run = sentence_run(
        tmp_path / "run",
        data=Backwards(pairs=800, words=6, longest=4),
        model=model,
        vocabulary=48,
        batch_tokens=160,
        dtype="float32",
        optimizer=Adam(lr=5e-3, betas=(0.9, 0.98)),
        schedule=InverseSquareRoot(warmup=60),
        epochs=epochs,
        evaluate_every=0,
    )
    assert start(run, ignore)["metrics"]["test_bleu"] > 90


@pytest.mark.parametrize("model", [*SMALL.values(), TEACHER], ids=lambda model: type(model).__name__)
def test_half_precision_where_the_device_has_it(tmp_path: Path, model: TranslationModel) -> None:
    settings: dict[str, Any] = {"model": model, "bleu": ("test",), "epochs": 2}
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(InputError, match="this cpu has no arithmetic for"):
            start(sentence_run(tmp_path / "run", precision="bfloat16", dtype="float32", **settings), ignore)
        return
    reports = [
        start(sentence_run(tmp_path / name, precision=name, dtype="float32", **settings), ignore)
        for name in ("bfloat16", "float32")
    ]
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], rel=0.02)
    assert reports[0]["loss"] != reports[1]["loss"]
    with pytest.raises(InputError, match="float64; expected float32 beside it"):
        start(sentence_run(tmp_path / "run", precision="bfloat16", **settings), ignore)


def test_weights_to_begin_with_are_needed_once(tmp_path: Path) -> None:
    teacher = sentence_run(tmp_path / "teacher", epochs=1)
    start(teacher, ignore)
    begin = Made(step="teacher", digest="of the teacher", path=teacher.out)
    settings: dict[str, Any] = {"model": SMALL["cmlm"], "bleu": ("test",), "evaluate_every": 0}
    run = sentence_run(tmp_path / "run", **settings, begin=begin, epochs=1)
    losses = [start(each, ignore)["loss"] for each in (run, sentence_run(tmp_path / "drawn", **settings, epochs=1))]
    assert losses[0][0] != losses[1][0]
    whole = start(dataclasses.replace(run, out=str(tmp_path / "whole"), epochs=2), ignore)
    two = start(dataclasses.replace(run, out=str(tmp_path / "two"), epochs=2, workers=2), ignore)
    assert two["loss"] == pytest.approx(whole["loss"], rel=1e-9)
    weights = Path(teacher.out) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"model\.safetensors' is damaged .* Train the step 'teacher' again"):
        start(dataclasses.replace(run, out=str(tmp_path / "torn")), ignore)
    weights.unlink()
    with pytest.raises(
        StoreError, match=r"model\.safetensors' cannot be read: No such file .* the step 'teacher' again"
    ):
        start(dataclasses.replace(run, out=str(tmp_path / "without")), ignore)
    resumed = start(dataclasses.replace(run, epochs=2), ignore)
    assert resumed["weights_digest"] == whole["weights_digest"]

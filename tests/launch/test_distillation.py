"""A whole distillation from the command line, very small: every step of it, and what depends on what."""

import json
from pathlib import Path
from typing import Any

import pytest

from framework.config import decode, encode
from framework.data.dataset import TRAIN
from framework.engine.folder import read_run
from framework.engine.pipeline import Pipeline
from framework.samples.decoded import read_decoded
from launch import cli
from launch.commands.runs import recipe

STEPS = ["teacher", "decode", "align", "prior", "student", "choice"]
RECIPES = {"nat-multi30k": STEPS, "nat-en-de": STEPS, "nat-multi30k-kd": [name for name in STEPS if name != "prior"]}


def walked(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert cli.main(["train", "backwards:pipeline", "--out", "walk", "--json", *flags]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report: dict[str, Any] = json.loads(printed.out)
    return report


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_pipeline_that_survives_json(name: str) -> None:
    pipeline = recipe(name)
    assert isinstance(pipeline, Pipeline)
    assert list(pipeline.steps) == RECIPES[name]
    assert decode(json.loads(json.dumps(encode(pipeline)))) == pipeline
    assert recipe(name).digest() == pipeline.digest()


def test_every_step_is_made_and_a_changed_one_remakes_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    report = walked(capsys)
    steps = report["steps"]
    assert list(steps) == STEPS
    assert steps["decode"]["facts"]["sentences"] == 120
    said = read_decoded(Path(steps["decode"]["path"]))
    student = read_run(Path(steps["student"]["path"]))
    learned = student.workload.data.open()
    raw = student.workload.data.of.open()
    expected = raw.target.to_pylist()
    for number, text in zip(said.samples.tolist(), said.texts.to_pylist(), strict=True):
        expected[number] = text
    kept = [number for number, text in enumerate(expected) if text.strip()]
    assert learned.target.to_pylist() == [expected[number] for number in kept]
    assert learned.split.tolist() == raw.split[kept].tolist()
    assert (raw.split[said.samples] == TRAIN).all()
    assert said.texts.to_pylist() != raw.target.take(said.samples).to_pylist()
    assert {"test_bleu", "test_loss"} <= set(steps["student"]["metrics"])
    assert set(steps["choice"]["facts"]) >= {"hit", "probability"}
    assert steps["prior"]["facts"]["types"] > 0
    again = walked(capsys, "--prior.flattening.temperature", "1", "--student.epochs", "1", "--until", "prior")
    assert [told["was"] for told in again["steps"].values()] == ["reused", "reused", "reused", "made"]

"""Trained weights can be asked something else than in training: by fewer hypotheses, of turned copies."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sentences import sentence_run

from framework.config import asked, encode, placement
from framework.engine.evaluate import evaluate
from framework.engine.run import Run
from framework.errors import InputError
from launch.arguments import parse_run
from launch.start import recorded, start


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No flags of a command's own."""


def ignore(event: Any) -> None:
    """Nobody watches."""


def changed(run: Run, **fields: Any) -> Run:
    """The run with fields of its model changed."""
    model = dataclasses.replace(run.workload.model, **fields)  # type: ignore[attr-defined]
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, model=model))  # type: ignore[type-var]


def test_weights_are_asked_anew(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run", keep="best", epochs=2)
    report = recorded(run, ignore)
    greedy, short = changed(run, beam=1), changed(run, length_penalty=0.0)
    assert greedy.digest() != run.digest()  # it says which weights are the best
    found = [start(each, ignore, evaluate) for each in (run, greedy, short)]
    assert {each["weights_digest"] for each in found} == {report["weights_digest"]}
    assert found[0]["metrics"] == report["metrics"]
    names = ("validation_loss", "test_loss")
    assert all(each["metrics"][name] == report["metrics"][name] for each in found for name in names)
    with pytest.raises(InputError, match=r"holds another run \(other settings\); ask its weights with the settings"):
        start(changed(run, inner=20), ignore, evaluate)
    with pytest.raises(InputError, match="holds checkpoints of another run"):
        start(greedy, ignore)  # trained on, it is another run


def test_flags_of_what_may_be_asked(tmp_path: Path) -> None:
    run = sentence_run(tmp_path / "run")
    settings: dict[str, Any] = {"command": "evaluate", "example": "", "about": "", "learned": "runs/it"}
    arguments = ["--model.beam", "1", "--bleu", "test", "--evaluation-tokens", "99"]
    parsed, _ = parse_run(run, arguments, NoOptions, **settings)
    assert (parsed.workload.model.beam, parsed.workload.bleu) == (1, ("test",))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"--model\.width would change what 'runs/it' learned; expected only flags"):
        parse_run(run, ["--model.width", "8"], NoOptions, **settings)


def test_what_was_learned_is_told_from_what_is_asked() -> None:
    @dataclasses.dataclass(frozen=True)
    class Value:
        learned: int = 1
        asked: int = asked(2)
        placed: int = placement(3)

    names = [
        set(encode(Value(), **which)) - {"plugin"} for which in ({}, {"result_only": True}, {"learned_only": True})
    ]
    assert names == [{"learned", "asked", "placed"}, {"learned", "asked"}, {"learned"}]

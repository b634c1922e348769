"""A workload in stages: each ends by patience and begins with the best of the one before; resumed = never stopped."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from line_workload import Line, LineTask
from torch import nn

from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.group import Group
from framework.engine.evaluate import evaluate
from framework.engine.optimize import SGD, Step
from framework.engine.run import Event, Prepared, Run, Worker
from framework.engine.state import weights_digest
from framework.engine.train import train
from framework.errors import InputError


class TurningTask(LineTask):
    """The line, then `turns` times its mirror image."""

    turned = 0

    def stages_left(self) -> bool:
        return bool(self.turned < self.workload.turns)  # type: ignore[attr-defined]

    @property
    def lag(self) -> int:
        return self.workload.lag  # type: ignore[attr-defined, no-any-return]

    def begin(self, model: nn.Module) -> None:
        self.begun = self.turned + 1, weights_digest(model.state_dict())

    def finish(self) -> dict[str, Any]:
        turned, weights = self.begun
        self.enter({"turned": turned})
        return {"turned": turned, "weights": weights}

    def enter(self, stage: dict[str, Any]) -> None:
        self.y = self.y * (-1) ** (stage["turned"] - self.turned)
        self.turned = stage["turned"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurningLine(Line):
    turns: int = 1
    lag: int = 0

    def open(self, run: Run, worker: Worker) -> LineTask:
        return TurningTask(self, run, worker)


# The rate falls until nothing more is learned.
SETTINGS: dict[str, Any] = {
    "epochs": 200,
    "optimizer": SGD(lr=0.05, momentum=0.0),
    "schedule": Step(every=8, gamma=0.2),
    "patience": 2,
    "keep": "best",
}


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


def run(out: Path, turns: int = 1, lag: int = 0, **fields: Any) -> Run:
    return dataclasses.replace(Run(workload=TurningLine(turns=turns, lag=lag), out=str(out)), **{**SETTINGS, **fields})


def worker(watch: Any = lambda event: None) -> Worker:
    prepared = Prepared(path=Path(), data_digest="line", seconds=0.0, facts={"parts": 1, "partitioner": "none"})
    return Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=watch)


def test_a_stage_begins_with_the_best_of_the_one_before(tmp_path: Path) -> None:
    events: list[Event] = []
    report = train(run(tmp_path), worker(events.append))
    alone = train(dataclasses.replace(run(tmp_path / "alone"), workload=Line()), worker())
    (stage,) = report["stages"]
    assert stage["epochs"] == alone["epochs"]
    assert stage["metrics"] == alone["metrics"]
    assert report["loss"][: alone["epochs"]] == alone["loss"]
    assert report["epochs"] > alone["epochs"]
    assert [event["epoch"] for event in events if event["event"] == "stage"] == [alone["epochs"]]
    told = evaluate(run(tmp_path), worker())
    assert told["metrics"] == report["metrics"]
    assert told["weights_digest"] == report["weights_digest"]


def test_a_stage_that_is_begun_is_entered_after_the_lag(tmp_path: Path) -> None:
    waited = train(run(tmp_path / "waited"), worker())
    late = train(run(tmp_path / "late", lag=3), worker())
    begun = waited["stages"][0]["epochs"]
    assert late["stages"][0]["epochs"] == begun + 3
    assert late["loss"][:begun] == waited["loss"][:begun]
    assert max(late["loss"][begun : begun + 3]) < min(late["loss"][begun + 3 : begun + 5])  # then the line is turned
    assert late["stages"][0]["is"] == waited["stages"][0]["is"]


def test_a_stage_without_epochs_left_is_not_begun(tmp_path: Path) -> None:
    begun = train(run(tmp_path / "whole"), worker())["stages"][0]["epochs"]
    for lag, epochs in ((0, begun), (3, begun + 3)):
        report = train(run(tmp_path / f"{lag}", lag=lag, epochs=epochs), worker())
        assert report["epochs"] == begun
        assert "stages" not in report
    assert len(train(run(tmp_path / "one", lag=3, epochs=begun + 4), worker())["stages"]) == 1


@pytest.mark.parametrize(("lag", "after"), [(0, 1), (3, -1), (3, -3), (3, 1)])
def test_stopped_near_a_later_stage_and_resumed(tmp_path: Path, lag: int, after: int) -> None:
    whole = train(run(tmp_path / "whole", turns=2, lag=lag), worker())
    assert len(whole["stages"]) == 2
    for number, stage in enumerate(whole["stages"]):
        cut = tmp_path / f"cut{number}"

        def watch(event: Event, last: int = stage["epochs"] + after) -> None:
            if event["event"] == "epoch" and event["epoch"] == last:
                raise StoppedError

        with pytest.raises(StoppedError):
            train(run(cut, turns=2, lag=lag), worker(watch))
        resumed = train(run(cut, turns=2, lag=lag), worker())
        for what in ("weights_digest", "loss", "metrics", "stages"):
            assert resumed[what] == whole[what]


def test_a_stage_is_not_shorter_than_asked_for(tmp_path: Path) -> None:
    report = train(run(tmp_path, min_epochs=70), worker())
    assert report["stages"][0]["epochs"] == 70
    assert report["epochs"] == 140


@pytest.mark.parametrize("gradient", [LocalSteps(every=2), DiLoCo()])
def test_workers_of_different_weights_have_no_stages(tmp_path: Path, gradient: Any) -> None:
    with pytest.raises(InputError, match="does not keep the same weights on every worker"):
        train(run(tmp_path, gradient=gradient), worker())
    train(run(tmp_path, turns=0, gradient=gradient, epochs=2), worker())


def test_lower_is_better_of_a_loss(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"monitor is 'validation_loss'.*validation_accuracy"):
        train(run(tmp_path, monitor="validation_loss"), worker())
    falling = Run(workload=Line(), monitor="validation_loss", out=str(tmp_path))
    assert falling.improves(0.1, 0.2)
    assert not falling.improves(0.2, 0.2)
    assert dataclasses.replace(falling, monitor="validation_accuracy").improves(0.2, 0.1)

"""A run started again in its folder: what is reported when it was finished, and when it was not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from line_workload import Line

from framework.engine.folder import read_run
from framework.engine.run import Event, Run
from launch import cli
from launch.start import Became, recorded

FOLDER = Path("runs/sage-debian")
SMALL = [
    *("--data", "planted", "--data.nodes=300", "--data.edges=3000", "--data.blocks=6", "--data.classes=3"),
    *("--data.features=8", "--model.hidden=8", "--batch-size=64", "--schedule=constant"),
]
"""A run of a second, to which epochs may be added."""
PLACED = ("--partitioner", "range", "--parts", "2")
OTHERWISE = ("--partitioner", "random", "--parts", "3", "--workers", "2", "--reach", "owned", "--store", "elsewhere")


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*placement: str, epochs: int = 3) -> None:
    assert cli.main(["train", "sage-debian", *SMALL, f"--epochs={epochs}", *placement]) == 0


def reported(capsys: pytest.CaptureFixture[str], *placement: str, epochs: int = 3) -> dict[str, Any]:
    """The report that a start prints."""
    capsys.readouterr()
    train("--json", *placement, epochs=epochs)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def written() -> dict[str, bytes]:
    """The files that say which run the folder is of, and what it came to."""
    return {path.name: path.read_bytes() for kind in ("json", "safetensors") for path in FOLDER.glob(f"*.{kind}")}


def test_a_finished_run_keeps_the_report_of_the_start_that_trained_it(capsys: pytest.CaptureFixture[str]) -> None:
    first, before = reported(capsys, *PLACED), written()
    assert (first["partitioner"], first["parts"], first["was"]) == ("range", 2, "made")
    assert {"run.json", "prepared.json", "report.json", "model.safetensors"} <= set(before)
    for placement in (PLACED, OTHERWISE):
        assert reported(capsys, *placement) == {**first, "was": "reused"}
        assert written() == before
    events = [json.loads(line)["event"] for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    assert events.count("epoch") == 3
    assert events[-1] == "reused"
    assert cli.main(["inspect", str(FOLDER), "--verify"]) == 0


def test_a_start_that_is_refused_leaves_the_folder_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*PLACED)
    before = written()
    Path("afile").write_text("no folder")
    refused = {"cannot hold stores": ["--store", "afile"], "is a vertex-cut": ["--partitioner", "hdrf"]}
    for message, placement in refused.items():
        assert cli.main(["train", "sage-debian", *SMALL, "--epochs=3", *placement]) == 2
        assert message in capsys.readouterr().err
        assert written() == before
    assert cli.main(["evaluate", str(FOLDER)]) == 0
    assert cli.main(["train", "sage-debian", *SMALL, "--store", "afile", "--out", "new"]) == 2
    assert not list(Path("new").glob("*.json")), "what was never a run's may become a pipeline's"


def test_people_are_told_that_nothing_was_trained(capsys: pytest.CaptureFixture[str]) -> None:
    train(*PLACED)
    assert "finished already" not in capsys.readouterr().out
    train(*OTHERWISE)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "finished already" in line] == [
        "'runs/sage-debian' was finished already: nothing was trained, and the figures are those of the earlier start. "
        "Give another --out to train again."
    ]
    assert ["partitioner", "range"] in [line.split() for line in lines]


def test_a_finished_run_of_metrics_that_are_no_numbers_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, *PLACED)
    report |= {"loss": [1.0, None], "metrics": {**report["metrics"], "test_accuracy": None}}  # as JSON has NaN
    (FOLDER / "report.json").write_text(json.dumps(report))
    train(*PLACED)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["loss", "nan"] in rows
    assert ["test", "accuracy", "nan"] in rows


def test_a_run_that_goes_on_is_not_finished_before_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed, it leaves the report of the run that it was, of fewer epochs."""
    train(*PLACED)

    def finished() -> bool:
        capsys.readouterr()
        assert cli.main(["inspect", str(FOLDER), "--json"]) == 0
        return bool(json.loads(capsys.readouterr().out)["facts"]["finished"])

    assert finished()
    before = json.loads((FOLDER / "run.json").read_text())
    for changes, expected in (({"epochs": 9}, False), ({"workers": 2, "store": "elsewhere"}, True)):
        (FOLDER / "run.json").write_text(json.dumps({**before, **changes}))
        assert finished() == expected
    foreign = {**before, "gradient": {"plugin": "nowhere:Mine"}}
    (FOLDER / "run.json").write_text(json.dumps(foreign))
    assert finished(), "what is not imported is told by its epochs"
    (FOLDER / "run.json").write_text(json.dumps({**foreign, "epochs": 9}))
    assert not finished()


def test_a_finished_run_whose_report_is_lost_gets_one(capsys: pytest.CaptureFixture[str]) -> None:
    first = reported(capsys, *PLACED)
    (FOLDER / "report.json").write_text("{")  # torn, as by a disk that lost power
    again = reported(capsys, *PLACED)
    assert (again["was"], again["weights_digest"]) == ("reused", first["weights_digest"])
    assert json.loads((FOLDER / "report.json").read_text()) == again


def test_an_unfinished_run_goes_on_under_another_placement(capsys: pytest.CaptureFixture[str]) -> None:
    train("--out", "whole", *PLACED)
    train(*PLACED, epochs=2)
    report = reported(capsys, *OTHERWISE)
    assert (report["was"], report["partitioner"], report["parts"]) == ("resumed", "random", 3)
    assert (report["workers"], report["epochs"]) == (2, 3)
    whole = json.loads(Path("whole/report.json").read_text())
    assert report["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert json.loads((FOLDER / "report.json").read_text()) == report
    assert reported(capsys, *PLACED) == {**report, "was": "reused"}


@pytest.mark.parametrize(
    ("kinds", "was"),
    [
        ("started step epoch", "made"),
        ("started", "made"),
        ("started resumed", "reused"),
        ("started resumed step", "resumed"),
        ("started resumed epoch", "resumed"),
        ("started step started resumed", "made"),
        ("started resumed started resumed", "reused"),
        ("started resumed step started resumed", "resumed"),
    ],
)
def test_what_became_of_a_run_shows_in_its_events(kinds: str, was: str) -> None:
    """A launcher may start the workers several times in one start: what they resume then was trained in it."""
    became = Became()
    for kind in kinds.split():
        became.watch({"event": kind})
    assert became.was == was


def ignored(event: Event) -> None:
    """Nobody watches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded(Line):
    """A line with a setting that may be without bounds."""

    bound: float = float("inf")


def test_a_setting_without_bounds_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = Run(workload=Bounded(), epochs=1, out=str(tmp_path / "run"), store=str(tmp_path / "stores"))
    first = recorded(run, ignored)
    assert recorded(run, ignored)["weights_digest"] == first["weights_digest"]
    assert read_run(tmp_path / "run", trusted=True) == run


def test_a_record_that_a_power_cut_tore_does_not_keep_checkpoints_from_being_resumed(tmp_path: Path) -> None:
    run = Run(workload=Line(), epochs=2, out=str(tmp_path / "run"), store=str(tmp_path / "stores"))
    first = recorded(run, ignored)
    (tmp_path / "run" / "run.json").write_bytes(b"")
    assert recorded(run, ignored)["weights_digest"] == first["weights_digest"]
    assert read_run(tmp_path / "run", trusted=True) == run

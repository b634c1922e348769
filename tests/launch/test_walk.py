"""A pipeline from the command line: made once, remade where something changed, resumed where it was cut."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline import COUNTS, counted

from launch import cli

RECIPE = "tiny_pipeline:pipeline"
STEPS = ["teacher", "points", "student", "lone-line"]
COMMAND = ["train", RECIPE, "--out", "walk"]


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counts").mkdir()
    monkeypatch.setenv(COUNTS, str(tmp_path / "counts"))
    monkeypatch.chdir(tmp_path)


def walked(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """The report of a walk."""
    assert cli.main([*COMMAND, "--json", *flags]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report: dict[str, Any] = json.loads(printed.out)
    kept = json.loads(Path("walk/report.json").read_text())
    for name, told in report["steps"].items():
        assert {**kept["steps"][name], "was": told["was"], "seconds": told["seconds"]} == told
    return report


def became(report: dict[str, Any]) -> list[str]:
    return [told["was"] for told in report["steps"].values()]


def test_a_pipeline_is_made_once_and_then_found(capsys: pytest.CaptureFixture[str]) -> None:
    first = walked(capsys)
    assert list(first["steps"]) == STEPS
    assert became(first) == ["made"] * 4
    assert first["finished"]
    done, before = counted(), Path("walk/report.json").read_text()
    assert done == {"piece": 10, "points": 1, "student": 1}
    assert became(walked(capsys, "--until", "points")) == ["reused"] * 2
    second = walked(capsys)
    assert Path("walk/report.json").read_text() == before, "it stays that of the walk that made all this"
    assert became(second) == ["reused"] * 4
    assert counted() == done
    for name, told in first["steps"].items():
        assert second["steps"][name]["digest"] == told["digest"]
        assert Path(told["path"]).is_dir()
    assert not list(Path("stores/work").iterdir())


CHANGES = {
    "--points.times=2": {"points", "student"},
    "--student.epochs=3": {"student"},
    "--student.optimizer=sgd": {"student"},
    "--teacher.batch-size=8": {"teacher", "points", "student"},
    "--lone-line.optimizer.lr=0.1": {"lone-line"},
    "--points.pause=0.001": set(),
    "--seed=1": set(STEPS),
}
"""A flag, and the steps that are remade for it."""


def test_a_changed_setting_remakes_what_depends_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    first = walked(capsys)
    for flag, remade in CHANGES.items():
        changed = walked(capsys, flag)
        assert {name for name, told in changed["steps"].items() if told["was"] != "reused"} == remade, flag
        for name in STEPS:
            assert (changed["steps"][name]["digest"] != first["steps"][name]["digest"]) == (name in remade), flag
    assert became(walked(capsys)) == ["reused"] * 4, "what was made before is still there"


def test_folders_are_no_part_of_what_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    first = walked(capsys, "--until", "points")
    again = walked(capsys, "--until", "points", "--store", "other")
    assert became(again) == ["reused", "made"]
    assert [told["digest"] for told in again["steps"].values()] == [told["digest"] for told in first["steps"].values()]


def flipped(path: Path) -> bytes:
    """Changes a bit of a file, whose size stays. Returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def test_a_damaged_product_is_made_anew(capsys: pytest.CaptureFixture[str]) -> None:
    first = walked(capsys)
    points = Path(first["steps"]["points"]["path"]) / "points.json"
    whole = flipped(points)
    again = walked(capsys, "--student.epochs=3")
    assert became(again) == ["reused", "made", "made", "reused"]
    assert points.read_bytes() == whole
    assert again["steps"]["points"]["digest"] == first["steps"]["points"]["digest"]


@pytest.mark.parametrize("damage", [flipped, lambda path: path.write_bytes(path.read_bytes()[:9]), Path.unlink])
def test_damaged_weights_are_written_anew(damage: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]) -> None:
    first, before = walked(capsys), counted()
    weights = Path(first["steps"]["teacher"]["path"]) / "model.safetensors"
    whole = weights.read_bytes()
    damage(weights)
    assert walked(capsys)["steps"]["teacher"]["digest"] == first["steps"]["teacher"]["digest"]
    assert weights.read_bytes() == whole, "from the last checkpoint"
    assert counted() == before


def test_until_stops_behind_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(walked(capsys, "--until", "points")["steps"]) == STEPS[:2]
    assert not json.loads(Path("walk/report.json").read_text())["finished"]
    assert became(walked(capsys)) == ["reused", "reused", "made", "made"]
    assert cli.main([*COMMAND, "--until", "pints"]) == 2
    assert "--until is 'pints'; expected one of the steps: teacher, points" in capsys.readouterr().err


def test_another_pipeline_in_the_folder_is_not_finished(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed in its first step it leaves the report of the one before."""

    def inspected(folder: str) -> dict[str, Any]:
        assert cli.main(["inspect", folder, "--verify", "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    walked(capsys)
    assert inspected("walk")["facts"]["finished"]
    walk = Path("walk/pipeline.json")
    assert cli.main([*COMMAND, "--teacher.epochs=3", "--until", "teacher", "--out", "other", "--json"]) == 0
    capsys.readouterr()
    before, after = walk.read_text(), Path("other/pipeline.json").read_text()
    walk.write_text(after)
    assert not inspected("walk")["facts"]["finished"]
    walk.write_text(before)
    Path("walk").rename("moved")
    found = inspected("moved")
    assert found["facts"]["finished"]
    assert found["parts"][0]["folder"].startswith("moved/teacher-")


def test_a_walk_that_is_killed_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    folders = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *COMMAND, "--points.pause", "0.3"],
        env={**os.environ, "PYTHONPATH": folders},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while counted().get("piece", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= counted()["piece"] < 10
    assert became(walked(capsys)) == ["reused", "resumed", "made", "made"]
    assert counted()["piece"] == 10, "no piece is made twice"


def test_people_are_told_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(COMMAND) == 0
    said = capsys.readouterr().out
    for line in ("step 1 of 4: teacher", "step 2 of 4: points", "read off 5 of 10  1.0 points/s  5 s left"):
        assert line in said.splitlines()
    assert cli.main(COMMAND) == 0
    assert "points is there already: " in capsys.readouterr().out


def test_help_names_the_steps_and_one_step_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--help"]) == 0
    said = capsys.readouterr().out
    for shown in ("teacher", "lone-line", "--until", "--workers", "--address", "--teacher.help", "What a learned line"):
        assert shown in said
    assert "--teacher.epochs" not in said
    assert cli.main(["train", RECIPE, "--student.help"]) == 0
    said = capsys.readouterr().out
    assert "--student.epochs" in said
    assert "--student.line.points" in said
    for hidden in ("--student.out", "--student.by", "--student.seed", "--teacher.epochs"):
        assert hidden not in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher.epoch", "3"], "there is no flag --teacher.epoch. Did you mean --teacher.epochs?"),
        (["--techer.epochs", "3"], "--techer.epochs is of no step. Did you mean --teacher.epochs?"),
        (["--teacher.epochs", "many"], "--teacher.epochs: expected a whole number, not 'many'."),
        (["--epochs", "3"], "there is no flag --epochs."),
        (["--launcher", "rey"], "Did you mean 'ray'?"),
        (["--teacher.epochs", "-1"], "step 'teacher': --epochs is -1; expected a whole number of at least 0"),
        (["--lone-line.optimizer.lr", "-1"], "step 'lone-line': --optimizer.lr is -1.0; expected"),
        (["--workers", "0"], "error: --workers is 0; expected"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, *flags]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_a_pipelines_folder_is_told_from_a_runs(capsys: pytest.CaptureFixture[str]) -> None:
    report = walked(capsys)
    assert cli.main(["inspect", "walk", "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "pipeline"
    assert [part["step"] for part in found["parts"]] == STEPS
    assert cli.main(["inspect", report["steps"]["points"]["path"], "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["facts"]["points"]) == ("product", 10)
    assert cli.main(["evaluate", "walk"]) == 2
    assert "is the folder of a pipeline; give that of one of its runs: 'walk/lone-line-" in capsys.readouterr().err
    student = report["steps"]["student"]
    assert cli.main(["evaluate", student["path"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == student["metrics"]
    assert cli.main(["train", "sage-debian", "--out", "walk"]) == 2
    assert "'walk' holds a pipeline" in capsys.readouterr().err
    assert cli.main(["prepare", RECIPE]) == 2
    assert "is a pipeline" in capsys.readouterr().err

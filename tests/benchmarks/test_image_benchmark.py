"""The benchmark of images: a row is of the run that was made, stale ones are not counted, data is asked for first."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from halo_runs import ignore
from small_images import Small, Stripes, image_run

from framework.comm.group import Group
from framework.data.image_sets import FashionMNIST
from framework.engine.run import Prepared, Run, Worker
from framework.engine.train import train


class Here:
    """All of a run's work by one worker, in this process."""

    def together(self, main: str, run: Run, prepared: Prepared, size: int) -> list[Any]:
        assert main == "framework.engine.train:train"
        alone = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=ignore)
        return [train(run, alone)]


Command = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the benchmark, of two small recipes, with these arguments; gives the rows that are there then."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import cnn, harness

    def tiny(width: int) -> Run:
        return dataclasses.replace(image_run(Path("unused"), model=Small(width=width), ema=0.0), dtype="float32")

    monkeypatch.setattr(cnn, "Cluster", Here)
    monkeypatch.setattr(cnn, "RECIPES", {"cnn-resnet": lambda: tiny(3), "cnn-vgg": lambda: tiny(4)})
    monkeypatch.setattr(cnn, "SETS", {"fashion-mnist": Stripes(images=90), "mnist-5k": Stripes(images=40)})
    monkeypatch.setattr(cnn, "SEEDS", {"fashion-mnist": 1, "mnist-5k": 2})
    monkeypatch.setattr(cnn, "DIGIT_EPOCHS", cnn.recipes.EPOCHS + 1)
    monkeypatch.setattr(cnn, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(cnn, "DOCUMENT", tmp_path / "table.md")

    def run(*arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["cnn", "--work", str(tmp_path / "work"), *arguments])
        cnn.main()
        return harness.read(tmp_path / "rows.jsonl")

    return run


def lines(tmp_path: Path, table: str = "table.md") -> list[str]:
    """What the first table has in its first column."""
    text = (tmp_path / table).read_text().partition("## One worker")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]


def test_the_bar_is_measured_first_and_rows_are_measured_once(tmp_path: Path, command: Command) -> None:
    rows = command("--no-drift")
    found = [(row["set"], row["name"], row["seed"]) for row in rows]
    assert found[:2] == [("fashion-mnist", "cnn-resnet", 0), ("fashion-mnist", "cnn-vgg", 0)]
    assert len(set(found)) == len(found) == 2 + 2 * 2
    assert {row["precision"] for row in rows} == {"float32"}
    shown = ["fashion-mnist cnn-resnet", "fashion-mnist cnn-vgg", "mnist-5k cnn-resnet", "mnist-5k cnn-vgg"]
    assert lines(tmp_path)[1:] == shown
    assert command("--no-drift") == rows


def test_a_trial_neither_blocks_what_is_measured_nor_is_shown_beside_it(tmp_path: Path, command: Command) -> None:
    only = ("--no-drift", "--sets", "fashion-mnist", "--recipes", "cnn-resnet")
    assert command(*only, "--epochs", "1") == []
    assert lines(tmp_path / "work", "trial.md")[1:] == ["fashion-mnist cnn-resnet"]
    (row,) = command(*only)
    assert row["epochs"] == 4
    assert command(*only, "--epochs", "1", "--out", str(tmp_path / "rows.jsonl"))[0] == row
    command(*only)
    assert "| fashion-mnist cnn-resnet | float32 | " in (tmp_path / "table.md").read_text()
    assert [cells.split("|")[4].strip() for cells in table_of(tmp_path)] == ["4"]


def table_of(tmp_path: Path) -> list[str]:
    """The lines of the table's body."""
    return [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| fashion-mnist cnn")]


def test_a_recipe_that_was_changed_is_measured_anew(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import cnn

    only = ("--no-drift", "--sets", "fashion-mnist", "--recipes", "cnn-resnet")
    (before,) = command(*only)
    tuned = dataclasses.replace(cnn.RECIPES["cnn-resnet"](), epochs=2)
    monkeypatch.setitem(cnn.RECIPES, "cnn-resnet", lambda: tuned)
    rows = command(*only)
    assert [row["epochs"] for row in rows] == [4, 2]
    assert rows[0] == before
    (line,) = table_of(tmp_path)
    assert [cell.strip() for cell in line.split("|")[4:6]] == ["2", "1"]  # epochs, seeds


def test_half_precision_has_rows_of_its_own(tmp_path: Path, command: Command) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no arithmetic of bfloat16 here")
    only = ("--no-drift", "--sets", "fashion-mnist", "--recipes", "cnn-resnet")
    command(*only, "--precision", "bfloat16")
    rows = command(*only)
    assert [row["precision"] for row in rows] == ["bfloat16", "float32"]
    assert [line.split("|")[2].strip() for line in table_of(tmp_path)] == ["float32", "bfloat16"]


def test_drift_is_a_curve(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import cnn

    assert cnn.DRIFT["float64"] == (8, 3)
    monkeypatch.setattr(cnn, "DRIFT", {"float64": (8, 3)})
    rows = command("--sets", "--recipes", "cnn-resnet")
    assert [(row["kind"], row["workers"], row["dtype"], len(row["loss"])) for row in rows] == [
        ("drift", 1, "float64", 3),
        ("drift", 2, "float64", 3),
    ]
    assert rows[0]["run_digest"] == rows[1]["run_digest"]
    assert "| float64, resnet-8 | 0.0e+00, 0.0e+00, 0.0e+00 |" in (tmp_path / "table.md").read_text()


def test_missing_data_is_told_before_the_first_run(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import cnn

    monkeypatch.setitem(cnn.SETS, "mnist-5k", FashionMNIST(path=str(tmp_path)))
    with pytest.raises(SystemExit, match="is not there; name Fashion-MNIST's folder"):
        command("--no-drift")
    assert not (tmp_path / "rows.jsonl").exists()

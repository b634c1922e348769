"""What is shown while a run goes, and what its folder holds afterwards."""

import contextlib
import dataclasses
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_standins import small
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from framework.engine.folder import read_run
from framework.engine.run import Run
from framework.errors import InputError, StoreError
from launch import progress
from launch.record import recording


def events(epochs: int = 2) -> Iterator[dict[str, Any]]:
    """What a run tells."""
    for done in (0.0, 0.5, 1.0):
        yield {"event": "prepare", "what": "features", "done": done}
    yield {"event": "started"}
    for epoch in range(1, epochs + 1):
        for step in (1, 2):
            yield {"event": "step", "epoch": epoch - 1, "step": step, "steps": 2, "loss": 1.0 / step}
        yield {
            "event": "epoch",
            "epoch": epoch,
            "epochs": epochs,
            "loss": 1.0 / epoch,
            "seconds": 2.0,
            "metrics": {"validation_accuracy": 0.5, "test_accuracy": 0.25},
            "bytes": {"features": 4_000_000 * epoch, "gradient": 0},
        }


def test_in_a_pipe_every_epoch_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.showing(script=False) as watch:
        for event in events():
            watch(event)
    assert capsys.readouterr().out.splitlines() == [
        "prepare: features",
        "workers started",
        "epoch 1/2  loss 1.0000  validation accuracy 0.5000  2.00 s  2.0 MB/s",
        "epoch 2/2  loss 0.5000  validation accuracy 0.5000  2.00 s  2.0 MB/s",
    ]


def test_a_script_in_a_pipe_is_shown_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.showing(script=True) as watch:
        for event in events():
            watch(event)
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal_show_epochs_steps_loss_and_traffic() -> None:
    screen = io.StringIO()
    with progress.live(Console(file=screen, force_terminal=True, width=80, highlight=False)) as watch:
        for event in events():
            watch(event)
    text = screen.getvalue()
    for shown in ("prepare", "epoch", "step", "2/2", "loss 0.5000", "validation accuracy 0.5000", "2.0 MB/s"):
        assert shown in text


def record(run: Run, epochs: int = 2) -> None:
    with recording(run) as recorder:
        for event in events(epochs):
            recorder(event)
        recorder.report({"loss": [1.0]})


def test_live_lines_and_bars_show_what_they_are_told() -> None:
    """And read no markup, and no code of an emoji, in it."""
    stream = io.StringIO()
    piece = {"event": "pieces", "what": "a [bold]", "unit": "[/x]", "rate": 1.0, "left": 1.0}
    with progress.live(Console(file=stream, force_terminal=True, width=200, color_system=None)) as watch:
        watch({"event": "begins", "step": ":smile:", "number": 1, "steps": 1})
        watch({**piece, "done": 1, "total": 2})
    for expected in (
        "step 1 of 1: :smile:",
        "a [bold] 1 of 2  1.0 [/x]/s",
        "a [bold] \N{BOX DRAWINGS HEAVY HORIZONTAL}",
    ):
        assert expected in stream.getvalue()


def test_a_folder_holds_run_log_report_and_tensorboard(tmp_path: Path) -> None:
    run = dataclasses.replace(small(), out=str(tmp_path / "run"))
    record(run)
    folder = tmp_path / "run"
    assert read_run(folder) == run
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in line.items() if key != "time"} for line in lines] == list(events())
    assert json.loads((folder / "report.json").read_text()) == {"loss": [1.0]}
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [(point.step, point.value) for point in board.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert [point.value for point in board.Scalars("bytes/features")] == [4e6, 8e6]
    assert not [path for path in folder.iterdir() if path.name.endswith(".torn")]


def test_a_run_started_again_goes_on_with_its_log(tmp_path: Path) -> None:
    run = dataclasses.replace(small(), out=str(tmp_path))
    record(run)
    record(dataclasses.replace(run, workers=2))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2 * len(list(events()))
    assert read_run(tmp_path).workers == 2


@pytest.mark.parametrize("torn", ['{"time": 17', '{"event": "epoch"}\n{"time', "{}\n"])
def test_a_torn_last_line_of_a_log_goes(torn: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(torn)
    record(dataclasses.replace(small(), out=str(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == torn.count("\n") + len(list(events()))


def test_a_folder_with_another_runs_checkpoints_is_refused(tmp_path: Path) -> None:
    run = dataclasses.replace(small(), out=str(tmp_path))
    record(run)
    record(dataclasses.replace(run, seed=1))  # without checkpoints there is nothing to lose
    (tmp_path / "checkpoints" / "000001-00000000").mkdir(parents=True)
    record(dataclasses.replace(run, seed=1, epochs=9, workers=3))  # neither changes what is learned in an epoch
    with pytest.raises(InputError, match=r"holds another run: seed was 1, is now 2\. Give another --out"):
        record(dataclasses.replace(run, seed=2))
    assert read_run(tmp_path).seed == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file' cannot be written: "):
        record(dataclasses.replace(small(), out=str(tmp_path / "file")))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"plugin": "partitioner:random"}', '{"plugin": 3}', "{}"])
def test_a_torn_or_foreign_run_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=r"run\.json"):
        read_run(tmp_path)


def test_a_reader_who_leaves_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stdout", stream)
    with progress.showing(script=False) as watch:
        for event in events():
            watch(event)
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match="cannot be written: No space left"):
        record(dataclasses.replace(small(), out=str(tmp_path)))


def test_a_disk_that_refuses_a_report_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    run = dataclasses.replace(small(), out=str(tmp_path))
    with recording(run) as recorder:
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"report\.json' could not be written: Disk quota exceeded; free space"):
            recorder.report({"loss": [1.0]})
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "log.jsonl", "run.json"}


def test_a_board_that_cannot_be_closed_does_not_hide_the_error(tmp_path: Path) -> None:
    class Board:
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def failing() -> None:
        with recording(dataclasses.replace(small(), out=str(tmp_path))) as recorder:
            recorder._board = Board()
            raise InputError("the first")

    with pytest.raises(InputError, match="the first"):
        failing()


def test_a_folder_in_use_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    run = dataclasses.replace(small(), out=str(tmp_path / "run"))
    with recording(run) as recorder:
        with pytest.raises(InputError, match=rf"run' is in use by process {os.getpid()} of host .*another --out"):
            record(dataclasses.replace(run, seed=9))
        recorder.report({"loss": [1.0]})
    assert read_run(tmp_path / "run") == run, "the second start wrote nothing"
    record(run)

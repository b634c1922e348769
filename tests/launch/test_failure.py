"""Failures as data: the class that they come back as, and the traceback where a disk takes it."""

import io
import sys
from pathlib import Path

import pytest

from framework.engine.checkpoint import DamagedError
from framework.errors import InputError, LostWorkerError, ShardyardError, StoreError
from launch.failure import describe, restore, write_traceback


class MatchError(InputError):
    """What a plug-in may make of ours."""


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (LostWorkerError("gone"), LostWorkerError),
        (DamagedError("torn"), StoreError),
        (MatchError("odd"), InputError),
        (ShardyardError("so"), ShardyardError),
        (ValueError("so"), ShardyardError),
    ],
)
def test_an_error_comes_back_as_the_nearest_class_of_ours(error: Exception, known: type[ShardyardError]) -> None:
    restored = restore(describe(error, 0, Path("worker-0.log")))
    assert type(restored) is known
    assert str(error) in str(restored)


class Full(io.StringIO):
    """An output whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_on_a_full_disk_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "stderr", Full())
    write_traceback(ValueError("of this"), tmp_path / "file" / "worker-0.log")
    write_traceback(ValueError("of that"), tmp_path / "logs" / "worker-0.log")
    assert "ValueError: of that" in (tmp_path / "logs" / "worker-0.log").read_text()

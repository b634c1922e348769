"""A run killed without warning and started again: the same weights to the bit, or the same losses on other workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from framework.engine import checkpoint as checkpoints

FAR = ["--reach", "owned", "--ahead", "2", "--cache", "presampled"]
"""Rows of coming batches are under way at every checkpoint, and some are kept."""
SETTINGS = ["--epochs", "6", "--checkpoint-every", "2", "--dtype", "float64", "--parts", "4"]


def started(out: Path, *flags: str) -> "subprocess.Popen[str]":
    """`shardyard train` of the small run, in a process group of its own."""
    command = [sys.executable, "-m", "launch.cli", "train", "node_runs:recipe", *SETTINGS, *flags]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    where = ["--out", str(out), "--store", str(out.parent / "stores"), "--json"]
    return subprocess.Popen(
        command + where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(out: Path, *flags: str) -> dict[str, Any]:
    """The report of a run that ends by itself."""
    process = started(out, *flags)
    told, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    report: dict[str, Any] = json.loads(told)
    return report


def killed_in_the_middle(out: Path, *flags: str) -> None:
    """Kills everything of a run at once (SIGKILL) when it is in the middle of its third epoch."""
    process = started(out, *flags)
    deadline = time.monotonic() + 120
    while not any(name >= "000002-00000002" for name in checkpoints.places(out / "checkpoints")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for child in workers_of(process.pid):
        os.kill(child, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "report.json").exists()


def workers_of(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """Never stopped, two workers."""
    return finished(folder / "whole", "--workers", "2")


def test_killed_and_resumed_equals_never_stopped(folder: Path, whole: dict[str, Any]) -> None:
    killed_in_the_middle(folder / "killed", "--workers", "2", *FAR)
    resumed = finished(folder / "killed", "--workers", "2", *FAR)
    assert '"resumed"' in (folder / "killed" / "log.jsonl").read_text()
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["loss"] == whole["loss"]
    assert resumed["metrics"] == whole["metrics"]


def test_resumed_on_another_number_of_workers_has_the_same_losses(folder: Path, whole: dict[str, Any]) -> None:
    killed_in_the_middle(folder / "moved", "--workers", "2")
    resumed = finished(folder / "moved", "--workers", "3", *FAR)
    assert '"resumed"' in (folder / "moved" / "log.jsonl").read_text()
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-9)

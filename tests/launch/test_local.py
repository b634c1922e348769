"""The local launcher: workers start, talk and end; and whatever happens to one of them, one error says it, soon."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launch_mains
import pytest
import torch
from line_workload import Line

from framework.engine.run import Event, Main, Run
from framework.engine.train import train
from framework.errors import InputError, LostWorkerError, ShardyardError, StoreError
from framework.registry import LAUNCHERS
from launch.local import Local
from launch.start import start

SOON = 25.0
"""Seconds a failure may take to be told, importing torch included: far less than the group's deadline."""


def run_of(folder: Path, workers: int) -> Run:
    return Run(workload=Line(), workers=workers, dtype="float64", out=str(folder / "run"), store=str(folder / "stores"))


def started(
    folder: Path, workers: int, main: Main, watch: Callable[[Event], None] = lambda event: None
) -> dict[str, Any]:
    return start(run_of(folder, workers), watch, main)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_gone(pids: list[int]) -> bool:
    """Whether all of them end within a few seconds."""
    until = time.monotonic() + 10
    while not all(gone(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return all(gone(pid) for pid in pids)


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    answer = started(tmp_path, 1, launch_mains.meet)
    assert answer["pids"] == [os.getpid()]


def test_one_worker_computes_with_the_threads_it_is_given_and_leaves_no_trace(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run = dataclasses.replace(run_of(tmp_path, 1), launcher=Local(threads=before + 2))
    assert start(run, lambda event: None, launch_mains.meet)["threads"] == before + 2
    assert torch.get_num_threads() == before
    with pytest.raises(ShardyardError):
        start(run, lambda event: None, launch_mains.broken)
    assert torch.get_num_threads() == before
    assert started(tmp_path, 1, launch_mains.meet)["threads"] == before


def test_no_threads_are_refused() -> None:
    with pytest.raises(InputError, match=r"--launcher\.threads is 0; expected"):
        Local(threads=0)


def test_workers_meet_and_the_first_one_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events: list[Event] = []
    run = Run(workload=Line(), workers=3, dtype="float64", out="run", store="stores", launcher=Local(threads=2))
    answer = start(run, events.append, launch_mains.meet)
    assert len({*answer["pids"], os.getpid()}) == 4
    assert answer["total"] == 6
    assert answer["rank"] == 0
    assert answer["threads"] == 2
    assert answer["dtype"] == "float64"
    assert answer["parts"] == 1
    assert answer["out"] == str(tmp_path / "run")
    assert answer["path"] == str(tmp_path / "stores")
    assert len(set(answer["hosts"])) == 1
    assert events == [{"event": "started"}, {"event": "epoch", "epoch": 1}]
    assert 0 < answer["seconds"]["start"] < answer["seconds"]["total"]
    assert all_gone(answer["pids"])


def test_a_defect_is_told_once_with_its_place(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(ShardyardError) as caught:
        started(tmp_path, 3, launch_mains.broken)
    assert time.monotonic() - begin < SOON
    message = str(caught.value)
    assert "worker 1 failed: ValueError: of this and that (launch_mains.py:" in message
    assert ", in broken)" in message
    assert "\n" not in message
    assert type(caught.value) is ShardyardError
    assert "Traceback" in (tmp_path / "run" / "worker-1.log").read_text()


def test_a_defect_of_the_only_worker_is_told_alike(tmp_path: Path) -> None:
    with pytest.raises(ShardyardError, match=r"worker 0 failed: ValueError: of this and that \(launch_mains.py:"):
        started(tmp_path, 1, launch_mains.broken)
    assert "Traceback" in (tmp_path / "run" / "worker-0.log").read_text()


@pytest.mark.parametrize(("workers", "worker"), [(1, 0), (2, 1)])
def test_a_network_that_leaves_ends_its_run_alone(tmp_path: Path, workers: int, worker: int) -> None:
    with pytest.raises(ShardyardError, match=rf"worker {worker} failed: SystemExit: enough \(launch_mains.py:"):
        started(tmp_path, workers, launch_mains.leaving)


def test_an_error_of_the_user_keeps_its_class_and_exit_code(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="^the store is torn$") as caught:
        started(tmp_path, 3, launch_mains.refused)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="^--dtype float64 is not to my taste$"):
        started(tmp_path, 2, launch_mains.refused_everywhere)


@pytest.mark.parametrize(
    ("main", "words"), [(launch_mains.killed, "ended by SIGKILL"), (launch_mains.left, "exit code 7 and no word")]
)
def test_a_worker_that_dies_is_named_and_the_others_are_ended(tmp_path: Path, main: Main, words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(LostWorkerError, match=f"worker 1 of 3 .*{words}.*--out") as caught:
        started(tmp_path, 3, main)
    assert time.monotonic() - begin < SOON
    assert caught.value.exit_code == 3


def test_an_interrupt_ends_all_workers(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(event: Event) -> None:
        pids.extend(event["pids"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(tmp_path, 2, launch_mains.wait, interrupt)
    assert len(pids) == 2
    assert all_gone(pids)


def test_workers_do_not_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import launch_mains, test_local\n"
        "test_local.started(Path(sys.argv[1]), 2, launch_mains.wait, lambda event: print(*event['pids'], flush=True))\n"
    )
    paths = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert all_gone(pids)


def test_a_main_that_others_cannot_import_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a function of a module"):
        started(tmp_path, 2, lambda run, worker: {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="'.*run' cannot be written.*--out"):
        started(tmp_path, 2, launch_mains.meet)


def test_it_is_a_plugin_that_maps_here() -> None:
    assert LAUNCHERS.get("local") is Local
    assert list(Local().mapper()(abs, [-1, 2])) == [1, 2]


def test_a_folder_for_passing_things_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "job #1? 50%25 é"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert started(tmp_path, 2, train)["epochs"] == run_of(tmp_path, 2).epochs
    assert not list(tmp_path.glob("job"))

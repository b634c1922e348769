"""Workers of a benchmark end with it, however it ends: none goes on in a folder that the next one trains in."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDING = 60.0
"""Seconds after which a wait is given up: most of them are for imports of a busy machine."""
MAIN = """
import os, pathlib, time

def linger(run, worker):
    pathlib.Path(run.out, str(worker.group.rank)).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)

def answer(run, worker):
    return worker.group.rank
"""
BENCHMARK = """
import sys
from collections.abc import Callable
from pathlib import Path
from benchmarks.workers import Cluster
from framework.engine.run import Prepared
from small_images import image_run

run = image_run(Path(sys.argv[1]))
prepared = Prepared(path=Path(), data_digest="", seconds=0.0, facts={})
print(Cluster().together(f"lingering:{sys.argv[2]}", run, prepared, 2))
"""


def started(folder: Path, main: str) -> "subprocess.Popen[str]":
    """A benchmark whose two workers do `main`."""
    (folder / "lingering.py").write_text(MAIN)
    (folder / "benchmark.py").write_text(BENCHMARK)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(folder)])
    command = [sys.executable, str(folder / "benchmark.py"), str(folder), main]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def awaited(what: str, come: Callable[[], bool]) -> None:
    """Waits until `come()` is true."""
    until = time.monotonic() + ENDING
    while not come():
        assert time.monotonic() < until, f"{what} within {ENDING:g} s"
        time.sleep(0.05)


def is_there(process: int) -> bool:
    """Whether a process is, and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_benchmark(tmp_path: Path, ending: signal.Signals) -> None:
    benchmark = started(tmp_path, "linger")
    files = [tmp_path / str(rank) for rank in (0, 1)]
    try:
        awaited("workers began", lambda: all(file.exists() and file.read_text() for file in files))
        workers = [int(file.read_text()) for file in files]
        assert all(map(is_there, workers))
    finally:
        benchmark.send_signal(ending)
        benchmark.wait()
    try:
        awaited("workers ended", lambda: not any(map(is_there, workers)))
    finally:
        for worker in filter(is_there, workers):
            os.kill(worker, signal.SIGKILL)


def test_workers_answer_and_end(tmp_path: Path) -> None:
    benchmark = started(tmp_path, "answer")
    said, _ = benchmark.communicate(timeout=ENDING)
    assert (said.strip(), benchmark.returncode) == ("[0, 1]", 0)

"""The launcher `local`: one worker in this process, or several as processes of this machine.

A worker process reads its job from its standard input, writes what it tells (one JSON object a line) to a pipe of its
own, and everything else it prints to `worker-<rank>.log` in the run's folder. It ends when its standard input ends: so
no worker outlives the process that started it, however that one died.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from framework.comm.group import Group
from framework.engine.run import Event, Main, Mapper, Prepared, Run, Worker, is_kept
from framework.errors import InputError, LostWorkerError, ShardyardError
from framework.registry import LAUNCHERS
from launch.failure import describe, log_file, restore, write_traceback
from launch.worker import Job, by_threads, device_of, threads_for

GRACE = 2.0
"""Seconds that the other workers' errors are waited for once one has lost the group: one of them is the cause."""
_POLL = 0.1


@LAUNCHERS.register("local")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Local:
    """Run the workers on this machine."""

    threads: int | None = None
    """Threads of each worker. None: the cores of this machine, shared out."""

    def __post_init__(self) -> None:
        """Refuses a number of threads that cannot compute."""
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--launcher.threads is {self.threads}; expected a whole number of at least 1.")

    def launch(self, main: Main, run: Run, prepared: Prepared, watch: Callable[[Event], None]) -> dict[str, Any]:
        """What `main` returns on the first worker. Raises one ShardyardError, once no worker is left running."""
        if run.workers == 1:
            with _threads(self.threads or torch.get_num_threads()):
                return _in_process(main, run, prepared, watch)
        job = Job.of(main, run, prepared, self.threads or threads_for(run.workers))
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shardyard-"))
            crew = _Crew(Path(run.out), watch)
            stack.callback(crew.end)
            meet = {"size": run.workers, "rendezvous": (Path(folder) / "meet").as_uri()}
            for rank in range(run.workers):
                crew.start(rank, {**dataclasses.asdict(job), **meet})
            return crew.result()

    def mapper(self) -> Mapper:
        """One item after another, here; an object that is kept is applied by as many threads as there are cores."""
        return _mapped


def _mapped(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """A Mapper. A thread of ours computes with one of torch's."""
    if not is_kept(function):
        yield from map(function, items)
        return
    with _threads(1):
        yield from by_threads(function, items)


def _in_process(main: Main, run: Run, prepared: Prepared, watch: Callable[[Event], None]) -> dict[str, Any]:
    device = device_of(run, 0)
    with Group.alone(device) as group:
        try:
            return main(run, Worker(group=group, prepared=prepared, device=device, watch=watch))
        except ShardyardError:
            raise
        except (Exception, SystemExit) as error:  # a network may leave by sys.exit
            if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
                raise  # as the command does when it is told to end
            log = log_file(Path(run.out), 0)
            write_traceback(error, log)
            raise restore(describe(error, 0, log)) from error


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch, and our kernels with it, compute with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Crew:
    """The worker processes of one run, and what is heard of them."""

    def __init__(self, folder: Path, watch: Callable[[Event], None]) -> None:
        self._folder = folder
        self._watch = watch
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._heard: dict[int, bytes] = {}
        self._results: dict[int, dict[str, Any]] = {}
        self._errors: dict[int, ShardyardError] = {}

    def start(self, rank: int, job: dict[str, Any]) -> None:
        """Starts worker `rank`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            log = log_file(self._folder, rank).open("ab")
        except OSError as error:
            raise InputError(f"'{self._folder}' cannot be written: {error.strerror}. Name another --out.") from error
        reading, writing = os.pipe()
        with log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from launch.local import work; work()"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                start_new_session=True,  # a Ctrl-C at the terminal reaches this process alone, which then ends them
                env=_environment(job["threads"]),
            )
        os.close(writing)
        self._processes.append(process)
        self._selector.register(reading, selectors.EVENT_READ, rank)
        self._heard[rank] = b""
        assert process.stdin is not None
        line = json.dumps({**job, "rank": rank, "tell": writing, "log": str(log_file(self._folder, rank))})
        with contextlib.suppress(BrokenPipeError):  # a worker that died already is noticed by its exit
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What the first worker's main returned, once all have returned. Raises the error that caused the others."""
        give_up = float("inf")
        while len(self._results) < len(self._processes):
            ended = {rank for rank, process in enumerate(self._processes) if process.poll() is not None}
            ready = self._selector.select(_POLL)
            for key, _ in ready:
                self._read(key.fd, key.data)
            # What a worker has written before its end is in its pipe: without any, it has said all it had to say.
            died = self._died(ended - {key.data for key, _ in ready})
            cause = next((error for error in self._errors.values() if not isinstance(error, LostWorkerError)), died)
            if cause is not None:
                raise cause
            if self._errors:
                give_up = min(give_up, time.monotonic() + GRACE)
            if time.monotonic() > give_up:
                raise min(self._errors.items())[1]
        return self._results[0]

    def end(self) -> None:
        """Ends every worker that is left, and what it has started, at once."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def _read(self, pipe: int, rank: int) -> None:
        data = os.read(pipe, 1 << 16)
        if not data:
            self._selector.unregister(pipe)
            os.close(pipe)
            return
        *lines, self._heard[rank] = (self._heard[rank] + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "result" in told:
                self._results[rank] = told["result"]
            elif "error" in told:
                self._errors[rank] = restore(told["error"])
            else:
                self._watch(told)

    def _died(self, silent: set[int]) -> LostWorkerError | None:
        """The loss of a worker, one of `silent`, that ended without a result and without a word; if there is one."""
        for rank in sorted(silent - self._results.keys() - self._errors.keys()):
            code = self._processes[rank].returncode
            if code < 0:
                return self._loss(rank, f"was ended by {signal.Signals(-code).name}")
            return self._loss(rank, f"ended with exit code {code} and no word")
        return None

    def _loss(self, rank: int, how: str) -> LostWorkerError:
        return LostWorkerError(
            f"worker {rank} of {len(self._processes)} {how}; the others were ended. Its output is in "
            f"{log_file(self._folder, rank)}. Start the run again with the same --out to resume it."
        )


def work() -> None:
    """The whole life of a worker process."""
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tell = _teller(told.pop("tell"))
    rank, log = told["rank"], Path(told.pop("log"))
    place = {name: told.pop(name) for name in ("rank", "size", "rendezvous")}
    try:
        result = Job(**told).perform(**place, local_rank=rank, tell=tell)
        tell({"result": result})
    except BaseException as error:
        write_traceback(error, log)
        tell({"error": describe(error, rank, log)})
        sys.stdout.flush()
        os._exit(1)  # at once: the clean-up of a broken group could wait for those that are lost


def _teller(pipe: int) -> Callable[[dict[str, Any]], None]:
    """Writes messages to the pipe, each as one line."""
    os.set_inheritable(pipe, False)  # a process that the main starts must not keep it open
    channel = os.fdopen(pipe, "wb", buffering=0)

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message).encode() + b"\n")

    return tell


def _end_with_parent() -> None:
    """Waits until the process that started this one closes its end, by will or by dying."""
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)


def _environment(threads: int) -> dict[str, str]:
    """This process's, with the paths that it imports from and the threads of a worker."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }

"""Workers of a benchmark: processes on this host, or one on each of several hosts made of network namespaces.

Assumptions: hosts are made by `netns_cluster.sh` (in the folder that SHARDYARD_NETNS names, or `shared/netns` beside
the repository), which needs root; every process of a benchmark makes its own. A worker computes with one thread. It
ends when its standard input does, whose other end the benchmark holds: so none outlives a benchmark that was killed and
goes on in a folder where the next one trains.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.engine.run import Prepared, Run
from framework.engine.train import train
from launch.worker import Job

ROOT = Path(__file__).parents[1]
SCRIPT = Path(os.environ.get("SHARDYARD_NETNS", ROOT.parent / "shared" / "netns")) / "netns_cluster.sh"
NETWORK = "10.78.6"  # of the hosts; they see no other
FIRST_PORT = 29511
ANSWER = "answer: "  # what a line of a worker begins with that says what its main returned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where workers run."""

    prefix: str | None = None
    """Of the names of the hosts' namespaces. None: all on this host."""

    @classmethod
    @contextlib.contextmanager
    def of(cls, hosts: int, rate: str) -> "Iterator[Cluster]":
        """Makes that many hosts, linked at `rate` (`100mbit`), for the time of the `with`."""
        cluster = cls(prefix=f"shardyard{os.getpid()}")
        cluster._script("up", str(hosts), rate)
        try:
            yield cluster
        finally:
            cluster._script("down")

    def set_rate(self, host: int, rate: str) -> None:
        """Links a host at another rate."""
        self._script("rate", str(host), rate)

    def together(self, main: str, run: Run, prepared: Prepared, size: int) -> list[Any]:
        """What `main(run, worker)` returns on each of `size` workers, by rank. Raises SystemExit where one fails.

        `main`: `module:function`, for a benchmark that is run is `__main__`, which workers cannot import."""
        (said,) = self.in_turn(main, [(run, prepared)], size)
        return said

    def in_turn(self, main: str, runs: Sequence[tuple[Run, Prepared]], size: int) -> Iterator[list[Any]]:
        """As `together`, of one run after the other, each as soon as it is there.

        The processes stay, for starting them takes seconds; every run has a group of its own."""
        jobs = [dataclasses.replace(Job.of(train, run, prepared, 1), main=main) for run, prepared in runs]
        with tempfile.TemporaryDirectory() as folder:
            told = [
                {"job": dataclasses.asdict(job), "rendezvous": self._rendezvous(Path(folder), turn)}
                for turn, job in enumerate(jobs)
            ]
            processes = [self._start({"rank": rank, "size": size, "turns": told}) for rank in range(size)]
            try:
                for _ in runs:
                    yield [answer_of(process) for process in processes]
            except BaseException:
                for process in processes:
                    process.stdin.close()  # type: ignore[union-attr]  # for one in a namespace gets no signal
                    process.terminate()
                raise
            finally:
                for process in processes:
                    process.wait()

    def _rendezvous(self, folder: Path, turn: int) -> str:
        """Where the workers of a turn meet: nowhere twice, for the last turn's port may not be free yet."""
        return f"file://{folder}/{turn}" if self.prefix is None else f"tcp://{NETWORK}.1:{FIRST_PORT + turn}"

    def _start(self, request: dict[str, Any]) -> "subprocess.Popen[str]":
        return self.start(request["rank"], ["benchmarks.workers", json.dumps(request)])

    def start(
        self, host: int, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Starts `python -m ARGUMENTS` on a host, with pipes to its input and from its output.

        `variables`: of its environment, beside those of all workers."""
        command = [sys.executable, "-m", *arguments]
        if self.prefix is not None:
            command = ["bash", str(SCRIPT), "exec", str(host), *command]
        environment = {**self._environment(), **(variables or {})}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **pipes, env=environment, cwd=ROOT)

    def _script(self, *words: str) -> None:
        subprocess.run(["bash", str(SCRIPT), *words], env=self._environment(), check=True, stdout=subprocess.DEVNULL)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "RT_PREFIX": self.prefix or "",
            "RT_NET": NETWORK,
            "GLOO_SOCKET_IFNAME": "",
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        }


def answer_of(process: "subprocess.Popen[str]") -> Any:
    """The next of a worker's answers; what it prints besides is left out. Raises SystemExit where it ended without."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(ANSWER):
            return json.loads(line.removeprefix(ANSWER))
    raise SystemExit(f"a worker failed, with exit code {process.wait()}; what it said is above.")


def _work(rank: int, size: int, turns: list[dict[str, Any]]) -> None:
    """One worker; prints what its main returns, turn by turn."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    place: dict[str, Any] = {"rank": rank, "size": size, "local_rank": 0, "tell": lambda event: None}
    for turn in turns:
        answer = Job(**turn["job"]).perform(rendezvous=turn["rendezvous"], **place)
        print(ANSWER + json.dumps(answer), flush=True)


def _end_with_input() -> None:
    """Ends this process, whatever it does, once nobody holds the other end of its standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    _work(**json.loads(sys.argv[1]))

"""Workers of a benchmark: processes on this host, or one on each of several hosts made of network namespaces.

Assumptions: hosts are made by `netns_cluster.sh` (in the folder that SHARDYARD_NETNS names, or `shared/netns` beside
the repository), which needs root; every process of a benchmark makes its own. A worker computes with one thread.
"""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from framework.engine.run import Prepared, Run
from framework.engine.train import train
from launch.worker import Job

ROOT = Path(__file__).parents[1]
SCRIPT = Path(os.environ.get("SHARDYARD_NETNS", ROOT.parent / "shared" / "netns")) / "netns_cluster.sh"
NETWORK = "10.78.6"  # of the hosts; they see no other


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
        address, port = ("127.0.0.1", _free_port()) if self.prefix is None else (f"{NETWORK}.1", 29511)
        job = dataclasses.asdict(dataclasses.replace(Job.of(train, run, prepared, 1), main=main))
        processes = []
        for rank in range(size):
            request = {"rank": rank, "size": size, "rendezvous": f"tcp://{address}:{port}"}
            command = [sys.executable, "-m", "benchmarks.workers", json.dumps({"job": job, **request})]
            if self.prefix is not None:
                command = ["bash", str(SCRIPT), "exec", str(rank), *command]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, stdout=pipe, text=True, env=self._environment(), cwd=ROOT))
        said = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            raise SystemExit(f"a worker failed: {[process.returncode for process in processes]}")
        return [json.loads(text.splitlines()[-1]) for text in said]

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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _work(request: dict[str, Any]) -> None:
    """One worker; prints what its main returns."""
    job = Job(**request.pop("job"))
    print(json.dumps(job.perform(**request, local_rank=0, tell=lambda event: None)))


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))

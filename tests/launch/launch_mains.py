"""What the tests of launchers run on workers: small mains that meet, fail, die or wait."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from framework.comm.stage import stage
from framework.engine.run import Run, Worker
from framework.errors import InputError, StoreError


def meet(run: Run, worker: Worker) -> dict[str, Any]:
    """Who came, and where they are."""
    worker.watch({"event": "started"})
    worker.watch({"event": "epoch", "epoch": 1})
    pids = worker.group.gather_json(os.getpid())
    total = worker.group.all_reduce(torch.tensor(worker.group.rank + 1), "loss")
    return {
        "pids": pids,
        "total": int(total),
        "rank": worker.group.rank,
        "threads": torch.get_num_threads(),
        "out": run.out,
        "path": str(worker.prepared.path),
        "parts": worker.prepared.facts["parts"],
        "hosts": list(worker.group.hosts),
        "dtype": run.dtype,
    }


def staged(run: Run, worker: Worker) -> dict[str, Any]:
    """What every worker sees of the prepared folder after staging, and of what it held before."""
    before = worker.group.gather_json((worker.prepared.path / "manifest.json").exists())
    prepared = stage(worker.group, worker.prepared)
    held = sorted((str(file.relative_to(prepared.path)), file.stat().st_size) for file in prepared.path.rglob("*.*"))
    return {
        "before": before,
        "held": worker.group.gather_json(held),
        "sent": worker.group.gather_json(worker.group.sent),
        "hosts": list(worker.group.hosts),
    }


def broken(run: Run, worker: Worker) -> dict[str, Any]:
    """A defect on worker 1 (or on the only one), while the others wait for it."""
    if worker.group.rank == min(1, worker.group.size - 1):
        raise ValueError("of this\nand that")
    worker.group.barrier()
    return {}


def leaving(run: Run, worker: Worker) -> dict[str, Any]:
    """A network of worker 1 (or of the only one) ends the process, while the others wait for it."""
    if worker.group.rank == min(1, worker.group.size - 1):
        sys.exit("enough")
    worker.group.barrier()
    return {}


def refused(run: Run, worker: Worker) -> dict[str, Any]:
    """An error of the user's on worker 1, while the others wait for it."""
    if worker.group.rank == 1:
        raise StoreError("the store is torn")
    worker.group.barrier()
    return {}


def refused_everywhere(run: Run, worker: Worker) -> dict[str, Any]:
    """The same error on every worker."""
    raise InputError(f"--dtype {run.dtype} is not to my taste")


def killed(run: Run, worker: Worker) -> dict[str, Any]:
    """Worker 1 dies by a signal, while the others wait for it."""
    if worker.group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.group.barrier()
    return {}


def left(run: Run, worker: Worker) -> dict[str, Any]:
    """Worker 1 ends without a word."""
    if worker.group.rank == 1:
        os._exit(7)
    worker.group.barrier()
    return {}


def wait(run: Run, worker: Worker) -> dict[str, Any]:
    """Tells the workers' process numbers and then waits for very long."""
    worker.watch({"event": "waiting", "pids": worker.group.gather_json(os.getpid())})
    time.sleep(600)
    return {}


def killed_once(run: Run, worker: Worker) -> dict[str, Any]:
    """Worker 1 dies by a signal the first time it is started; the second time all is well."""
    mark = Path(run.out) / "killed"
    worker.watch({"event": "started"})
    first = worker.group.gather_json(not mark.exists())[0]
    if worker.group.rank == 1 and first:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    worker.group.barrier()
    return {"first": first}

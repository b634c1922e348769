"""What a started worker does, whichever launcher started it: read its job, join the group, run the main, and tell.

Assumption: jobs, events, results and errors cross processes as JSON, never as pickles. So a main is a function of a
module, named as `module:function`, and a run is what framework.config writes it as.
"""

import concurrent.futures
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from framework.comm.group import Group
from framework.config import decode, encode
from framework.engine.run import Event, Main, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.registry import load

Tell = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What all workers of a run are told alike."""

    main: str
    """The function they run: `module:function`."""
    run: dict[str, Any]
    """The run, encoded."""
    prepared: dict[str, Any]
    """Its data, encoded."""
    threads: int
    """Threads that each of them may compute with."""

    @classmethod
    def of(cls, main: Main, run: Run, prepared: Prepared, threads: int) -> "Job":
        """Raises InputError for a main that another process could not import."""
        name = getattr(main, "__qualname__", "")
        if main.__module__ == "__main__" or not name.isidentifier():
            raise InputError(
                f"main is '{main.__module__}:{name}'; expected a function of a module that can be imported."
            )
        facts = {"data_digest": prepared.data_digest, "seconds": prepared.seconds, "facts": encode(prepared.facts)}
        return cls(
            main=f"{main.__module__}:{name}",
            run=encode(run),
            prepared={**facts, "path": str(prepared.path)},
            threads=threads,
        )

    def perform(
        self,
        *,
        rank: int,
        size: int,
        rendezvous: str,
        local_rank: int,
        tell: Tell,
        listener: socket.socket | None = None,
        mapper: Mapper | None = None,
    ) -> dict[str, Any]:
        """Joins the group as worker `rank`; returns what the main returns. The first worker's events go to `tell`.

        `mapper`: what the worker's maps go by; None: threads of its own process."""
        torch.set_num_threads(self.threads)
        run = decode(self.run, trusted=True)  # by the process that started this one
        prepared = Prepared(**{**self.prepared, "path": Path(self.prepared["path"])})
        device = device_of(run, local_rank)
        with Group.join(
            rank=rank, size=size, rendezvous=rendezvous, device=device, deadline=run.deadline, listener=listener
        ) as group:
            watch = tell if rank == 0 else _ignore
            mapper = mapper or by_threads
            worker = Worker(group=group, prepared=prepared, device=device, watch=watch, mapper=mapper)
            main: Main = load(self.main, "main")
            return main(run, worker)


def device_of(run: Run, local_rank: int) -> torch.device:
    """Where worker number `local_rank` of a host computes. Raises InputError for a device that there is not."""
    if run.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("--device is cuda, but torch sees no GPU on this host; use --device cpu.")
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, as it is in products of matrices
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def by_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Results in the items' order (a Mapper), as many at a time as this host has processors: others wait meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=threads_for(1)) as pool:
        yield from pool.map(function, items)


def threads_for(workers: int) -> int:
    """Threads of each of so many workers of this host."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def _ignore(event: Event) -> None:
    """What becomes of the events of all workers but the first."""

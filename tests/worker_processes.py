"""Runs a function in several processes that form a group: for tests of what workers say to each other."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from framework.comm.group import Group

ENDING = 90.0
"""Seconds after which a test is given up."""


def together(size: int, function: Callable[..., Any], *arguments: Any, deadline: float = 30.0) -> list[Any]:
    """`function(group, *arguments)` on every worker of a group of `size`; what each returned, by rank.

    `function` belongs to a module; `deadline` is the group's. Raises AssertionError with the traceback of a worker that
    failed; for a worker that died, the answer is None."""
    context = multiprocessing.get_context("forkserver")
    # What takes seconds to import is imported once, not in every worker; the optimisers of torch import its compiler.
    context.set_forkserver_preload(["framework.workloads.nodes", "torch._dynamo", "pytest"])
    with tempfile.TemporaryDirectory() as folder:
        meet = {"size": size, "rendezvous": f"file://{folder}/meet", "deadline": deadline}
        started = [_start(context, {"rank": rank, **meet}, function, arguments) for rank in range(size)]
        return [_answer(process, pipe, rank) for rank, (process, pipe) in enumerate(started)]


def _start(
    context: Any, meet: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[BaseProcess, Connection]:
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(writing, meet, function, arguments), daemon=True)
    process.start()
    writing.close()
    return process, reading


def _answer(process: BaseProcess, pipe: Connection, rank: int) -> Any:
    if not pipe.poll(ENDING):
        process.kill()
        raise AssertionError(f"worker {rank} did not end within {ENDING:g} s")
    try:
        succeeded, answer = pipe.recv()
    except EOFError:
        return None
    process.join()
    assert succeeded, f"worker {rank} failed:\n{answer}"
    return answer


def _work(pipe: Connection, meet: dict[str, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        with Group.join(**meet) as group:
            answer = function(group, *arguments)
        pipe.send((True, answer))
    except BaseException:
        pipe.send((False, traceback.format_exc()))

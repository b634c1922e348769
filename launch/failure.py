"""A worker's failure as data: one line for the user, carried across processes; the traceback in the worker's log.

Nothing here imports torch, so that a process without it can read a failure.
"""

import contextlib
import sys
import traceback
from pathlib import Path

from framework import errors
from framework.errors import ShardyardError, told


def log_file(run_folder: Path, rank: int) -> Path:
    """Where a worker's own output goes, and the traceback of a defect."""
    return run_folder / f"worker-{rank}.log"


def describe(error: BaseException, rank: int, log: Path) -> dict[str, str]:
    """An error as data: the text of one of ours, and its class or the nearest that every process knows; of another, its
    place."""
    if isinstance(error, ShardyardError):
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return {"type": known.__name__, "message": str(error)}
    return {
        "type": ShardyardError.__name__,
        "message": f"worker {rank} failed: {told(error)}. The traceback is in {log}.",
    }


def restore(described: dict[str, str]) -> ShardyardError:
    """The error that `describe` made data of."""
    known = getattr(errors, described["type"], ShardyardError)
    error: ShardyardError = known(described["message"])
    return error


def write_traceback(error: BaseException, log: Path) -> None:
    """Appends the traceback of `error` to a worker's log, as far as its disk takes it: what it is comes otherwise."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        with contextlib.suppress(OSError):  # of a worker process that is the log, too
            traceback.print_exception(error, file=sys.stderr)

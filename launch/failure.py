"""A worker's failure as data: one line for the user, carried across processes; the traceback in the worker's log.

Nothing here imports torch, so that a process without it can read a failure.
"""

import sys
import traceback
from pathlib import Path

from framework import errors
from framework.errors import ShardyardError, told


def log_file(run_folder: Path, rank: int) -> Path:
    """Where a worker's own output goes, and the traceback of a defect."""
    return run_folder / f"worker-{rank}.log"


def describe(error: BaseException, rank: int, log: Path) -> dict[str, str]:
    """An error as data: the class and text of one of ours; of another, its place."""
    if isinstance(error, ShardyardError):
        return {"type": type(error).__name__, "message": str(error)}
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
    """Appends the traceback of `error` to a worker's log, as far as its disk takes it."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error, file=sys.stderr)

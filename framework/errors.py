"""The errors a user may see, each with the exit code its command ends on.

A message is one line: what was given, what was expected, and what would do. Whoever starts a run prints the message
alone; a traceback is for our own defects. An error that is none of these is told with the place it comes from.
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_OURS = {"framework", "launch", "partitioners"}
_LIBRARIES = {
    *("dgl", "numpy", "pyarrow", "pymetis", "ray", "safetensors", "scipy", "torch", "torch_geometric", "tyro"),
    *sys.stdlib_module_names,
}


class ShardyardError(Exception):
    """A failure with a cause we can name. Ends a command with `exit_code`."""

    exit_code = 1


class InputError(ShardyardError):
    """Something the user gave (a file, a flag, a value, a plug-in) cannot be used."""

    exit_code = 2


class PluginError(InputError):
    """A plug-in failed, or answered what it may not."""


class StoreError(InputError):
    """A shard store or a checkpoint is missing, torn, altered, or of another version."""


class NewerVersionError(StoreError):
    """A store or a checkpoint that a newer program wrote: whole, but not for this one to read or to replace."""


class LostWorkerError(ShardyardError):
    """A worker, a host or a link was lost and could not be brought back."""

    exit_code = 3


def told(error: BaseException) -> str:
    """An error that is none of ours as one line: its class, its text, and the file and line it comes from."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({_place(error)})" if text else f"{type(error).__name__} ({_place(error)})"


def asked(failed: str, question: Callable[[], T]) -> T:
    """What a plug-in answers. Raises PluginError where it raises what is none of our errors: `failed`, which says whose
    question was on what, then the error and its place in the plug-in's code."""
    try:
        return question()
    except ShardyardError:
        raise
    except Exception as error:
        raise PluginError(f"{failed}: {told(error)}.") from error


def is_foreign(error: BaseException) -> bool:
    """Whether somebody else's code, a plug-in or a network, was being run when `error` was raised."""
    return any(package not in _OURS | _LIBRARIES for package, _ in _frames(error))


def _place(error: BaseException) -> str:
    """`file.py:12, in name`: the deepest frame of a user's code, else of ours, else of all."""
    frames = _frames(error)
    if not frames:
        return "nowhere"
    theirs = [frame for package, frame in frames if package not in _OURS | _LIBRARIES]
    ours = [frame for package, frame in frames if package in _OURS]
    found = (theirs or ours or [frame for _, frame in frames])[-1]
    return f"{Path(found.filename).name}:{found.lineno}, in {found.name}"


def _frames(error: BaseException) -> list[tuple[str, traceback.FrameSummary]]:
    """The frames that `error` came through, each with the name of its package, outermost first."""
    walked = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return list(zip(map(_package, walked), traceback.extract_tb(error.__traceback__), strict=True))


def _package(frame: FrameType) -> str:
    """The top-level name of a frame's module; of one that was started with `python -m`, by its own name."""
    spec = frame.f_globals.get("__spec__")
    return str(spec.name if spec else frame.f_globals.get("__name__", "")).partition(".")[0]

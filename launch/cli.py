"""The command `shardyard`: finds the command, runs it, and turns whatever goes wrong into one line and an exit code.

0: done. 1: a failure. 2: bad input or usage. 3: a worker was lost. 130: interrupted. 143: ended by SIGTERM. With
SHARDYARD_DEBUG=1 the traceback is shown as well. The current directory is searched for modules, so that
`module:function` finds a user's own.
"""

import contextlib
import difflib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from framework import log
from framework.errors import InputError, ShardyardError, is_foreign, told

COMMANDS = {
    "demo": "A real graph, two partitioners compared, a network trained on two workers: three minutes.",
    "prepare": "Write a recipe's data as training reads it: a graph cut into shards, images and sentences as stores.",
    "train": "Train a recipe.",
    "evaluate": "Measure the trained weights of a run again.",
    "predict": "Write a run's classes or embeddings to a Parquet file.",
    "translate": "Translate sentences of your own by a trained run, a line each.",
    "inspect": "Say what a shard store, a checkpoint or a run's folder holds, and verify it.",
    "list": "List the plug-ins of a kind, built-in and installed.",
    "check": "Run the conformance suite over a plug-in.",
    "doctor": "Say what of this installation and machine works.",
}

_INTERRUPTED, _TERMINATED = 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` (by default those of the process) name. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("stdout", "stderr"):  # closed by whoever called, as by `>&-`
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
    resume = " The same command resumes the run from its last checkpoint." if given[:1] == ["train"] else ""
    try:
        with _ended_by_sigterm():
            code = _dispatch(given)
            sys.stdout.flush()  # what a disk refuses is told now, not by the interpreter when it ends
            return code
    except KeyboardInterrupt as error:
        return _tell(error, f"interrupted.{resume}", _INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has left, as `head` does: no failure of ours
        _close_output()
        return 0
    except ShardyardError as error:
        return _tell(error, str(error), error.exit_code)
    except SystemExit as leaving:
        if leaving.code == signal.SIGTERM:
            return _tell(leaving, f"ended by SIGTERM.{resume}", _TERMINATED)
        if isinstance(leaving.code, str) or is_foreign(leaving):  # a user's module, or a network, has left
            return _tell(leaving, f"{told(leaving)}; code that is not Shardyard's ended the command", 1)
        return leaving.code or 0  # help was printed
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"a disk is full: {told(error)}. Free space, then start again.{resume}"
            return _tell(error, text, InputError.exit_code)
        whose = "code that is not Shardyard's" if is_foreign(error) else "this is a defect"
        return _tell(error, f"{told(error)}; {whose}, SHARDYARD_DEBUG=1 shows the traceback", 1)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end what is done meanwhile as Ctrl-C does, workers and all: the signal is raised as an exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = arguments
    if name == "--version":
        from framework import __version__

        print(f"shardyard {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"there is no command '{name}'.{guess} Commands: {', '.join(COMMANDS)}.")
    log.configure()
    if "" not in sys.path:
        sys.path.append("")  # last: a user's folder called `launch` is not to stand in front of ours
    code: int = importlib.import_module(f"launch.commands.{name}").command(rest)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: shardyard COMMAND [FLAGS]",
            "",
            "Partition large graphs and data sets, and train on the parts.",
            "",
            *lines,
            "",
            "`shardyard COMMAND --help` says more. Example: shardyard train sage-debian --workers 2",
        ]
    )


def _tell(error: BaseException, text: str, code: int) -> int:
    """The one line a user sees of a failure."""
    if os.environ.get("SHARDYARD_DEBUG") == "1":
        traceback.print_exception(error)
    try:
        sys.stdout.flush()
    except OSError:
        _close_output()
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code


def _close_output() -> None:
    """What is still to be written goes nowhere: the interpreter would fail on it once more when it ends."""
    with contextlib.suppress(OSError, ValueError):  # some have no descriptor, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

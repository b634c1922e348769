"""A run's folder as the starting process fills it: run.json, log.jsonl, TensorBoard, report.json. And a pipeline's.

Assumption: one process at a time starts a run in a folder, and holds the lock of it; workers write nothing here but
checkpoints and weights. What is started again in its folder goes on with the same log.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from framework.config import encode
from framework.engine.files import replacing
from framework.engine.folder import CHECKPOINTS, PREPARED, REPORT, RUN, encoded_run
from framework.engine.pipeline import Pipeline
from framework.engine.recorded import recorded
from framework.engine.run import Event, Run
from framework.errors import InputError, StoreError
from launch.plain import to_json

PIPELINE, LOG, BOARD = "pipeline.json", "log.jsonl", "tensorboard"
DIGEST = "pipeline_digest"
"""What a pipeline's folder and its report say which pipeline they are of by."""
_LOCK = ".lock"
_OF_A_START = (RUN, PIPELINE, PREPARED, REPORT)  # what a start writes over
_BEGINNINGS = ("step", "epoch", "begins")  # events after which a folder is of what was started in it
_RESULT = ("run_digest", "data_digest", "weights_digest")  # what reports of the same result have in common


class Recorder:
    """Takes the events of a run: every one to the log, the numbers of every epoch to TensorBoard too."""

    def __init__(self, folder: Path, log: IO[str], before: Mapping[str, bytes]) -> None:
        """Use `recording` instead, which opens and closes what belongs to it; `before`: the files as it found them."""
        self.folder, self._log, self._before = folder, log, before
        self._board: Any = None
        self.begun = False
        """Whether something was learned, or a step of a pipeline taken up, since this start."""

    def __call__(self, event: Event) -> None:
        """Writes one event as a line of JSON. Raises InputError where the folder's disk takes no more."""
        self.begun = self.begun or event["event"] in _BEGINNINGS
        try:
            self._log.write(to_json({"time": round(time.time(), 3), **event}) + "\n")
            self._log.flush()
            if event["event"] == "epoch":
                self._plot(event)
        except OSError as error:
            text = f"the log in '{self.folder}' cannot be written: {error.strerror}. Free space, then start again."
            raise InputError(text) from error

    def report(self, report: Mapping[str, Any]) -> None:
        """Writes report.json, whole or not at all."""
        write_json(self.folder / REPORT, report)

    def earlier_report(self, report: Mapping[str, Any]) -> dict[str, Any] | None:
        """The report that an earlier start wrote here of the same result. None: there is none, or it is torn."""
        earlier = self.earlier()
        same = earlier.keys() >= set(_RESULT) and all(earlier[name] == report[name] for name in _RESULT)
        return earlier if same else None

    def earlier(self) -> dict[str, Any]:
        """The report that was here before this start; empty where there was none, or a torn one."""
        try:
            earlier = json.loads(self._before[REPORT])
        except (KeyError, ValueError):
            return {}
        return earlier if isinstance(earlier, dict) else {}

    def restore(self) -> None:
        """Puts back, as they were before this start, the files that say what the folder is of; takes new ones away.

        One that was torn is worth less than what this start wrote."""
        for name in _OF_A_START:
            if name in self._before:
                if _is_whole(self._before[name]):
                    _write(self.folder / name, self._before[name])
            else:
                (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _plot(self, event: Event) -> None:
        epoch = event["epoch"]
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and a run of no epochs needs none

            # Steps from here on that an earlier, interrupted start wrote are taken back.
            self._board = SummaryWriter(self.folder / BOARD, purge_step=epoch)
        scalars = {"loss": event["loss"], "seconds": event["seconds"], **event.get("metrics", {})}
        scalars |= {f"bytes/{purpose}": count for purpose, count in event.get("bytes", {}).items()}
        scalars |= {f"busy/{activity}": seconds for activity, seconds in event.get("busy", {}).items()}
        scalars |= {f"staleness/{lane}": steps for lane, steps in event.get("staleness", {}).items()}
        for name, value in scalars.items():
            self._board.add_scalar(name, value, epoch)
        self._board.flush()


@contextmanager
def recording(run: Run) -> Iterator[Recorder]:
    """The recorder of a run's folder, which is locked meanwhile.

    Raises InputError where the folder is of another run, is in use, or cannot be written."""
    with _recording(Path(run.out), RUN, encode(run), lambda: _refuse_another(Path(run.out), run)) as recorder:
        yield recorder


@contextmanager
def recording_pipeline(folder: Path, pipeline: Pipeline) -> Iterator[Recorder]:
    """The recorder of a pipeline's folder, which is locked meanwhile; the steps' runs have folders of their own.

    Raises InputError where the folder is a run's, is in use, or cannot be written."""
    content = {**encode(pipeline), DIGEST: pipeline.digest()}
    with _recording(folder, PIPELINE, content, lambda: _refuse_run(folder)) as recorder:
        yield recorder


@contextmanager
def _recording(folder: Path, name: str, content: Any, check: Callable[[], None]) -> Iterator[Recorder]:
    """The recorder of a folder that says by the `content` of file `name` what it is of, once `check` has passed."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            check()
            before = {file: (folder / file).read_bytes() for file in _OF_A_START if (folder / file).exists()}
            _write(folder / name, (json.dumps(content, indent=2) + "\n").encode())  # inf and nan as they are
            log = _appending(folder / LOG)
        except OSError as error:
            text = f"the run's folder '{folder}' cannot be written: {error.strerror}. Give another --out."
            raise InputError(text) from error
        recorder = Recorder(folder, log, before)
        try:
            yield recorder
        except BaseException:
            if not recorder.begun:  # refused: whoever asks the weights that are here finds them as before
                with contextlib.suppress(OSError, InputError):
                    recorder.restore()
            raise
        finally:
            for ended in (recorder, log):
                with contextlib.suppress(OSError):  # what could not be written was told when it was
                    ended.close()


def _appending(path: Path) -> IO[str]:
    """A log of lines, to go on with: what a full disk or a kill left of a last line is taken away. Raises OSError."""
    if path.is_file():
        lines, newline, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(path, len(lines + newline))
    return path.open("a")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a run's folder for this process. Raises InputError where another one holds it; OSError."""
    with (folder / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            text = f"'{folder}' is in use by {lock.read().strip() or 'another process'}, which trains a run in it."
            raise InputError(f"{text} Wait for it, end it, or give another --out.") from error
        except OSError:  # a file system without locks: two starts at once would not be noticed there
            pass
        lock.truncate(0)
        lock.write(f"process {os.getpid()} of host {socket.gethostname()}\n")
        lock.flush()
        yield


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all. Raises InputError where the disk refuses."""
    _write(path, (to_json(value, indent=2) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as torn:
        torn.write_bytes(data)


def _is_whole(text: bytes) -> bool:
    """Whether it is JSON to its end."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _refuse_another(folder: Path, run: Run) -> None:
    """Before anything is started: a folder with checkpoints goes on with its own run, or not at all."""
    if (folder / PIPELINE).exists():
        raise InputError(f"'{folder}' holds a pipeline; a run needs a folder of its own. Give another --out.")
    if not (folder / RUN).exists() or not any((folder / CHECKPOINTS).glob("[0-9]*")):
        return
    try:
        earlier = recorded(encoded_run(folder), run)  # nothing of it is imported
    except StoreError:
        return  # torn by a power cut; checkpoints say themselves what they are of
    changed = _differences(earlier, recorded(encode(run), run))
    if changed:
        raise InputError(
            f"'{folder}' holds another run: {'; '.join(changed[:3])}. Give another --out, or remove the folder."
        )


def _refuse_run(folder: Path) -> None:
    """Before anything is started: a run's folder does not become a pipeline's."""
    if (folder / RUN).exists():
        raise InputError(f"'{folder}' holds a run; a pipeline needs a folder of its own. Give another --out.")


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    """`path before -> after` for every setting that is not the same."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict) and before.get("plugin") == after.get("plugin"):
        lines = []
        for name in sorted({*before, *after}):
            lines += _differences(before.get(name), after.get(name), f"{path}.{name}".strip("."))
        return lines
    return [f"{path} was {_short(before)}, is now {_short(after)}"]


def _short(value: Any) -> str:
    return str(value.get("plugin", value)) if isinstance(value, dict) else str(value)

"""Digests of large raw files, kept in a folder so that a start does not read every byte again.

Assumptions: a file whose path, size and times of change are those of before has the content of before. One that was
changed a moment ago is not kept: it could change once more within the same tick of its file system's clock.
"""

import contextlib
import contextvars
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "file-digests"
_WORTH = 16 << 20  # bytes; a smaller file is read in less time than anybody notices
_SETTLED = 2_000_000_000  # nanoseconds since the last change, more than a tick of any file system's clock
_KEEPER: contextvars.ContextVar[Path | None] = contextvars.ContextVar("keeper", default=None)


@contextlib.contextmanager
def remembering(root: Path) -> Iterator[None]:
    """Meanwhile `file_digest` keeps what it finds in a folder beneath `root`, and looks there first."""
    before = _KEEPER.set(root / FOLDER)
    try:
        yield
    finally:
        _KEEPER.reset(before)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. Raises OSError."""
    keeper, found = _KEEPER.get(), path.stat()
    settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
    if keeper is None or found.st_size < _WORTH or not settled:
        return _read(path)
    name = str(path.absolute())
    state = {"path": name, "size": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    note = keeper / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
    known = _noted(note)
    if known.items() >= state.items() and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = _read(path)
    with contextlib.suppress(OSError):  # a folder that takes no notes costs time alone
        keeper.mkdir(parents=True, exist_ok=True)
        torn = keeper / f".{uuid.uuid4().hex}"
        torn.write_text(json.dumps({**state, "sha256": digest}))
        torn.replace(note)
    return digest


def _noted(note: Path) -> dict[str, Any]:
    """What a note says; nothing where there is none, or one that is not whole."""
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

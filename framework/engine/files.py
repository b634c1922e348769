"""Files that appear whole, and errors of a disk as one line.

Hosts may share the disk: a writer leaves alone what others beside it have not finished."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.errors import InputError
from framework.store.folder import to_disk


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns a disk's refusal (full, not writable) into one InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"'{path}' could not be written: {error.strerror}; free space or change --out.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; when that is done, it becomes `path`. Nothing is left of what was not finished."""
    torn = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield torn
            to_disk(torn)
            torn.replace(path)
            to_disk(path.parent)  # or a power cut could leave the name with nothing beneath it
    finally:
        with suppress(OSError):  # where the disk refused, that is what is told
            torn.unlink(missing_ok=True)


def remove_torn(folder: Path) -> None:
    """Removes what writers that were killed left in `folder`. While nobody writes there."""
    for path in folder.glob(".*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


_TORN = re.compile(r"\..+\.[0-9a-f]{32}")  # what `replacing` writes to

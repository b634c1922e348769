"""How a folder appears: whole, by one rename, or not at all. What a killed process left unfinished is removed.

Assumptions: a rename inside one folder is atomic, and a lock on a file ends with the process that holds it.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from framework.errors import InputError, NewerVersionError, StoreError

T = TypeVar("T")

LOCK = "lock"
"""The file of a hidden folder that says whether its writer still lives; gone when the folder has its name."""
_SYNC_THREADS = 32


@contextlib.contextmanager
def temporary_folder(root: Path, name: str) -> Iterator[Path]:
    """A new hidden folder in `root`, to be published or removed. Raises InputError for a `root` that takes no files,
    and for a disk that fills up meanwhile."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        folder = root / f".{name}-{socket.gethostname()}-{uuid.uuid4().hex}"
        lock = _lock(folder)
    except OSError as error:
        raise InputError(f"'{root}' cannot hold stores: {error}. Name a folder that can be written.") from error
    try:
        with full_disk_named(root):
            yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def once(path: Path, open: Callable[[Path], T], make: Callable[[Path], object]) -> tuple[T, bool]:
    """What the folder `path` holds, as `open` gives it, and whether it was there.

    Where it is missing or damaged, `make` fills a hidden folder beside it, which then takes its name. Raises
    NewerVersionError for a folder that is not ours to replace, InputError as `temporary_folder` does."""
    found = _found_whole(path, open)
    if found is not None:
        return found, True
    with temporary_folder(path.parent, path.name) as folder:
        make(folder)
        publish(folder, path, whole=lambda path: _found_whole(path, open))
    return open(path), False


def _found_whole(path: Path, open: Callable[[Path], T]) -> T | None:
    """What the folder `path` holds, as `open` gives it; None where it is missing or damaged. Raises
    NewerVersionError."""
    try:
        return open(path)
    except NewerVersionError:
        raise
    except StoreError:
        return None


def once_resumed(
    path: Path,
    work: Path,
    open: Callable[[Path], T],
    make: Callable[[Path], object],
    waiting: Callable[[], None] = lambda: None,
) -> tuple[T, bool]:
    """As `once`, of what is long in the making: `make` keeps what it has not finished in the folder `work`, which
    outlives a kill. Another process that needs the same waits, says so once by `waiting`, and then finds it."""
    found = _found_whole(path, open)
    if found is not None:
        return found, True
    with work_folder(work, waiting):
        return once(path, open, make)


def publish(folder: Path, path: Path, *, whole: Callable[[Path], object]) -> None:
    """Renames the finished `folder` to `path`. Where another process was faster its folder stays, if it is `whole`, and
    ours goes. Raises OSError."""
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:  # the disk takes many files at once as fast as one
        list(pool.map(to_disk, [*folder.rglob("*"), folder]))
    try:
        folder.rename(path)
    except OSError:
        if not path.exists():  # nobody was faster: it cannot be done
            raise
        if whole(path):
            return
        path.rename(folder.with_name(folder.name + "-damaged"))
        folder.rename(path)
        shutil.rmtree(folder.with_name(folder.name + "-damaged"), ignore_errors=True)
    (path / LOCK).unlink(missing_ok=True)  # not before: it is what tells that a hidden folder was abandoned
    to_disk(path.parent)


def replace_file(file: Path, path: Path) -> None:
    """Moves a finished file to `path`, on the same disk, whole or not at all. Raises OSError."""
    to_disk(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.replace(path)
    to_disk(path.parent)


@contextlib.contextmanager
def work_folder(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A folder for what is not finished yet, which outlives a kill: for one process at a time, the others wait, however
    long that takes, and say so once by `waiting`. It is removed at the end of the `with`, unless that ends with an
    exception. Raises InputError for a disk that fills up, or takes no files."""
    name = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _held(name, waiting)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"'{path.parent}' takes no files: {error}. Name a folder that can be written.") from error
    try:
        with full_disk_named(path):
            yield path
        shutil.rmtree(path, ignore_errors=True)  # without locks somebody else may have done so
        name.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _held(name: Path, waiting: Callable[[], None]) -> int:
    """Waits for a lock of that name; returns its descriptor. Whoever held it before may have removed it."""
    while True:
        lock = os.open(name, os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), name.stat()):
                return lock
        os.close(lock)


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk (or quota) beneath `folder` into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the disk of '{folder}' is full: nothing was made there. "
            "Free space (about three times the raw data), or name a folder on another disk."
        ) from error


def _lock(folder: Path) -> int:
    """Makes `folder` with a lock file inside, locked before others can see it. Returns the lock's descriptor."""
    outside = folder.with_name(folder.name + ".lock")
    lock = os.open(outside, os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):  # a file system without locks: what is abandoned there stays
        fcntl.flock(lock, fcntl.LOCK_EX)
    folder.mkdir()
    outside.rename(folder / LOCK)
    return lock


def to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, will survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(root: Path) -> None:
    """Removes the hidden folders of processes of this host that ended without doing so: nobody holds their lock."""
    for lock in root.glob(f".*-{socket.gethostname()}-*/{LOCK}"):
        # Not made anew where it has just gone: its folder was published. Nor is another one in its place ours.
        with contextlib.suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                shutil.rmtree(lock.parent, ignore_errors=True)

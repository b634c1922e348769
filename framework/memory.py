"""What a piece of work adds to the memory of this process at its worst moment; freed memory, given back; rows on disk.

Assumptions: Linux resets the high-water mark of the resident set when 5 is written to clear_refs; where it cannot, the
mark of the whole life of the process is used, and what stayed below it shows as 0.
"""

import ctypes
import mmap
import os
import resource
import tempfile
from pathlib import Path

import torch

LARGE = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes added at the peak since this object was made, or since it was last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from what is resident now."""
        try:
            _CLEAR.write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = _lifetime_peak()

    def added(self) -> int:
        """The highest resident set since the start, less what was resident then, in bytes."""
        peak = _status("VmHWM") if _STATUS.exists() else _lifetime_peak()
        return max(0, peak - self._before)


class RowsOnDisk:
    """Rows of float32 in a file without a name, which goes with them; in memory while they are used.

    For what is read now and then in a long run, and is too much to be held meanwhile."""

    def __init__(self, count: int, columns: int, folder: Path) -> None:
        """Rows of zeros; the file lies in `folder`. Raises OSError where the disk does not take it."""
        size = max(1, count * columns * torch.float32.itemsize)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would end the process
            self._pages = mmap.mmap(file.fileno(), size)
        whole = torch.frombuffer(self._pages, dtype=torch.float32, count=count * columns) if count * columns else None
        self.rows = torch.empty(count, columns) if whole is None else whole.view(count, columns)
        """float32 [count, columns]."""

    def rest(self) -> None:
        """Takes no memory until the rows are used again."""
        self._pages.madvise(mmap.MADV_DONTNEED)


def return_large_tensors() -> None:
    """From now on this process gives a freed tensor of `LARGE` bytes or more back to the system at once.

    glibc learns from what is freed to keep up to 32 MiB each for later, and large tensors of many sizes then leave
    holes that others do not fit: 200 MiB of them beside the names of a million nodes. Does nothing where the C library
    is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, 16 * LARGE)  # else the top of the heap would come and go with every small tensor


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def _lifetime_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

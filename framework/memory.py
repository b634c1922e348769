"""What a piece of work adds to the memory of this process at its worst moment; and freed memory, given back.

Assumptions: Linux resets the high-water mark of the resident set when 5 is written to clear_refs; where it cannot, the
mark of the whole life of the process is used, and what stayed below it shows as 0.
"""

import ctypes
import resource
from pathlib import Path

LARGE = 4 << 20
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


def return_large_tensors() -> None:
    """From now on this process gives a freed tensor of `LARGE` bytes or more back to the system at once.

    glibc learns from what is freed to keep up to 32 MiB each for later, and large tensors of many sizes then leave
    holes that others do not fit. Does nothing where the C library is another."""
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

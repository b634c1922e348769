"""What a piece of work adds to the memory of this process at its worst moment.

Assumptions: Linux resets the high-water mark of the resident set when 5 is written to clear_refs; where it cannot, the
mark of the whole life of the process is used, and what stayed below it shows as 0.
"""

import resource
from pathlib import Path

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


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def _lifetime_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

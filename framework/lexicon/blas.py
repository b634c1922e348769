"""Products of matrices with one thread: how many there are decides in which order numpy's library adds a sum up."""

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


class _OneThread:
    """The library's limit, which is the process's: of whichever of its threads asks, the last puts it back."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._limit: threadpool_limits | None = None

    def enter(self) -> None:
        with self._lock:
            if self._limit is None:
                self._limit = threadpool_limits(1, user_api="blas")
            self._within += 1

    def leave(self) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._limit is not None:
                self._limit.restore_original_limits()
                self._limit = None


_ONE_THREAD = _OneThread()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """numpy multiplies with one thread meanwhile, whichever of the process's threads asks it to."""
    _ONE_THREAD.enter()
    try:
        yield
    finally:
        _ONE_THREAD.leave()

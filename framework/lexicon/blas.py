"""Products of matrices with one thread: how many there are decides in which order numpy's library adds a sum up."""

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_within = 0  # how many threads of this process are in a `one_thread`: the library's limit is the process's
_limit: threadpool_limits | None = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """numpy multiplies with one thread meanwhile, whichever of the process's threads asks it to."""
    global _within, _limit
    with _lock:
        if not _within:
            _limit = threadpool_limits(1, user_api="blas")
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within and _limit is not None:
                _limit.restore_original_limits()
                _limit = None

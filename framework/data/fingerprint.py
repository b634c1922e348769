"""What a data set is, in one digest: its files and arrays byte by byte, and its settings.

Assumptions: reading a file costs far less than parsing it (and a large one is read once, see digests.py); a path says
nothing, the content all.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework import config
from framework.data.digests import file_digest
from framework.errors import InputError


def fingerprint(
    settings: Mapping[str, Any], *, files: Iterable[Path] = (), arrays: Iterable[NDArray[Any] | None] = ()
) -> str:
    """SHA-256, 64 hex digits, of `settings` (plain values), the content of `files`, and `arrays` with types and shapes.

    Raises InputError for a file that cannot be read."""
    parts = [config.digest(settings), *(_of_file(file) for file in files), *(_of_array(array) for array in arrays)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _of_file(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}. Name a file that is there.") from error


def _of_array(array: NDArray[Any] | None) -> str:
    if array is None:
        return "none"
    if array.dtype.hasobject:  # whose bytes are addresses
        raise InputError(f"an array holds {array.dtype}; expected numbers or text: give it a type of NumPy's.")
    header = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()

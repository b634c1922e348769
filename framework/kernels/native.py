"""The compiled kernels: found, loaded, called.

Assumptions: `_native.so` beside this file was made by setup.py of all of `source/`, has a plain C interface (pointers,
int64, double) and no state. ctypes gives the GIL up for the time of a call. Whoever calls has checked shapes, types
and contiguity; nothing here does.
"""

import ctypes
import functools
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.errors import ShardyardError

Argument = Tensor | NDArray[Any] | int | float | None

_PATH = Path(__file__).with_name("_native.so")


def available() -> bool:
    """Whether the C++ kernels can be called: they were compiled, and SHARDYARD_KERNELS does not ask for the twins."""
    return os.environ.get("SHARDYARD_KERNELS") != "torch" and _library() is not None


def usable(*tensors: Tensor | None) -> bool:
    """Whether the C++ kernels can be called on `tensors`: `available`, and all of them lie in main memory."""
    return all(tensor is None or tensor.device.type == "cpu" for tensor in tensors) and available()


def typed(name: str, *tensors: Tensor) -> str:
    """The instance of the template `name` for the types of `tensors`: `spmm` -> `spmm_float32_int64`."""
    return "_".join([name, *(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)])


def call(name: str, *arguments: Argument) -> int:
    """Call the C function `name` with torch's number of threads and return its int64.

    A contiguous tensor or array goes as the pointer to its first element, None as the null pointer, a whole number as
    int64 (of a larger one its low 64 bits), another number as double."""
    library = _library()
    assert library is not None, "ask available() first"
    try:
        function = library[name]
    except AttributeError as error:
        raise ShardyardError(
            f"the compiled kernels ({_PATH}) have no '{name}': they are older than their sources; run "
            "`python setup.py build_ext --inplace` or install again."
        ) from error
    function.restype = ctypes.c_int64
    library.set_threads(ctypes.c_int64(torch.get_num_threads()))
    result: int = function(*map(_convert, arguments))
    return result


def _convert(argument: Argument) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        if argument.device.type != "cpu":  # a pointer there would end the process
            raise ShardyardError(
                f"a kernel was given memory of {argument.device}: torch.set_default_device is not for these workers; "
                "say --device instead."
            )
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_int64(argument)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The loaded library, or None; the cache makes the note about a missing one appear once."""
    if not _PATH.exists():
        logging.getLogger("shardyard").warning("no compiled kernels were installed: their slower torch twins are used.")
        return None
    try:
        return ctypes.CDLL(str(_PATH))
    except OSError as error:
        logging.getLogger("shardyard").warning(
            "the compiled kernels cannot be loaded (%s): their slower torch twins are used.", error
        )
        return None

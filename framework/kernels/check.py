"""Cheap checks of a kernel's arguments, done before anything in C++ touches memory.

A check costs one pass over index arrays at most. On a GPU the values of indices are left to torch's own checks there,
for reading them would wait for the device.
"""

import torch
from torch import Tensor

from framework.errors import InputError

INDEX_TYPES = (torch.int32, torch.int64)
FEATURE_TYPES = (torch.float32, torch.float64)


def index(name: str, tensor: Tensor, size: int | None = None) -> Tensor:
    """`tensor`, contiguous, once it is one-dimensional int32 or int64 (and of `size` entries, where given)."""
    if tensor.dtype not in INDEX_TYPES or tensor.dim() != 1:
        raise InputError(
            f"{name} is {_kind(tensor)}; expected a one-dimensional int32 or int64 tensor: convert it with .to()."
        )
    if size is not None and len(tensor) != size:
        raise InputError(f"{name} has {len(tensor)} entries; expected {size}.")
    return tensor.contiguous()


def long(name: str, tensor: Tensor, size: int | None = None) -> Tensor:
    """`index`, as int64."""
    return index(name, tensor, size).to(torch.int64)


def features(name: str, tensor: Tensor, shape: tuple[int | None, ...], like: Tensor | None = None) -> Tensor:
    """`tensor`, contiguous, once it is float32 or float64 (or the type of `like`) and of `shape` (None: any)."""
    expected = FEATURE_TYPES if like is None else (like.dtype,)
    if tensor.dtype not in expected:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in expected)
        raise InputError(f"{name} is {_kind(tensor)}; expected {names}: convert it with .to().")
    fits = len(shape) == tensor.dim() and all(
        wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{name} is {_kind(tensor)}; expected shape [{wanted}].")
    return tensor.contiguous()


def ends(indptr: Tensor, num_edges: int) -> Tensor:
    """`indptr`, contiguous, once it is int64 [rows + 1], from 0 to `num_edges`. No row is looked at."""
    if indptr.dtype != torch.int64 or indptr.dim() != 1 or len(indptr) == 0:
        raise InputError(f"indptr is {_kind(indptr)}; expected one-dimensional int64 with rows + 1 entries.")
    if indptr.device.type == "cpu" and (int(indptr[0]) != 0 or int(indptr[-1]) != num_edges):
        raise InputError(
            f"indptr runs from {int(indptr[0])} to {int(indptr[-1])}; expected 0 to the number of edges, {num_edges}."
        )
    return indptr.contiguous()


def pointers(indptr: Tensor, num_edges: int) -> Tensor:
    """As `ends`, once it never falls either."""
    indptr = ends(indptr, num_edges)
    if indptr.device.type == "cpu" and bool((falls := indptr[1:] < indptr[:-1]).any()):
        row = int(falls.nonzero()[0])
        raise InputError(
            f"indptr falls from {int(indptr[row])} to {int(indptr[row + 1])} at row {row}; expected each row to end "
            "where it begins, or behind."
        )
    return indptr


def count(name: str, value: int) -> None:
    """Raise InputError for a number of things below 0."""
    if value < 0:
        raise InputError(f"{name} is {value}; expected a number of at least 0.")


def below(name: str, indices: Tensor, limit: int) -> None:
    """Raise InputError unless every index is in [0, limit)."""
    if len(indices) == 0 or indices.device.type != "cpu":
        return
    least, most = (int(value) for value in torch.aminmax(indices))
    if least < 0 or most >= limit:
        raise outside(name, least if least < 0 else most, limit)


def outside(name: str, value: int, limit: int) -> InputError:
    """The error of an index `value` that is not in [0, limit)."""
    return InputError(f"{name} holds {value}; expected ids from 0 to {limit - 1}.")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

"""The dictionary step: raw ids, of any int64 or text, to the dense original ids and back.

Assumptions: the ids of all nodes fit in memory, twice. Another process reads a dictionary from its folder, mapped.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from framework.errors import InputError
from framework.graph.edges import Ids

UNKNOWN = -1
"""What `lookup` answers for an id that no node has."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """Sorted raw ids, and which original id each stands for."""

    keys: NDArray[Any]
    """Raw ids, sorted, each once: int64 [N] or text [N]."""
    originals: Ids
    """The original id of each: int64 [N]."""

    @classmethod
    def of(cls, ids: NDArray[Any], where: str) -> "Dictionary":
        """Original id i stands for `ids[i]`. `where` they are from, for an error. Raises InputError for an id twice."""
        order = np.argsort(ids, kind="stable")
        keys = ids[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            raise InputError(f"{where} has the id {keys[twice[0]]} more than once; expected every node once.")
        return cls(keys=keys, originals=order.astype(np.int64))

    def lookup(self, ids: NDArray[Any]) -> Ids:
        """Raw ids to original ones, UNKNOWN where there is none. [n] -> int64 [n]."""
        if not len(self.keys) or (self.keys.dtype.kind == "U") != (ids.dtype.kind == "U"):
            return np.full(len(ids), UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(self.keys, ids), len(self.keys) - 1)
        return np.where(self.keys[places] == ids, self.originals[places], UNKNOWN)

    def save(self, folder: Path) -> None:
        """Writes the dictionary into `folder`, for `load`."""
        np.save(folder / "keys.npy", self.keys)
        np.save(folder / "originals.npy", self.originals)

    @classmethod
    def load(cls, folder: Path) -> "Dictionary":
        """The dictionary that was saved in `folder`, mapped."""
        keys, originals = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "originals"))
        return cls(keys=keys, originals=originals)


def raw_ids(column: pa.Array, where: str) -> NDArray[Any]:
    """A column of ids as int64 or text. Raises InputError for another type, a too large number, a missing value."""
    if column.null_count:
        raise InputError(f"{where} has {column.null_count} rows without an id; expected one in every row.")
    if pa.types.is_integer(column.type):
        try:
            numbers: NDArray[Any] = column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise InputError(f"{where} has ids over 2**63 - 1; expected int64 numbers or text.") from error
        return numbers
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return np.asarray(column.to_pylist(), dtype=np.str_)
    raise InputError(f"{where} has ids of type {column.type}; expected int64 numbers or text.")

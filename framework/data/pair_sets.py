"""What a data set of pairs of sentences is: a value with a fingerprint, which opens as texts.

Assumptions: the texts fit in memory, as Arrow arrays. A sentence is a line; a pair of which one side is blank says
nothing and is left out, and counted.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from framework.data.dataset import TEST, TRAIN
from framework.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RawPairs:
    """s pairs of sentences: row i of each column is of pair i."""

    source: pa.Array
    """What is to be translated: text [s]."""
    target: pa.Array
    """What it is in the other language: text [s]."""
    split: NDArray[np.uint8]
    """What every pair is for: TRAIN, VALIDATION or TEST, uint8 [s]."""
    ids: NDArray[Any] | None = None
    """The raw id of every pair: int64 [s] or text [s]. None: its number."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What a reader of the prepared pairs should know: how many were left out."""


@runtime_checkable
class PairSet(Protocol):
    """A data set of pairs of sentences. A plug-in: its fields are its configuration."""

    def fingerprint(self) -> str:
        """Hex digest of the raw bytes and the settings: two sets with the same one have the same pairs."""

    def open(self) -> RawPairs:
        """The pairs. Raises InputError for raw data that cannot be used."""

    def origin(self) -> "PairSet":
        """The set whose training sentences the vocabulary is learned from: this one, or the one it was made of."""


def without_blanks(pairs: RawPairs) -> RawPairs:
    """The pairs of which neither side is blank; `facts` says how many were left out."""
    whole = np.array(
        [bool(source.strip()) and bool(target.strip()) for source, target in zip(
            pairs.source.to_pylist(), pairs.target.to_pylist(), strict=True
        )],
        dtype=bool,
    )  # fmt: skip
    return only(pairs, whole, left_out="blank_pairs")


def only(pairs: RawPairs, kept: NDArray[np.bool_], *, left_out: str) -> RawPairs:
    """The pairs that are `kept` (bool [s]), by the ids that they had; `facts` adds up under `left_out` the others."""
    ids = np.arange(len(kept)) if pairs.ids is None else pairs.ids
    return RawPairs(
        source=pairs.source.filter(pa.array(kept)),
        target=pairs.target.filter(pa.array(kept)),
        split=pairs.split[kept],
        ids=ids[kept],
        facts={**pairs.facts, left_out: pairs.facts.get(left_out, 0) + int((~kept).sum())},
    )


def check_pairs(pairs: RawPairs) -> None:
    """Raises InputError where columns are of unlike lengths, a split is none, or nothing is left to train on."""
    number = len(pairs.source)
    for name in ("target", "split", "ids"):
        column = getattr(pairs, name)
        if column is not None and len(column) != number:
            raise InputError(f"{name} has {len(column)} rows; expected {number}, one a pair.")
    wrong = np.flatnonzero(pairs.split > TEST)
    if len(wrong):
        raise InputError(f"the split of pair {wrong[0]} is {pairs.split[wrong[0]]}; expected 0 to {TEST}.")
    if not (pairs.split == TRAIN).any():
        raise InputError("no pair of sentences is for training; look at the raw data.")

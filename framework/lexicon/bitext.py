"""Sentences as flat arrays of tokens, and sentences beside their translations.

Assumptions: tokens are ids of one vocabulary for both languages, without the marks of a sentence's end or padding; the
arrays may be mapped from files and are never written into.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.errors import InputError

Integers = NDArray[np.integer[Any]]


def gathered(offsets: Integers, chosen: Integers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of rows that begin at `offsets` (int64 [n + 1]) the `chosen` ones: where each begins now, and which entries."""
    counts = offsets[chosen + 1] - offsets[chosen]  # not of all rows: some are asked for in every step
    begins = np.concatenate([[0], counts.cumsum()])
    return begins, np.arange(begins[-1]) + np.repeat(offsets[chosen] - begins[:-1], counts)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sentences:
    """Sentences, one after the other."""

    offsets: Integers
    """Where each sentence begins and the last ends in `tokens`: int64 [n + 1]."""
    tokens: Integers
    """The tokens of all: int32 [offsets[-1]] (from offsets[0] on)."""

    @classmethod
    def of(cls, sentences: Iterable[Sequence[int]]) -> "Sentences":
        """Sentences given one by one."""
        held = [np.asarray(sentence, dtype=np.int32) for sentence in sentences]
        offsets = np.cumsum([0, *map(len, held)], dtype=np.int64)
        return cls(offsets=offsets, tokens=np.concatenate([np.empty(0, np.int32), *held]))

    @classmethod
    def joined(cls, several: Sequence["Sentences"]) -> "Sentences":
        """The sentences of one after the other."""
        return cls(
            offsets=np.cumsum(np.concatenate([[0], *(each.lengths for each in several)]), dtype=np.int64),
            tokens=np.concatenate([np.empty(0, np.int32), *(each.flat for each in several)]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for first, last in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.tokens[first:last].tolist()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each: int64 [n]."""
        return np.diff(self.offsets)

    @property
    def flat(self) -> Integers:
        """The tokens of these sentences alone, one after the other."""
        return self.tokens[int(self.offsets[0]) : int(self.offsets[-1])]

    def between(self, first: int, last: int) -> "Sentences":
        """Sentences `first` to `last` - 1, without a copy."""
        return Sentences(offsets=self.offsets[first : last + 1], tokens=self.tokens)

    def take(self, chosen: Integers) -> "Sentences":
        """Some sentences, in the order asked for: int64 [m]."""
        offsets, entries = gathered(self.offsets, chosen)
        return Sentences(offsets=offsets, tokens=self.tokens[entries])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bitext:
    """Sentences, and a translation of each."""

    source: Sentences
    """What is translated."""
    target: Sentences
    """Its translations, in the same order."""

    def __post_init__(self) -> None:
        if len(self.source) != len(self.target):
            raise InputError(
                f"there are {len(self.source)} source and {len(self.target)} target sentences; expected as many."
            )

    def __len__(self) -> int:
        return len(self.source)

    def between(self, first: int, last: int) -> "Bitext":
        """Pairs `first` to `last` - 1, without a copy."""
        return Bitext(source=self.source.between(first, last), target=self.target.between(first, last))

    def take(self, chosen: Integers) -> "Bitext":
        """Some pairs, in the order asked for: int64 [m]."""
        return Bitext(source=self.source.take(chosen), target=self.target.take(chosen))

    def swapped(self) -> "Bitext":
        """The same pairs, read in the other direction."""
        return Bitext(source=self.target, target=self.source)

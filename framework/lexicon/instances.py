"""A piece of a bitext as an aligner reads it: every word a target token may come from, as an entry of a table.

Assumptions: a target token comes from one source position of its pair, or from none (the word NULL, Brown et al. 1993).
So a pair of I source and J target tokens has J rows of I + 1 candidates, NULL first. A candidate is the pair of types
(f, e), as one number f * vocabulary + e, with `vocabulary` for NULL's f; a piece knows its distinct ones in order, and
for every candidate which it is. Pairs with an empty side have no candidates, nor have those with a side of more than
LONGEST tokens: candidates grow by the square of a sentence, and a text whose lines were lost would take all memory.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.errors import InputError
from framework.lexicon.arrays import read_fields, write_fields
from framework.lexicon.bitext import Bitext

LONGEST = 256
"""Tokens of the longest sentence that is aligned."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The pairs of a piece that have equally many source tokens, longest targets first."""

    source_length: int
    """I, at least 1."""
    pairs: NDArray[np.int64]
    """Their places in the piece: int64 [n]."""
    target_lengths: NDArray[np.int64]
    """J of each, falling, at least 1: int64 [n]."""
    candidates: slice
    """Theirs in the piece: pair after pair, row after row, I + 1 a row."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A piece of a bitext, indexed."""

    source_lengths: NDArray[np.int64]
    """Of every pair: int64 [pairs]."""
    target_lengths: NDArray[np.int64]
    """Of every pair: int64 [pairs]."""
    keys: NDArray[np.int64]
    """The distinct pairs of types, ascending: int64 [types]."""
    types: NDArray[np.int32]
    """For every candidate, group after group, its place in `keys`: int32 [candidates]."""

    @classmethod
    def of(cls, bitext: Bitext, vocabulary: int) -> "Piece":
        """Indexes `bitext`. Raises InputError for a token outside [0, vocabulary)."""
        source_lengths, target_lengths = bitext.source.lengths, bitext.target.lengths
        keys = [np.empty(0, np.int64)]
        for group in _groups(source_lengths, target_lengths):
            rows, length = bitext.take(group.pairs), group.source_length
            _check(rows, vocabulary)
            words = np.full((len(group.pairs), length + 1), vocabulary, np.int64)
            words[:, 1:] = rows.source.tokens.reshape(-1, length)
            of_targets = np.repeat(words, group.target_lengths, axis=0)
            keys.append((of_targets * vocabulary + rows.target.tokens[:, None]).ravel())
        distinct, types = np.unique(np.concatenate(keys), return_inverse=True)
        return cls(
            source_lengths=source_lengths,
            target_lengths=target_lengths,
            keys=distinct,
            types=types.astype(np.int32).ravel(),
        )

    def groups(self) -> Iterator[Group]:
        """All pairs that have candidates, by source length."""
        return _groups(self.source_lengths, self.target_lengths)

    def write(self, folder: Path) -> None:
        """Writes the piece into the new `folder`. Raises OSError."""
        write_fields(folder, self)

    @classmethod
    def open(cls, folder: Path) -> "Piece":
        """The piece that was written to `folder`, mapped. Raises StoreError."""
        return read_fields(folder, cls)


def has_candidates(bitext: Bitext) -> NDArray[np.bool_]:
    """Which pairs have any: bool [pairs]."""
    return _fit(bitext.source.lengths, bitext.target.lengths)


def _fit(source_lengths: NDArray[np.int64], target_lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    fits: NDArray[np.bool_] = np.minimum(source_lengths, target_lengths) > 0
    return fits & (np.maximum(source_lengths, target_lengths) <= LONGEST)


def _groups(source_lengths: NDArray[np.int64], target_lengths: NDArray[np.int64]) -> Iterator[Group]:
    order = np.lexsort((-target_lengths, source_lengths))
    order = order[_fit(source_lengths, target_lengths)[order]]
    begin = 0
    for pairs in np.split(order, np.flatnonzero(np.diff(source_lengths[order])) + 1):
        if len(pairs):
            length, rows = int(source_lengths[pairs[0]]), target_lengths[pairs]
            end = begin + int(rows.sum()) * (length + 1)
            yield Group(source_length=length, pairs=pairs, target_lengths=rows, candidates=slice(begin, end))
            begin = end


def _check(bitext: Bitext, vocabulary: int) -> None:
    for tokens in (bitext.source.tokens, bitext.target.tokens):
        if tokens.min() < 0 or tokens.max() >= vocabulary:
            wrong = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise InputError(f"a sentence holds token {wrong}; expected 0 to {vocabulary - 1}, the vocabulary's ids.")

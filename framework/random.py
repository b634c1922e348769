"""Keyed randomness: every draw is a pure function of a key and an index, never of a stream.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the vectors of
its Random123 library are in the tests). A 64-bit key names one purpose; the 128-bit counter names one draw. A key is
made by folding integers into a root: `Key.root(seed).fold(epoch, step, layer)`; one fold is one Philox call whose
output is the next key. So the same (seed, epoch, step, layer, original id) gives the same bits in any process.

This file is the torch twin; the kernels draw the same bits in C++.
"""

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", Tensor, int)

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(key: int, counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int]) -> list[Tensor]:
    """Philox4x32-10. `key` has 64 bits; `counter` is four words of 32 bits, int64 tensors that broadcast or numbers.

    Returns four int64 tensors, each value in [0, 2**32)."""
    device = next((word.device for word in counter if isinstance(word, Tensor)), torch.device("cpu"))
    words = [torch.as_tensor(word, dtype=torch.int64, device=device) & _MASK for word in counter]
    return list(_rounds(key, *torch.broadcast_tensors(*words)))  # type: ignore[no-untyped-call]


def _rounds(key: int, c0: Word, c1: Word, c2: Word, c3: Word) -> tuple[Word, Word, Word, Word]:
    """The ten rounds, of tensors or of numbers: a fold takes 5 microseconds on numbers, 1 millisecond on tensors."""
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(10):
        # The products have 64 bits; int64 wraps, and the logical shift is the arithmetic one under the mask.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


@dataclasses.dataclass(frozen=True)
class Key:
    """What a draw is for, as 64 bits."""

    value: int

    @classmethod
    def root(cls, seed: int) -> "Key":
        """The key of a whole run."""
        return cls(seed & 0xFFFFFFFFFFFFFFFF)

    def fold(self, *words: int) -> "Key":
        """A key for the purpose `words`, each a number of up to 64 bits, beneath this one."""
        value = self.value
        for word in words:
            low, high, _, _ = _rounds(value, word & _MASK, word >> 32 & _MASK, 0, _FOLD)
            value = low | high << 32
        return Key(value)


_FOLD = 0x464F4C44  # the fourth counter word of a fold ("FOLD"), so that no draw can meet one


def bits(key: Key, ids: Tensor, *, stream: int = 0) -> Tensor:
    """One 63-bit non-negative draw an id. `ids`: int64 [n]; returns int64 [n]. `stream` in [0, 2**32)."""
    draw = philox(key.value, (stream, ids, ids >> 32, 0))
    return draw[0] | (draw[1] & 0x7FFFFFFF) << 32


def uniform(key: Key, ids: Tensor, *, stream: int = 0) -> Tensor:
    """One draw of [0, 1) with 53 bits an id. `ids`: int64 [n]; returns float64 [n]."""
    return (bits(key, ids, stream=stream) >> 10).to(torch.float64) * 2.0**-53


def shuffled(key: Key, ids: Tensor) -> Tensor:
    """The order in which `key` shuffles distinct `ids` (int64 [n]): positions, int64 [n].

    Depends on the set of ids alone, not on the order they are given in, once applied: `ids[shuffled(key, ids)]`."""
    by_id = torch.argsort(ids)
    draws = bits(key, ids[by_id])
    return by_id[torch.argsort(draws, stable=True)]

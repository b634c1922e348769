"""Joining many pieces two by two: few are in memory at a time, and none is copied once for every piece behind it."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def joined_pairwise(pieces: Iterable[T], join: Callable[[Sequence[T]], T]) -> T:
    """All pieces as one: neighbours are joined, then what neighbours became; their order stays."""
    held: list[tuple[int, T]] = []  # how often it was joined, fewer and fewer
    for piece in pieces:
        times = 0
        while held and held[-1][0] == times:
            piece, times = join([held.pop()[1], piece]), times + 1
        held.append((times, piece))
    return join([piece for _, piece in held])

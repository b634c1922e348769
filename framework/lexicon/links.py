"""Links between the words of sentences and those of their translations, and one set of links out of two.

Assumptions: a link is a source position and a target position, from 0; those of a pair ascend by source position, then
by target position. A word may have any number of links.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.lexicon.arrays import read_fields, write_fields
from framework.lexicon.bitext import Integers, gathered

Link = tuple[int, int]
_BESIDE = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Links:
    """The links of n pairs of sentences, pair after pair."""

    offsets: Integers
    """Where each pair's links begin and the last's end: int64 [n + 1]."""
    sources: Integers
    """The source position of each: int32 [links]."""
    targets: Integers
    """The target position of each: int32 [links]."""

    @classmethod
    def of(cls, pairs: Iterable[Iterable[Link]]) -> "Links":
        """Links given pair by pair, in any order."""
        held = [sorted(set(links)) for links in pairs]
        flat = np.array(list(itertools.chain.from_iterable(held)), dtype=np.int32).reshape(-1, 2)
        offsets = np.cumsum([0, *map(len, held)], dtype=np.int64)
        return cls(offsets=offsets, sources=flat[:, 0].copy(), targets=flat[:, 1].copy())

    @classmethod
    def joined(cls, pieces: Sequence["Links"]) -> "Links":
        """The links of one piece after the other."""
        counts = [np.diff(piece.offsets) for piece in pieces]
        return cls(
            offsets=np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64),
            sources=np.concatenate([np.empty(0, np.int32), *(piece.sources for piece in pieces)]),
            targets=np.concatenate([np.empty(0, np.int32), *(piece.targets for piece in pieces)]),
        )

    @classmethod
    def open(cls, folder: Path) -> "Links":
        """The links that were written to `folder`, mapped. Raises StoreError."""
        return read_fields(folder, cls)

    def write(self, folder: Path) -> None:
        """Writes the links into the new `folder`. Raises OSError."""
        write_fields(folder, self)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pair(self, number: int) -> list[Link]:
        """The links of one pair."""
        here = slice(self.offsets[number], self.offsets[number + 1])
        return list(zip(self.sources[here].tolist(), self.targets[here].tolist(), strict=True))

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The pair of each link: int64 [links]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, chosen: Integers) -> "Links":
        """The links of some pairs, in the order asked for: int64 [m]."""
        offsets, entries = gathered(self.offsets, chosen)
        return Links(offsets=offsets, sources=self.sources[entries], targets=self.targets[entries])


def grow_diag_final_and(forward: Integers, backward: Integers) -> list[Link]:
    """One set of links of a pair out of those of two directions (Koehn et al., IWSLT 2005).

    `forward`: the source position of every target token, int64 [J], -1 for none; `backward`: the target position of
    every source token, int64 [I]. What both say, grown by neighbours that one of them says while a word of theirs has
    no link yet, then by what one says of two words that have none."""
    of_forward = {(source, target) for target, source in enumerate(forward.tolist()) if source >= 0}
    of_backward = {(source, target) for source, target in enumerate(backward.tolist()) if target >= 0}
    either = sorted(of_forward | of_backward, key=_by_target)
    kept = of_forward & of_backward
    sources, targets = {source for source, _ in kept}, {target for _, target in kept}

    def add(link: Link) -> None:
        kept.add(link)
        sources.add(link[0])
        targets.add(link[1])

    grown = True
    while grown:
        grown = False
        for link in either:
            if link not in kept:
                continue
            for step in _BESIDE:
                beside = (link[0] + step[0], link[1] + step[1])
                lonely = beside[0] not in sources or beside[1] not in targets
                if lonely and beside not in kept and (beside in of_forward or beside in of_backward):
                    add(beside)
                    grown = True
    for one_direction in (of_forward, of_backward):
        for link in sorted(one_direction, key=_by_target):
            if link[0] not in sources and link[1] not in targets:
                add(link)
    return sorted(kept)


def _by_target(link: Link) -> Link:
    return link[1], link[0]

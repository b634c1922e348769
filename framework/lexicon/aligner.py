"""The contract of an aligner, what both directions of an alignment become, and our own aligner."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from framework.data.dataset import Mapper, each
from framework.lexicon.bitext import Bitext
from framework.lexicon.directed import PIECE, Directed, Passes, estimate
from framework.lexicon.instances import has_candidates
from framework.lexicon.links import Links, grow_diag_final_and
from framework.registry import ALIGNERS
from framework.store.folder import once

DIRECTIONS = ("forward", "backward")
"""Target tokens that come from source tokens, and source tokens that come from target tokens."""


@runtime_checkable
class Aligner(Protocol):
    """Learns which words go with which, and links them. A plug-in: its fields are its configuration."""

    def estimate(
        self, bitext: Bitext, vocabulary: int, folder: Path, work: Path, mapper: Mapper, told: Callable[[float], None]
    ) -> dict[str, Any]:
        """Learns from `bitext`, writes a model's files into the empty `folder`, and returns facts: plain values.

        `work` outlives a kill; `told` hears which share is done. The model depends on the bitext and the fields
        alone."""

    def links(self, folder: Path, bitext: Bitext, vocabulary: int) -> Links:
        """Links pairs, seen or not, by the model in `folder`; each pair's whatever the others are."""


@runtime_checkable
class Requiring(Protocol):
    """An Aligner that needs what may not be installed."""

    def require(self) -> None:
        """Raises InputError, which says how to get it, where it is not there."""


@ALIGNERS.register("hmm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class HmmAligner:
    """IBM Model 1, then the HMM (Vogel et al., 1996), both directions joined; learned as map and reduce over pieces."""

    passes: Passes = Passes()
    """How each direction is estimated."""

    def estimate(
        self, bitext: Bitext, vocabulary: int, folder: Path, work: Path, mapper: Mapper, told: Callable[[float], None]
    ) -> dict[str, Any]:
        """Learns both directions; the facts are how many pairs are not too long, nor empty, and the likelihoods that
        passes began with."""
        facts: dict[str, Any] = {"aligned_pairs": int(has_candidates(bitext).sum())}
        for direction, pairs, tell in zip(DIRECTIONS, (bitext, bitext.swapped()), _halves(told), strict=True):
            model = estimate(pairs, vocabulary, self.passes, work / direction, mapper=mapper, told=tell)
            (folder / direction).mkdir()
            model.pruned().write(folder / direction)
            facts[f"{direction}_log_likelihoods"] = model.log_likelihoods.tolist()
        return facts

    def links(self, folder: Path, bitext: Bitext, vocabulary: int) -> Links:
        """The best links of both directions, joined by grow-diag-final-and."""
        forward, backward = (
            Directed.open(folder / direction).links(pairs, vocabulary, self.passes)
            for direction, pairs in zip(DIRECTIONS, (bitext, bitext.swapped()), strict=True)
        )
        return Links.of(map(grow_diag_final_and, forward, backward))


def _halves(told: Callable[[float], None]) -> tuple[Callable[[float], None], Callable[[float], None]]:
    """What hears the shares of the first half of something, and of the second."""
    return lambda share: told(share / 2), lambda share: told((1 + share) / 2)


def link_all(
    aligner: Aligner,
    model: Path,
    bitext: Bitext,
    vocabulary: int,
    work: Path,
    *,
    mapper: Mapper = map,
    told: Callable[[float], None] = lambda share: None,
    size: int = PIECE,
) -> Links:
    """The links of a whole bitext, piece by piece, each a call of `mapper` that leaves a folder in `work`.

    `model`: the folder that `aligner` wrote; `size`: pairs a piece. Neither shows in the links."""
    task = _Linking(aligner=aligner, model=model.absolute(), vocabulary=vocabulary, work=work.absolute(), size=size)
    starts = list(range(0, len(bitext), size))
    pieces = []
    for done, folder in enumerate(each(mapper, functools.partial(_link, task, bitext), starts), 1):
        pieces.append(Links.open(folder))
        told(done / len(starts))
    return Links.joined(pieces)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Linking:
    """What the call of every piece is told."""

    aligner: Aligner
    model: Path
    vocabulary: int
    work: Path
    size: int


def _link(task: _Linking, bitext: Bitext, start: int) -> Path:
    """Links the piece that begins with pair `start`; returns the folder of its links."""
    folder, piece = task.work / f"links-{start // task.size}", bitext.between(start, start + task.size)
    once(folder, Links.open, lambda new: task.aligner.links(task.model, piece, task.vocabulary).write(new))
    return folder

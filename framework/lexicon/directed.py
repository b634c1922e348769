"""One direction of an alignment, estimated by expectation maximisation as map and reduce over pieces of a bitext.

Every pass is a call a piece, in whatever process, which reads files and answers expected counts; their sum is taken in
the order of the pieces, in float64. So who computed what does not show in any bit, and how the bitext is cut shows in
the order of sums alone (1e-12 relative, by test). What every pass ends with is a folder, so one that is killed goes on
with the pass it was in.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.data.dataset import Mapper, each
from framework.errors import InputError, StoreError
from framework.lexicon import hmm, model1
from framework.lexicon.arrays import read_fields, write_fields
from framework.lexicon.bitext import Bitext
from framework.lexicon.blas import one_thread
from framework.lexicon.counts import Counts, Floats, no_jumps
from framework.lexicon.instances import LONGEST, Piece, has_candidates
from framework.lexicon.jumps import LEAST, even_jumps, learned
from framework.lexicon.pairwise import joined_pairwise
from framework.store.folder import once

PIECE = 4096
"""Pairs of sentences a piece."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """How a direction is estimated."""

    model1: int = 5
    """Passes of IBM Model 1, from even probabilities."""
    hmm: int = 5
    """Passes of the HMM, from what Model 1 found; 0: links are those of Model 1."""
    null: float = 0.2
    """The HMM's probability that a target token comes from no source token."""

    def __post_init__(self) -> None:
        if min(self.model1, self.hmm) < 0 or self.model1 + self.hmm == 0:
            raise InputError(f"there are {self.model1} and {self.hmm} passes; expected at least one of either model.")
        if not 0 < self.null < 1:
            raise InputError(f"the probability of NULL is {self.null}; expected one between 0 and 1.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Directed:
    """A model of target sentences, given source sentences."""

    keys: NDArray[np.int64]
    """The pairs of types that it knows, ascending: f * vocabulary + e, `vocabulary` as NULL's f. int64 [types]."""
    probabilities: Floats
    """t(e | f) of each: float64 [types]."""
    weights: Floats
    """Of the HMM's jumps (see jumps.py): float64 [2 * longest + 1]."""
    log_likelihoods: Floats
    """Of the bitext, as every pass so far began with it: float64 [passes]."""

    @classmethod
    def open(cls, folder: Path) -> "Directed":
        """The model that was written to `folder`, mapped. Raises StoreError."""
        return read_fields(folder, cls)

    def write(self, folder: Path) -> None:
        """Writes the model into the new `folder`. Raises OSError."""
        write_fields(folder, self)

    def of(self, piece: Piece) -> Floats:
        """The probability of each of a piece's pairs of types, LEAST of those not known: float64 [types]."""
        places = np.searchsorted(self.keys, piece.keys)
        places[places == len(self.keys)] = 0
        return np.where(self.keys[places] == piece.keys, self.probabilities[places], LEAST)

    def links(self, bitext: Bitext, vocabulary: int, passes: Passes) -> list[NDArray[np.int64]]:
        """The source position of every target token, -1 for none: int64 [J] of every pair, seen in training or not."""
        piece = Piece.of(bitext, vocabulary)
        if passes.hmm == 0:
            return model1.best(piece, self.of(piece))
        return hmm.best(piece, self.of(piece), np.maximum(self.weights, LEAST), passes.null)

    def pruned(self) -> "Directed":
        """The model without pairs of types that are as unlikely as those it does not know."""
        kept = self.probabilities > LEAST
        return dataclasses.replace(self, keys=self.keys[kept], probabilities=self.probabilities[kept])


def estimate(
    bitext: Bitext,
    vocabulary: int,
    passes: Passes,
    work: Path,
    *,
    mapper: Mapper = map,
    told: Callable[[float], None] = lambda share: None,
    size: int = PIECE,
) -> Directed:
    """The model of `bitext`, whose tokens are below `vocabulary`; `told` hears which share is done.

    `work`: a folder for what a killed call leaves to the next one of the same arguments. `size`: pairs a piece. Raises
    InputError for tokens that are none, for a bitext without a pair that has words, and for a full disk."""
    job = _Job(work=work.absolute(), passes=passes, vocabulary=vocabulary)
    starts = list(range(0, len(bitext), size))
    pieces = list(each(mapper, functools.partial(_index, job, bitext, size), starts))
    total = passes.model1 + passes.hmm
    done = job.latest()
    model, _ = once(job.folder(done), Directed.open, lambda folder: _first(bitext, pieces, vocabulary).write(folder))
    for number in range(done, total):
        told(number / total)
        fresh = _pass(job, number, pieces, mapper, model)
        model, _ = once(job.folder(number + 1), Directed.open, fresh.write)
        shutil.rmtree(job.folder(number))
    return model


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What the call of every piece is told."""

    work: Path
    passes: Passes
    vocabulary: int

    def folder(self, number: int) -> Path:
        """Of the model after so many passes."""
        return self.work / f"pass-{number}"

    def latest(self) -> int:
        """After how many passes there is a model that can be read; 0 where there is none."""
        for number in range(self.passes.model1 + self.passes.hmm, 0, -1):
            with contextlib.suppress(StoreError):
                Directed.open(self.folder(number))
                return number
        return 0


def _index(job: _Job, bitext: Bitext, size: int, start: int) -> Path:
    """Makes the files of the piece that begins with pair `start`; returns their folder."""
    folder = job.work / f"piece-{start // size}"
    once(folder, Piece.open, lambda new: Piece.of(bitext.between(start, start + size), job.vocabulary).write(new))
    return folder


def _first(bitext: Bitext, pieces: list[Path], vocabulary: int) -> Directed:
    """The model of no pass: every word is as likely, and every jump."""
    keys = joined_pairwise((Piece.open(piece).keys for piece in pieces), _union)
    if not len(keys):
        raise InputError(f"no pair of sentences has words on both sides, {LONGEST} at most; expected some to align.")
    return Directed(
        keys=keys,
        probabilities=np.full(len(keys), 1 / vocabulary),
        weights=even_jumps(int(bitext.source.lengths[has_candidates(bitext)].max())),
        log_likelihoods=np.empty(0),
    )


def _union(several: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All numbers of some arrays, ascending, each once."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *several]))


def _pass(job: _Job, number: int, pieces: list[Path], mapper: Mapper, model: Directed) -> Directed:
    """The model after pass `number`, from 0."""
    types = np.zeros(len(model.keys))
    jumps, departures = no_jumps(len(model.weights) // 2)
    log_likelihood = 0.0
    for piece, counted in zip(pieces, each(mapper, functools.partial(_expected, job, number), pieces), strict=True):
        types[np.searchsorted(model.keys, Piece.open(piece).keys)] += counted.types
        log_likelihood += counted.log_likelihood
        if number >= job.passes.model1:
            jumps += counted.jumps
            departures += counted.departures
    return Directed(
        keys=model.keys,
        probabilities=_relative(types, model.keys // job.vocabulary),
        weights=learned(model.weights, jumps, departures),
        log_likelihoods=np.append(model.log_likelihoods, log_likelihood),
    )


def _expected(job: _Job, number: int, folder: Path) -> Counts:
    """What pass `number` counts in a piece."""
    piece, model = Piece.open(folder), Directed.open(job.folder(number))
    if number < job.passes.model1:
        return model1.expected(piece, model.of(piece))
    with one_thread():
        return hmm.expected(piece, model.of(piece), model.weights, job.passes.null)


def _relative(counts: Floats, rows: NDArray[np.int64]) -> Floats:
    """Each count over the sum of its row: float64 [types]; rows ascend. A row of which all has become 0 stays so."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    sums = np.add.reduceat(counts, starts)
    sums[sums == 0] = 1
    shares: Floats = counts / np.repeat(sums, np.diff(np.append(starts, len(rows))))
    return shares

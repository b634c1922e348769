"""Accuracy of lexical choice: of every source token, whether its translation is the one that the reference has.

Two measures go by this name, and are kept apart here (Ding et al., "Understanding and improving lexical choice in
non-autoregressive translation", ICLR 2021, and its released script):

- AoLC-prob: the mean, over source tokens, of the probability that a model gives to the reference token linked to them,
  at its position, where the model was told the reference's length and nothing else;
- AoLC-hit: the share, of source tokens that are linked to a reference token that is linked to a token of what a model
  wrote, for which these two are the same.

Assumptions: of a token's links the first one counts. What a token is, a word or a piece of one, is for the caller to
say: all sentences are of one vocabulary. Source types go to buckets by how often they occur in the training data.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from framework.errors import InputError
from framework.lexicon.bitext import Integers, Sentences
from framework.lexicon.counts import Floats, totals
from framework.lexicon.links import Links

BOUNDS = (10, 100, 1000)
"""Occurrences at which a bucket of fixed counts ends and the next begins."""


def require_bounds(bounds: Sequence[int]) -> None:
    """Raises InputError for bounds of buckets that do not ascend from above 1 on."""
    if any(low >= high for low, high in itertools.pairwise([1, *bounds])):
        raise InputError(f"bounds are {tuple(bounds)}; expected ascending numbers, the first above 1.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Buckets:
    """Which bucket every source type is in."""

    names: tuple[str, ...]
    """Of the buckets, the most frequent types first, those never seen last."""
    of_types: NDArray[np.int64]
    """The bucket of every type: int64 [vocabulary]."""

    @classmethod
    def by_rank(cls, occurrences: Integers) -> "Buckets":
        """Thirds of the types that occur, by rank: H(igh), M(iddle), L(ow); and O, those that do not occur.

        `occurrences`: of every type in the training data, int64 [vocabulary]. Of equally frequent types the one with
        the smaller token ranks first."""
        ranked = np.lexsort((np.arange(len(occurrences)), -occurrences))
        seen = int((occurrences > 0).sum())
        of_types = np.full(len(occurrences), 3, np.int64)
        of_types[ranked[:seen]] = np.arange(seen) * 3 // max(seen, 1)
        return cls(names=("H", "M", "L", "O"), of_types=of_types)

    @classmethod
    def by_count(cls, occurrences: Integers, bounds: Sequence[int] = BOUNDS) -> "Buckets":
        """By how often a type occurs: `1000+`, `100-999`, `10-99`, `1-9` and `0`, or as the ascending `bounds` say."""
        require_bounds(bounds)
        edges = [1, *bounds]
        within = [f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
        names = ("0", *within, f"{edges[-1]}+")[::-1]
        return cls(names=names, of_types=len(edges) - np.searchsorted(edges, occurrences, side="right"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the measures, over a test set."""

    mean: float | None
    """Over all source tokens that count; None where none does."""
    by_bucket: Mapping[str, float]
    """Over those of each bucket that has some."""
    counts: Mapping[str, int]
    """Source tokens that count, by bucket."""


def probability_of_choice(
    source: Sentences, reference: Sentences, links: Links, probabilities: Floats, buckets: Buckets
) -> Choice:
    """AoLC-prob. `links`: from source to reference; `probabilities`: that a model gives to the tokens of `reference`,
    sentence after sentence, each at its position: float [reference tokens]."""
    if len(probabilities) != len(reference.flat):
        raise InputError(
            f"there are {len(probabilities)} probabilities; expected one a reference token, {len(reference.flat)}."
        )
    first = _first(links, source.lengths)
    linked = first >= 0
    places = _starts(reference, source.lengths)[linked] - int(reference.offsets[0]) + first[linked]
    return _summary(source.flat[linked], probabilities[places], buckets)


def hits_of_choice(
    source: Sentences,
    reference: Sentences,
    hypothesis: Sentences,
    links: Links,
    reference_links: Links,
    buckets: Buckets,
) -> Choice:
    """AoLC-hit. `links`: from source to reference; `reference_links`: from reference to hypothesis."""
    to_reference = _first(links, source.lengths)
    to_hypothesis = _first(reference_links, reference.lengths)
    linked = to_reference >= 0
    begin = _starts(reference, source.lengths)[linked]
    places = begin - int(reference.offsets[0]) + to_reference[linked]
    again = to_hypothesis[places]
    both = again >= 0
    chosen = _starts(hypothesis, source.lengths)[linked][both] + again[both]
    hits = hypothesis.tokens[chosen] == reference.tokens[begin + to_reference[linked]][both]
    return _summary(source.flat[linked][both], hits.astype(np.float64), buckets)


def _first(links: Links, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first target position that every source token is linked to, sentence after sentence; -1 for none."""
    starts = np.concatenate([[0], lengths.cumsum()])
    first = np.full(int(starts[-1]), -1, np.int64)
    places = starts[links.pairs] + links.sources
    first[places[::-1]] = links.targets[::-1]  # of equal places the last one written stays: the first link
    return first


def _starts(sentences: Sentences, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a sentence's tokens begin, once for each of `lengths[sentence]` tokens of its source."""
    return np.repeat(sentences.offsets[:-1], lengths)


def _summary(types: Integers, values: Floats, buckets: Buckets) -> Choice:
    of_tokens = buckets.of_types[types]
    counts = np.bincount(of_tokens, minlength=len(buckets.names))
    sums = totals(of_tokens, values, len(buckets.names))
    told = list(zip(buckets.names, sums.tolist(), counts.tolist(), strict=True))
    return Choice(
        mean=float(values.mean()) if len(values) else None,
        by_bucket={name: total / count for name, total, count in told if count},
        counts={name: count for name, _, count in told},
    )

"""What is known of a target word by the source word that it comes from: a sparse distribution for every source type.

A prior is `SparseRows` with a row for every token of the vocabulary, empty for one that was never linked. 32,768 rows
of 32 entries take 8.6 MB; dense they would be 4 GiB. Sources of one (Ding et al., "Understanding and improving lexical
choice in non-autoregressive translation", ICLR 2021):

- how often words are linked in the raw data, flattened by a temperature (word alignment distribution, WAD);
- what a student that was trained on the raw data predicts for them (self-distilled distribution, SDD);
- the mean of both.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.errors import InputError
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.segments import segment_sum
from framework.kernels.sparse_rows import SparseRows
from framework.lexicon.bitext import Bitext, Integers
from framework.lexicon.counts import Floats, totals
from framework.lexicon.links import Links

_SHARPEST = 0.002
"""The lowest temperature of a softmax: exp(1 / 0.0014) is more than float64 holds."""
_LEAST = float(np.finfo(np.float32).tiny)
"""Of a weight: of 0, as less than that may become, there is no logarithm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flattening:
    """How t(e | f) becomes a prior: less certain, as the temperature says, and no longer than a row may be."""

    temperature: float = 2.0
    """1 and form `power`: as it is. Higher: flatter."""
    form: Literal["softmax", "power"] = "softmax"
    """`softmax`: exp(t / temperature), as published. `power`: t to the power of 1 / temperature."""
    support: Literal["observed", "full"] = "observed"
    """Which e take part: those that are linked to f, or the whole vocabulary, over which a softmax of probabilities is
    uniform to four digits."""
    top: int = 32
    """Entries of a row, at most: the likeliest, of equally likely ones the first tokens. Scaled to add up to 1."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"--flattening.temperature is {self.temperature}; expected a number above 0.")
        if self.form == "softmax" and self.temperature < _SHARPEST:
            raise InputError(
                f"--flattening.temperature is {self.temperature}; expected at least {_SHARPEST} of a softmax, whose "
                "exponentials no number holds below that."
            )
        if self.top < 1:
            raise InputError(f"--flattening.top is {self.top}; expected a whole number of at least 1.")
        choices = {"form": ("softmax", "power"), "support": ("observed", "full")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"--flattening.{name} is {getattr(self, name)!r}; expected {' or '.join(known)}.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TypeCounts:
    """Something that was added up by source type and target token: how often both are linked, or probabilities."""

    vocabulary: int
    """Tokens of the vocabulary."""
    keys: NDArray[np.int64]
    """The pairs of types, ascending, none twice: f * vocabulary + e. int64 [types]."""
    counts: Floats
    """float64 [types]."""

    @classmethod
    def of(cls, sources: Integers, targets: Integers, counts: Floats, vocabulary: int) -> "TypeCounts":
        """The sums of `counts` for equal pairs of types, added in their order."""
        given = sources.astype(np.int64) * vocabulary + targets
        keys, places = np.unique(given, return_inverse=True)
        return cls(vocabulary=vocabulary, keys=keys, counts=totals(places.ravel(), counts, len(keys)))

    @classmethod
    def joined(cls, several: Sequence["TypeCounts"]) -> "TypeCounts":
        """The sums of all, at least one, in that order."""
        keys = np.concatenate([each.keys for each in several])
        vocabulary = several[0].vocabulary
        return cls.of(
            keys // vocabulary, keys % vocabulary, np.concatenate([each.counts for each in several]), vocabulary
        )

    def relative(self) -> "TypeCounts":
        """Every count over the sum of its source type: t(e | f)."""
        sums = totals(self.rows, self.counts, self.vocabulary)
        return dataclasses.replace(self, counts=self.counts / sums[self.rows])

    @property
    def rows(self) -> NDArray[np.int64]:
        """The source type of each pair."""
        return self.keys // self.vocabulary


def count_links(bitext: Bitext, links: Links, vocabulary: int) -> TypeCounts:
    """How often each pair of types is linked."""
    sources = bitext.source.tokens[bitext.source.offsets[links.pairs] + links.sources]
    targets = bitext.target.tokens[bitext.target.offsets[links.pairs] + links.targets]
    return TypeCounts.of(sources, targets, np.ones(len(sources)), vocabulary)


def flattened(table: TypeCounts, how: Flattening) -> SparseRows:
    """The prior of a table t(e | f): row f has the likeliest e, flattened; its weights are float32.

    softmax: exp(t / temperature) / sum; power: t^(1 / temperature) / sum, over the support."""
    if how.form == "power":  # of a t of 0 it is 0: the full support is the observed one
        return heaviest(dataclasses.replace(table, counts=_powers(table, 1 / how.temperature)), how.top)
    weights = dataclasses.replace(table, counts=np.exp(table.counts / how.temperature))
    return heaviest(_filled(weights, how.top) if how.support == "full" else weights, how.top)


def _powers(table: TypeCounts, exponent: float) -> Floats:
    """The counts to a power; those of a row of which that leaves nothing as shares of the greatest of the row."""
    powers: Floats = table.counts**exponent
    lost = totals(table.rows, powers, table.vocabulary)[table.rows] == 0
    if lost.any():
        greatest = np.zeros(table.vocabulary)
        np.maximum.at(greatest, table.rows, table.counts)
        powers[lost] = (table.counts[lost] / greatest[table.rows[lost]]) ** exponent
    return powers


def _filled(weights: TypeCounts, top: int) -> TypeCounts:
    """With the first tokens beside those that are there: exp(0 / temperature) = 1 each, so less than any of those.

    Which others there are does not matter: no row has more than `top`."""
    first = np.arange(min(top, weights.vocabulary))
    keys = (np.unique(weights.rows)[:, None] * weights.vocabulary + first).ravel()
    keys = np.setdiff1d(keys, weights.keys, assume_unique=True)
    more = TypeCounts(vocabulary=weights.vocabulary, keys=keys, counts=np.ones(len(keys)))
    return TypeCounts.joined([weights, more])


def heaviest(weights: TypeCounts, top: int) -> SparseRows:
    """The `top` heaviest of each source type, scaled to add up to 1; without those that float32 takes for nothing."""
    rows = weights.rows
    order = np.lexsort((weights.keys, -weights.counts, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # rows ascend before and after
    kept = np.sort(order[rank < top])
    chosen = TypeCounts(vocabulary=weights.vocabulary, keys=weights.keys[kept], counts=weights.counts[kept]).relative()
    told = chosen.counts >= _LEAST
    chosen = dataclasses.replace(chosen, keys=chosen.keys[told], counts=chosen.counts[told])
    return SparseRows(
        indptr=offsets(torch.from_numpy(np.bincount(chosen.rows, minlength=weights.vocabulary))),
        tokens=torch.from_numpy((chosen.keys % weights.vocabulary).astype(np.int32)),
        weights=torch.from_numpy(chosen.counts.astype(np.float32)),
    )


def mean_of(priors: Sequence[SparseRows], top: int) -> SparseRows:
    """The mean, of equal weights, of several priors of one vocabulary, its rows cut to `top` entries.

    Where some say nothing of a source type, the mean of the others."""
    vocabulary = len(priors[0])
    parts = [
        TypeCounts(
            vocabulary=vocabulary,
            keys=(row_of_entries(prior.indptr, len(prior.tokens)) * vocabulary + prior.tokens).numpy(),
            counts=prior.weights.double().numpy(),
        )
        for prior in priors
    ]
    return heaviest(TypeCounts.joined(parts), top)


def position_priors(prior: SparseRows, source: Tensor, links: Links, width: int) -> SparseRows:
    """What a prior says of every target position of n pairs, rows in the order of [n, width] flattened.

    `source`: int64 [n, S], the pairs' source tokens; `links`: of these pairs. A position that is linked to several
    source tokens has the mean of their rows, of those that say something; one that is linked to none has none."""
    sources = torch.from_numpy(links.sources.astype(np.int64))
    pairs = torch.from_numpy(links.pairs)
    places = pairs * width + torch.from_numpy(links.targets.astype(np.int64))
    types = source[pairs, sources]
    said = prior.known[types]
    places, types = places[said], types[said]
    found = prior.take(types)
    entries = torch.repeat_interleave(places, found.indptr.diff()) * len(prior) + found.tokens
    entries, order = torch.sort(entries, stable=True)
    distinct, repeats = torch.unique_consecutive(entries, return_counts=True)
    sums = segment_sum(offsets(repeats), found.weights[order])
    rows, size = distinct // len(prior), len(source) * width
    several = torch.bincount(places, minlength=size)
    return SparseRows(
        indptr=offsets(torch.bincount(rows, minlength=size)),
        tokens=(distinct % len(prior)).to(torch.int32),
        weights=sums / several[rows],
    )

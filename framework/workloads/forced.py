"""What a trained student predicts for sentences of which it is told the lengths alone, piece by piece.

Assumption: the student has `forced(batch)`, which answers the log-probability of every token at every place of the
targets, all words being hidden (CMLM and the Levenshtein transformer do). A piece is a function of the data and the
settings, computed with one thread: so who computes it does not show.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.engine.run import Mapper
from framework.errors import InputError
from framework.lexicon.links import Links
from framework.lexicon.prior import TypeCounts
from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.samples.pairs import PairReader
from framework.workloads.decode import Translating, one_thread, pieces


class Summary(Protocol):
    """What is kept of a piece's predictions."""

    def __call__(self, log_probabilities: Tensor, batch: PairBatch, links: Links) -> Any:
        """Of log-probabilities [n, T, vocabulary], the pairs and their links."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ForcedPiece:
    """Pairs that are predicted together."""

    batch: PairBatch
    """The pairs."""
    links: Links
    """Of these pairs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forcing:
    """A trained student that a mapper's processes keep, and what they keep of its predictions."""

    translating: Translating
    """The student."""
    summary: Summary
    """What is kept of a piece."""

    def __call__(self, piece: ForcedPiece) -> Any:
        """The piece's summary. Raises InputError where the model is no student."""
        with one_thread(), torch.inference_mode():
            predict: Any = getattr(self.translating.network, "forced", None)
            found = predict(piece.batch) if predict else None
            if not isinstance(found, Tensor):
                raise InputError("the model writes word after word; expected a student that predicts all at once.")
            return self.summary(found, piece.batch, piece.links)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkedTypes:
    """The predictions for what source tokens are linked to, added up by source type."""

    kept: int
    """The likeliest tokens of a prediction, which are added up; the rest of it is left out."""

    def __call__(self, log_probabilities: Tensor, batch: PairBatch, links: Links) -> TypeCounts:
        """Sums of probabilities, by source type and target token."""
        vocabulary = log_probabilities.shape[2]
        pairs, sources, targets = (
            torch.from_numpy(places.astype(np.int64)) for places in (links.pairs, links.sources, links.targets)
        )
        likeliest = log_probabilities[pairs, targets].topk(min(self.kept, vocabulary), dim=1)
        types = batch.source[pairs, sources][:, None].expand_as(likeliest.indices)
        return TypeCounts.of(
            types.flatten().numpy(),
            likeliest.indices.flatten().numpy(),
            likeliest.values.flatten().double().exp().numpy(),
            vocabulary,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfReferences:
    """The probabilities of the references' own words."""

    def __call__(self, log_probabilities: Tensor, batch: PairBatch, links: Links) -> list[NDArray[np.float64]]:
        """Of every pair, the probability of each word, without EOS."""
        own = log_probabilities.gather(2, batch.target[:, :, None]).squeeze(2).double().exp().numpy()
        return [row[: length - 1].copy() for row, length in zip(own, batch.target_lengths.tolist(), strict=True)]


def cut(samples: Tensor, reader: PairReader, most: int) -> list[Tensor]:
    """`samples` (int64 [n]) in pieces of at most `most` tokens of either side, padding counted; int64 [any] each."""
    return pieces(samples, torch.maximum(reader.source_lengths, reader.target_lengths)[samples], most)


def forced(
    forcing: Forcing,
    asked: Sequence[Tensor],
    reader: PairReader,
    links: Links,
    mapper: Mapper,
) -> Iterable[Any]:
    """The summaries of pieces of a store's pairs, in their order. `links`: of all pairs of the store."""
    return mapper(forcing, [_piece(samples, reader, links) for samples in asked])


def _piece(samples: Tensor, reader: PairReader, links: Links) -> ForcedPiece:
    batch = reader.batch(samples, reader.lengths(samples), key=Key.root(0))  # nothing is drawn
    return ForcedPiece(batch=batch, links=links.take(samples.numpy()))

"""The contract of a model that translates: what it learns from, and what it answers."""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from framework.samples.pair_batch import PairBatch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Translations:
    """What n sentences became."""

    tokens: Tensor
    """EOS not included, PAD behind the end: int64 [n, L]."""
    lengths: Tensor
    """Tokens of each: int64 [n]."""
    scores: Tensor
    """Mean log-probability of a sentence's tokens: float64 [n]."""

    @classmethod
    def of(cls, sentences: list[Tensor], scores: Tensor) -> "Translations":
        """Of sentences of any lengths, each int64 [tokens]."""
        lengths = torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64)
        return cls(tokens=nn.utils.rnn.pad_sequence(sentences, batch_first=True), lengths=lengths, scores=scores)


class Translator(Protocol):
    """A network that translates: an nn.Module that can do this."""

    def __call__(self, batch: PairBatch) -> Tensor:
        """The share's sum of losses over the number of things that are predicted in the global batch, so that the
        shares of all workers add up to the mean. A scalar."""

    def translate(self, source: Tensor, source_lengths: Tensor) -> Translations:
        """Source tokens int64 [n, S], padded, and their numbers int64 [n] -> translations, in evaluation mode.

        What a sentence becomes does not depend on the others."""


@runtime_checkable
class TranslationModel(Protocol):
    """A model that translates, as a value. A plug-in: its fields are its configuration."""

    def build(self, vocabulary: int) -> nn.Module:
        """A new Translator between sentences of `vocabulary` tokens."""

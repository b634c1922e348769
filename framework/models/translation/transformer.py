"""The Transformer (Vaswani et al., NeurIPS 2017): writes a translation from its beginning to its end."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from framework.config import asked
from framework.errors import InputError
from framework.models.settings import require_shares, require_widths
from framework.models.translation.attention import Memory
from framework.models.translation.beam import beam_search
from framework.models.translation.layers import (
    SOURCE,
    TARGET,
    EncoderDecoder,
    Norm,
    Positions,
    visible,
    within,
)
from framework.models.translation.translator import Translations
from framework.registry import TRANSLATORS
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import BOS

_MOST_PENALTY = 10.0  # a length to a larger power is no float


@TRANSLATORS.register("transformer")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    """Transformer that writes from left to right, with beam search: the teacher of those that write all at once."""

    width: int = 256
    """Columns of a row: of embeddings and between layers."""
    heads: int = 4
    """Attention heads of a layer."""
    inner: int = 1024
    """Columns between the two maps of a feed-forward layer."""
    encoder_layers: int = 3
    """Layers over the source."""
    decoder_layers: int = 3
    """Layers over the target."""
    dropout: float = 0.3
    """Of embeddings, of what every part of a layer adds, and behind the ReLU; attention weights are never dropped."""
    norm: Norm = "pre"
    """Whether rows are normalised before every part of a layer, or after it."""
    positions: Positions = "sinusoidal"
    """How a place in a sentence is told."""
    longest: int = 256
    """Tokens of the longest sentence, where positions are learned."""
    label_smoothing: float = 0.1
    """Share of the probability that is to be spread over all tokens, in training."""
    learns_prior: ClassVar[bool] = False
    """Whether a prior is learned from: it tells of words that are written all at once."""
    beam: int = asked(5)
    """Hypotheses of a sentence that are kept while it is translated. 1: the likeliest token at every place."""
    length_penalty: float = asked(1.0)
    """To which power of its length a hypothesis' log-probability is divided by it. 0: not at all."""

    def __post_init__(self) -> None:
        require_widths(self, "width", "heads", "inner", "encoder_layers", "decoder_layers", "longest", "beam")
        require_shares(self, "dropout", "label_smoothing")
        if not 0 <= self.length_penalty <= _MOST_PENALTY:
            raise InputError(
                f"--model.length-penalty is {self.length_penalty}; expected at least 0, and at most {_MOST_PENALTY}."
            )

    def build(self, vocabulary: int) -> nn.Module:
        """A TransformerNetwork."""
        return TransformerNetwork(EncoderDecoder(vocabulary, self), self)


class TransformerNetwork(nn.Module):
    """An encoder, and a decoder that looks back alone."""

    def __init__(self, body: EncoderDecoder, settings: Transformer) -> None:
        super().__init__()
        self.body, self.settings = body, settings

    def forward(self, batch: PairBatch) -> Tensor:
        """The share's cross-entropies over the target tokens of the global batch, smoothed in training: a scalar."""
        scores, gold = self.forced(batch)
        smoothing = self.settings.label_smoothing if self.training else 0.0
        loss = nn.functional.cross_entropy(scores, gold, reduction="sum", label_smoothing=smoothing)
        return loss / batch.everyone[:, 2].sum()

    def forced(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Scores of the next token, before the softmax, behind every beginning of the target: [tokens, vocabulary], and
        the tokens that are there: int64 [tokens]. Sentence by sentence, without padding."""
        longest_source, longest_target = batch.source.shape[1], batch.target.shape[1]
        source_drop = self.body.drops(batch.key, SOURCE, batch.samples, longest_source)
        target_drop = self.body.drops(batch.key, TARGET, batch.samples, longest_target)
        allowed = visible(batch.source_lengths, longest_source)
        sources = self.body.remember(self.body.encode(batch.source, allowed, source_drop), allowed)
        begun = nn.functional.pad(batch.target[:, :-1], (1, 0), value=BOS)
        x = self.body.decode(begun, sources, drop=target_drop)
        real = torch.nonzero(within(batch.target_lengths, longest_target).flatten()).squeeze(1)
        return self.body.embedding.scores(x.flatten(0, 1)[real]), batch.target.flatten()[real]

    @torch.no_grad()
    def translate(self, source: Tensor, source_lengths: Tensor) -> Translations:
        """Beam search. Source tokens int64 [n, S], padded, and their numbers int64 [n]; of at most twice as many tokens
        and ten."""
        settings = self.settings
        limits = 2 * source_lengths + 10
        if settings.positions == "learned":
            limits = limits.clamp(max=settings.longest - 1)
        writing = _Writing(self.body, source, visible(source_lengths, source.shape[1]))
        return beam_search(writing, limits, beam=settings.beam, length_penalty=settings.length_penalty)


class _Writing:
    """Hypotheses of a beam search: what the decoder's layers hold of them."""

    def __init__(self, body: EncoderDecoder, source: Tensor, allowed: Tensor) -> None:
        self.body = body
        self.sources = body.remember(body.encode(source, allowed), allowed)
        self.held: list[Memory] | None = None

    def advance(self, tokens: Tensor, place: int) -> Tensor:
        rows, self.held = self.body.step(tokens, place, self.sources, self.held)
        return self.body.embedding.scores(rows)

    def take(self, sentences: Tensor, hypotheses: Tensor) -> None:
        if len(sentences) < len(self.sources[0].keys):
            self.sources = [memory.take(sentences) for memory in self.sources]
        self.held = None if self.held is None else [memory.take(hypotheses) for memory in self.held]

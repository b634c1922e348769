"""CMLM: a conditional masked language model, which guesses hidden words of a target from all others and the source.

Ghazvininejad, Levy, Liu and Zettlemoyer, "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", EMNLP
2019. The decoder looks both ways. Its canvas is a target with EOS, which is never hidden: the length is known, for a
head of the encoder predicts it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from framework.config import asked
from framework.errors import InputError
from framework.models.settings import require_shares, require_widths
from framework.models.translation.attention import Memory
from framework.models.translation.hiding import hidden_of_everyone, hidden_words
from framework.models.translation.layers import TARGET, EncoderDecoder, Norm, Positions, visible, within
from framework.models.translation.mask_predict import Predict, mask_predict, masked_canvas
from framework.models.translation.students import (
    draw_weights,
    encoded_source,
    likeliest,
    with_prior,
)
from framework.models.translation.translator import Translations
from framework.registry import TRANSLATORS
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import MASK

_HIDING = 2  # which of a step's draws; 0 and 1 are the dropout of SOURCE and TARGET


@TRANSLATORS.register("cmlm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CMLM:
    """Conditional masked language model, decoded by Mask-Predict (Ghazvininejad et al., 2019)."""

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
    positions: Positions = "learned"
    """How a place in a sentence is told."""
    longest: int = 256
    """Tokens of the longest sentence: so many lengths are told apart, and positions, where they are learned."""
    deviation: float = 0.02
    """Standard deviation of the first weights."""
    label_smoothing: float = 0.1
    """Share of the probability that is to be spread over all tokens, in training."""
    length_weight: float = 0.1
    """Weight of the length's loss beside the words'."""
    passes: int = asked(10)
    """Calls of the decoder in translating. 1: all words at once, each the likeliest."""
    length_beam: int = asked(5)
    """Lengths that are tried of every translation."""
    lengths: Literal["likeliest", "expected"] = asked("likeliest")
    """Which lengths are tried: the likeliest, or those nearest to the mean of all by their probabilities. Of lengths
    that are likely alike the shorter is a little likelier: one likeliest length makes translations too short."""
    merge_repeats: bool = asked(False)
    """Whether a token that follows itself in a translation is written once: two places that each take the other for
    unwritten say the same (the multimodality of Gu et al., ICLR 2018)."""

    def __post_init__(self) -> None:
        require_widths(self, "width", "heads", "inner", "encoder_layers", "decoder_layers", "passes", "length_beam")
        require_shares(self, "dropout", "label_smoothing")
        if not 0 < self.deviation < math.inf:
            raise InputError(f"--model.deviation is {self.deviation}; expected a number above 0.")
        if self.longest <= self.length_beam:
            raise InputError(
                f"--model.longest is {self.longest}; expected more than --model.length-beam, {self.length_beam}."
            )
        if self.length_weight < 0:
            raise InputError(f"--model.length-weight is {self.length_weight}; expected at least 0.")

    def build(self, vocabulary: int) -> nn.Module:
        """A MaskedNetwork."""
        return MaskedNetwork(EncoderDecoder(vocabulary, self), self)


class MaskedNetwork(nn.Module):
    """An encoder with a head for the target's length, and a decoder that looks both ways."""

    def __init__(self, body: EncoderDecoder, settings: CMLM) -> None:
        super().__init__()
        self.body, self.settings = body, settings
        self.length = nn.Linear(settings.width, settings.longest)  # class c: c words
        draw_weights(self, body, settings.deviation)

    def forward(self, batch: PairBatch) -> Tensor:
        """The share's loss over the global batch's words that are hidden, and over its pairs: a scalar."""
        hiding = batch.key.fold(_HIDING)
        hidden = hidden_words(hiding, batch, fewest=1)
        predicted = hidden_of_everyone(hiding, batch, fewest=1).clamp(min=1)
        encoded, decoded = self._run(batch, batch.target.masked_fill(hidden, MASK), hidden)
        scores, gold = self.body.embedding.scores(decoded), batch.target[hidden]
        smoothing = self.settings.label_smoothing if self.training else 0.0
        words = cross_entropy(scores, gold, reduction="sum", label_smoothing=smoothing) / predicted
        lengths = (batch.target_lengths - 1).clamp(max=self.settings.longest - 1)
        length = cross_entropy(self._length_scores(encoded, batch.source_lengths), lengths, reduction="sum")
        loss = words + self.settings.length_weight * length / batch.size
        return with_prior(loss, scores, hidden, predicted, batch) if self.training else loss

    def forced(self, batch: PairBatch) -> Tensor:
        """Log-probabilities of all tokens at every place of the targets, of which only the lengths are told:
        [n, T, vocabulary]. What stands at places of EOS and PAD means nothing."""
        canvas = masked_canvas(batch.target_lengths - 1, batch.target.shape[1])
        return self.body.embedding.scores(self._run(batch, canvas)[1]).log_softmax(dim=-1)

    @torch.no_grad()
    def translate(self, source: Tensor, source_lengths: Tensor) -> Translations:
        """Source tokens int64 [n, S], padded -> the translation of the best score, of the likeliest lengths."""
        n, beam = len(source), self.settings.length_beam
        seen = visible(source_lengths, source.shape[1])
        encoded = self.body.encode(source, seen)
        words = self._tried_lengths(self._length_scores(encoded, source_lengths)).flatten()
        tried = torch.arange(n, device=source.device).repeat_interleave(beam)
        memories = [memory.take(tried) for memory in self.body.remember(encoded, seen)]
        canvas, scores = mask_predict(self._predictor(memories, words), words, self.settings.passes)
        best = scores.view(n, beam).argmax(dim=1) + beam * torch.arange(n, device=source.device)
        kept = within(words[best], int(words[best].max()))
        tokens = canvas[best, : kept.shape[1]]
        if self.settings.merge_repeats:
            kept[:, 1:] &= tokens[:, 1:] != tokens[:, :-1]
        return Translations.of([row[keep] for row, keep in zip(tokens, kept, strict=True)], scores[best])

    def _run(self, batch: PairBatch, canvas: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoded source [n, S, width] and decoded canvases, those `wanted` or all; in training with dropout."""
        encoded, memories = encoded_source(self.body, batch)
        drop = self.body.drops(batch.key, TARGET, batch.samples, canvas.shape[1])
        seen = visible(batch.target_lengths, canvas.shape[1])
        return encoded, self.body.decode(canvas, memories, seen, drop, wanted)

    def _length_scores(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """Scores of target lengths, by the mean over the source's tokens: [n, longest]."""
        taken = within(lengths, encoded.shape[1])[:, :, None]
        scores: Tensor = self.length((encoded * taken).sum(dim=1) / lengths[:, None])
        return scores.to(encoded.dtype)

    def _tried_lengths(self, scores: Tensor) -> Tensor:
        """The numbers of words that are tried, by scores [n, longest] of all: int64 [n, beam]."""
        beam, scores = self.settings.length_beam, scores[:, 1:]
        if self.settings.lengths == "likeliest":
            return 1 + scores.topk(beam, dim=1).indices
        places = torch.arange(scores.shape[1], device=scores.device)
        expected = (scores.softmax(dim=1) * places).sum(dim=1, keepdim=True)
        return 1 + (places - expected).abs().topk(beam, dim=1, largest=False).indices

    def _predictor(self, memories: Sequence[Memory], words: Tensor) -> Predict:
        """The likeliest words of canvases of `words` (int64 [m]) words, whose sources are `memories`."""

        def predict(canvas: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
            decoded = self.body.decode(canvas, memories, visible(words + 1, canvas.shape[1]), wanted=masked)
            return likeliest(self.body.embedding.scores(decoded))

        return predict

"""The Levenshtein transformer: a decoder that deletes words, opens places for new ones and fills them, in rounds.

Gu, Wang and Zhao, "Levenshtein Transformer", NeurIPS 2019. Three heads stand on one decoder that looks both ways. They
learn by imitation: what is to be inserted into a target of which some words were taken, or none, and what is to be
deleted from a target that the network itself has filled, is told by the fewest edits between the two.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from framework.config import asked
from framework.errors import InputError
from framework.models.settings import require_shares, require_widths
from framework.models.translation.attention import Memory
from framework.models.translation.edits import Canvas, common_words, gap_counts
from framework.models.translation.hiding import hidden_of_everyone, hidden_words
from framework.models.translation.layers import (
    KEPT,
    TARGET,
    EncoderDecoder,
    KeyedDropout,
    Norm,
    Positions,
    visible,
    within,
)
from framework.models.translation.students import draw_weights, encoded_source, likeliest, with_prior
from framework.models.translation.translator import Translations
from framework.registry import TRANSLATORS
from framework.samples.pair_batch import PairBatch

_HIDING, _OPENING, _FILLING, _DELETING = 2, 3, 4, 5  # which of a step's draws; 0 is the dropout of the source


@TRANSLATORS.register("levenshtein")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Levenshtein:
    """Levenshtein transformer: translates by deletions and insertions (Gu et al., 2019)."""

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
    """Tokens of the longest sentence, one at its beginning and one at its end counted."""
    deviation: float = 0.02
    """Standard deviation of the first weights."""
    most: int = 255
    """Words that are inserted between two neighbours at once, at most."""
    label_smoothing: float = 0.1
    """Share of a word's probability that is to be spread over all tokens, in training."""
    opening_smoothing: float = 0.01
    """Share of the probability of a number of new words that is to be spread over all numbers, in training."""
    places_before: ClassVar[int] = 1
    """Places that a target takes up beside those of its tokens: one at its beginning."""
    iterations: int = asked(10)
    """Rounds of deletion, insertion and filling in translating, unless a sentence stays as it is before that."""
    end_penalty: float = asked(0.0)
    """Taken from the score of inserting nothing: above 0, translations become longer."""

    def __post_init__(self) -> None:
        require_widths(self, "width", "heads", "inner", "encoder_layers", "decoder_layers", "most", "iterations")
        require_shares(self, "dropout", "label_smoothing", "opening_smoothing")
        if not 0 < self.deviation < math.inf:
            raise InputError(f"--model.deviation is {self.deviation}; expected a number above 0.")
        if not math.isfinite(self.end_penalty):
            raise InputError(f"--model.end-penalty is {self.end_penalty}; expected a number.")
        if self.longest < 3:
            raise InputError(f"--model.longest is {self.longest}; expected at least 3: a word, its beginning and end.")

    def build(self, vocabulary: int) -> nn.Module:
        """A LevenshteinNetwork."""
        return LevenshteinNetwork(EncoderDecoder(vocabulary, self), self)


class LevenshteinNetwork(nn.Module):
    """An encoder, and a decoder that looks both ways, with heads for deletions and for the places of insertions."""

    def __init__(self, body: EncoderDecoder, settings: Levenshtein) -> None:
        super().__init__()
        self.body, self.settings = body, settings
        self.opening = nn.Linear(2 * settings.width, settings.most + 1)  # class c: c placeholders
        self.deletion = nn.Linear(settings.width, 2)  # class 1: it goes
        draw_weights(self, body, settings.deviation)

    def forward(self, batch: PairBatch) -> Tensor:
        """The share's losses of the three heads, each over what it predicts in the global batch: a scalar."""
        hiding, memories = batch.key.fold(_HIDING), encoded_source(self.body, batch)[1]
        whole = Canvas.of(batch.target, batch.target_lengths)
        draft = whole.without(pad(hidden_words(hiding, batch, fewest=0), (1, 0)))
        _, kept = common_words(draft.tokens[:, 1:], draft.words, batch.target, whole.words)
        hidden = within(whole.words, batch.target.shape[1]) & ~kept
        masked = whole.masked(pad(hidden, (1, 0)))

        opening = self._opening_loss(batch, memories, draft, gap_counts(hidden, whole.words))
        scores = self._word_scores(masked, memories, self._drop(batch, masked, _FILLING))
        filling = self._loss(scores, batch.target[hidden], self.settings.label_smoothing)
        deletion = self._deletion_loss(batch, memories, masked.filled(*likeliest(scores.detach().clone())))

        words, predicted = (batch.everyone[:, 2] - 1).sum(), hidden_of_everyone(hiding, batch, fewest=0)
        gaps = words - predicted + batch.size  # a draft has one more than it has words
        words, predicted = words.clamp(min=1), predicted.clamp(min=1)
        loss = opening / gaps + filling / predicted + deletion / words
        return with_prior(loss, scores, hidden, predicted, batch) if self.training else loss

    def forced(self, batch: PairBatch) -> Tensor:
        """Log-probabilities of all tokens at every place of the targets, of which only the lengths are told:
        [n, T, vocabulary]. What stands at places of EOS and PAD means nothing."""
        whole = Canvas.of(batch.target, batch.target_lengths)
        masked = whole.masked(whole.inner)
        memories = encoded_source(self.body, batch)[1]
        decoded = self._decoded(masked, memories, self._drop(batch, masked, _FILLING))
        return self.body.embedding.scores(decoded[:, 1:]).log_softmax(dim=-1)

    @torch.no_grad()
    def translate(self, source: Tensor, source_lengths: Tensor) -> Translations:
        """Source tokens int64 [n, S], padded -> what becomes of an empty sentence, of at most twice as many words as
        the source has tokens and ten, once it stays as it is."""
        seen = visible(source_lengths, source.shape[1])
        memories = self.body.remember(self.body.encode(source, seen), seen)
        limits = (2 * source_lengths + 10).clamp(max=self.settings.longest - 2)
        canvas, rows = Canvas.empty(len(source), source.device), torch.arange(len(source), device=source.device)
        sentences, scores = [source.new_empty(0)] * len(source), torch.zeros(len(source), dtype=torch.float64)
        for iteration in range(1, self.settings.iterations + 1):
            revised = self._revised(canvas, memories, limits)
            ended = revised.equal(canvas) | (iteration == self.settings.iterations)
            for row in ended.nonzero().squeeze(1).tolist():
                length = int(revised.lengths[row])
                sentences[int(rows[row])] = revised.tokens[row, 1 : length - 1]
                scores[int(rows[row])] = revised.scores[row].sum() / max(length - 2, 1)
            going = (~ended).nonzero().squeeze(1)
            if not len(going):
                break
            canvas, rows, limits = revised.take(going), rows[going], limits[going]
            memories = [memory.take(going) for memory in memories] if len(going) < len(ended) else memories
        return Translations.of(sentences, scores)

    def _opening_loss(self, batch: PairBatch, memories: Sequence[Memory], draft: Canvas, counts: Tensor) -> Tensor:
        """Sum over the gaps of drafts, into which `counts` (int64 [n, T + 1]) words belong."""
        gaps = within(draft.lengths - 1, draft.tokens.shape[1] - 1)
        decoded = self._decoded(draft, memories, self._drop(batch, draft, _OPENING))
        classes = counts[:, : gaps.shape[1]][gaps].clamp(max=self.settings.most)
        return self._loss(self.opening(_pairs(decoded)[gaps]), classes, self.settings.opening_smoothing)

    def _deletion_loss(self, batch: PairBatch, memories: Sequence[Memory], filled: Canvas) -> Tensor:
        """Sum over the words of filled canvases, which go unless they are in the target."""
        kept, _ = common_words(filled.tokens[:, 1:], filled.words, batch.target, batch.target_lengths - 1)
        decoded = self._decoded(filled, memories, self._drop(batch, filled, _DELETING), filled.inner)
        gone = ~pad(kept, (1, 0))[filled.inner]
        return self._loss(self.deletion(decoded), gone.long(), 0.0)

    def _loss(self, scores: Tensor, classes: Tensor, smoothing: float) -> Tensor:
        """Sum of the cross-entropies of classes int64 [k], smoothed in training, by scores [k, C]."""
        scores = scores.to(self.opening.weight.dtype)  # of bfloat16 a sum would have few digits
        return cross_entropy(scores, classes, reduction="sum", label_smoothing=smoothing if self.training else 0.0)

    def _revised(self, canvas: Canvas, memories: Sequence[Memory], limits: Tensor) -> Canvas:
        """Canvases after one round: words deleted, places opened up to `limits` (int64 [n]) in all, and filled."""
        if bool(canvas.inner.any()):
            scores = self.deletion(self._decoded(canvas, memories))
            canvas = canvas.without((scores[:, :, 1] > scores[:, :, 0]) & canvas.inner)
        canvas = canvas.opened(self._openings(canvas, memories, limits))
        if bool(canvas.placeholders.any()):
            canvas = canvas.filled(*likeliest(self._word_scores(canvas, memories)))
        return canvas

    def _openings(self, canvas: Canvas, memories: Sequence[Memory], limits: Tensor) -> Tensor:
        """How many placeholders go into each gap, the first gaps having the first claim: int64 [n, C - 1]."""
        scores = self.opening(_pairs(self._decoded(canvas, memories)))
        scores[:, :, 0] -= self.settings.end_penalty
        counts = scores.argmax(dim=2) * within(canvas.lengths - 1, scores.shape[1])
        room = (limits - canvas.words).clamp(min=0)
        return pad(torch.minimum(counts.cumsum(dim=1), room[:, None]), (1, 0)).diff(dim=1)

    def _word_scores(self, canvas: Canvas, memories: Sequence[Memory], drop: KeyedDropout = KEPT) -> Tensor:
        """Scores of all tokens, before the softmax, for the k placeholders: [k, vocabulary]."""
        return self.body.embedding.scores(self._decoded(canvas, memories, drop, canvas.placeholders))

    def _decoded(
        self,
        canvas: Canvas,
        memories: Sequence[Memory],
        drop: KeyedDropout = KEPT,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[n, C, width], whose every token looks at all others of its canvas and at its source; of the tokens that are
        `wanted` (bool [n, C]) alone, where given: [k, width]."""
        seen = visible(canvas.lengths, canvas.tokens.shape[1])
        return self.body.decode(canvas.tokens, memories, seen, drop, wanted)

    def _drop(self, batch: PairBatch, canvas: Canvas, purpose: int) -> KeyedDropout:
        """The dropout of canvases of a batch's targets, in training."""
        return self.body.drops(batch.key.fold(purpose), TARGET, batch.samples, canvas.tokens.shape[1])


def _pairs(decoded: Tensor) -> Tensor:
    """The rows on both sides of every gap: [n, C, width] -> [n, C - 1, 2 width]."""
    return torch.cat([decoded[:, :-1], decoded[:, 1:]], dim=-1)

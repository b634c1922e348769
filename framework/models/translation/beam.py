"""Beam search: the translations that a model holds likely, written a token at a time, many sentences at once.

Assumptions: the score of a hypothesis is its log-probability, EOS counted, over its length to the power of a penalty
(Wu et al., 2016, in the simple form); sums are float64. A sentence is done when as many of its hypotheses have ended as
the beam is wide, each among that many best ones at its time. So a beam of 1 takes the likeliest token at every place,
and one that is wide enough finds the best of all sentences. Sentences that are done leave the batch.
"""

from typing import Protocol

import torch
from torch import Tensor

from framework.models.translation.translator import Translations
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN

_NEVER_WRITTEN = (PAD, BOS, UNKNOWN, MASK)


class Writing(Protocol):
    """A model in the middle of n sentences, with as many hypotheses for each as the beam is wide, side by side."""

    def advance(self, tokens: Tensor, place: int) -> Tensor:
        """Takes a token of each hypothesis, int64 [n * beam], the one at `place`; scores of the next, before the
        softmax: [n * beam, vocabulary]."""

    def take(self, sentences: Tensor, hypotheses: Tensor) -> None:
        """Goes on with the sentences int64 [k], and the hypotheses int64 [k * beam], of those there are now."""


def beam_search(writing: Writing, limits: Tensor, *, beam: int, length_penalty: float) -> Translations:
    """The best translation of every sentence, of at most `limits` (int64 [n]) tokens."""
    device, sentences = limits.device, len(limits)
    best = torch.full((sentences,), -torch.inf, dtype=torch.float64, device=device)
    scores, found = best.clone(), torch.full((sentences, int(limits.max()) + 1), PAD, device=device)
    lengths, ended = torch.zeros_like(limits), torch.zeros_like(limits)
    live = torch.arange(sentences, device=device)
    totals = torch.full((sentences, beam), -torch.inf, dtype=torch.float64, device=device)
    totals[:, 0] = 0.0  # all begin alike: one counts
    written = torch.full((sentences * beam, 1), BOS, device=device)
    place = 0
    while len(live):
        next_scores = writing.advance(written[:, -1], place)
        values, origin, token = _candidates(next_scores, totals, limits[live] == place)
        ends = (token == EOS) & values.isfinite()
        closing = ends & (torch.arange(values.shape[1], device=device) < beam)
        ranked = torch.where(closing, values / (place + 1) ** length_penalty, -torch.inf)
        value, which = ranked.max(dim=1)
        better = torch.nonzero(value > best[live]).squeeze(1)
        numbers, chosen = live[better], which[better]
        best[numbers] = value[better]
        scores[numbers] = values[better, chosen] / (place + 1)
        lengths[numbers] = place
        found[numbers, :place] = written[better * beam + origin[better, chosen], 1:]
        ended[live] += closing.sum(dim=1)

        totals, kept = values.masked_fill(token == EOS, -torch.inf).topk(beam, dim=1)
        going = torch.nonzero((ended[live] < beam) & totals[:, 0].isfinite()).squeeze(1)
        rows = (going[:, None] * beam + origin[going].gather(1, kept[going])).flatten()
        written = torch.cat([written[rows], token[going].gather(1, kept[going]).view(-1, 1)], dim=1)
        live, totals = live[going], totals[going]
        writing.take(going, rows)
        place += 1
    longest = int(lengths.max())
    tokens = found[:, :longest].masked_fill(torch.arange(longest, device=device) >= lengths[:, None], PAD)
    return Translations(tokens=tokens, lengths=lengths, scores=scores)


def _candidates(next_scores: Tensor, totals: Tensor, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of n sentences' hypotheses, twice as many as the beam so that enough of them go on.

    `next_scores` [n * beam, vocabulary] is written into; `totals` float64 [n, beam]; `full` bool [n]: which sentences
    may only end. Returns log-probabilities, descending; the hypothesis continued; the token: [n, candidates] each."""
    sentences, beam = totals.shape
    normalizer = next_scores.logsumexp(dim=1, keepdim=True)
    next_scores[:, _NEVER_WRITTEN] = -torch.inf
    stopped = full.repeat_interleave(beam)
    next_scores[:, EOS + 1 :].masked_fill_(stopped[:, None], -torch.inf)
    values, tokens = next_scores.topk(min(2 * beam, next_scores.shape[1]), dim=1)
    logs = (values.double() - normalizer.double()).view(sentences, beam, -1)
    sums = (totals[:, :, None] + logs).flatten(1)
    best, chosen = sums.topk(min(2 * beam, sums.shape[1]), dim=1)
    return best, chosen // logs.shape[2], tokens.view(sentences, -1).gather(1, chosen)

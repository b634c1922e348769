"""Edits of whole batches of sentences: which words deletions and insertions leave, and canvases that are edited.

A canvas is what a Levenshtein transformer works on: BOS, words and placeholders, EOS. Between any two neighbours is a
gap, into which placeholders are put; so there is one gap less than there are tokens.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import pad

from framework.models.translation.layers import within
from framework.samples.vocabulary import BOS, EOS, MASK, PAD


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """n canvases of up to C tokens, as values: an edit makes new ones."""

    tokens: Tensor
    """PAD behind EOS: int64 [n, C]."""
    lengths: Tensor
    """Tokens of each, BOS and EOS counted: int64 [n]."""
    scores: Tensor
    """The log-probability with which each word was predicted, 0 where none was: float64 [n, C]."""

    @classmethod
    def of(cls, target: Tensor, lengths: Tensor) -> "Canvas":
        """Of whole targets int64 [n, T], EOS at the end, which `lengths` (int64 [n]) counts."""
        tokens = pad(target, (1, 0), value=BOS)
        return cls(tokens=tokens, lengths=lengths + 1, scores=torch.zeros_like(tokens, dtype=torch.float64))

    @classmethod
    def empty(cls, n: int, device: torch.device) -> "Canvas":
        """Without words."""
        return cls.of(torch.full((n, 1), EOS, device=device), torch.ones(n, dtype=torch.int64, device=device))

    @property
    def words(self) -> Tensor:
        """How many words and placeholders each has: int64 [n]."""
        return self.lengths - 2

    @property
    def inner(self) -> Tensor:
        """Which tokens are neither BOS nor EOS nor PAD: bool [n, C]."""
        return pad(within(self.words, self.tokens.shape[1] - 1), (1, 0))

    @property
    def placeholders(self) -> Tensor:
        """Which tokens are yet to be predicted: bool [n, C]."""
        return self.tokens == MASK

    def masked(self, hidden: Tensor) -> "Canvas":
        """With placeholders in place of the `hidden` words: bool [n, C]."""
        return dataclasses.replace(self, tokens=self.tokens.masked_fill(hidden, MASK))

    def without(self, gone: Tensor) -> "Canvas":
        """Without the tokens that are `gone`: bool [n, C]."""
        kept = within(self.lengths, self.tokens.shape[1]) & ~gone
        lengths = kept.sum(dim=1)
        order = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, : _longest(lengths)]
        outside = ~within(lengths, order.shape[1])
        return Canvas(
            tokens=self.tokens.gather(1, order).masked_fill_(outside, PAD),
            lengths=lengths,
            scores=self.scores.gather(1, order).masked_fill_(outside, 0),
        )

    def opened(self, counts: Tensor) -> "Canvas":
        """With `counts` (int64 [n, C - 1]) more placeholders in every gap; 0 in what is none, behind EOS."""
        added = pad(counts.cumsum(dim=1), (1, 0))
        lengths = self.lengths + added[:, -1]
        columns = _longest(lengths)
        places = torch.arange(self.tokens.shape[1], device=added.device) + added
        places.masked_fill_(~within(self.lengths, places.shape[1]), columns)  # PAD goes where it is cut off
        tokens = self.tokens.new_full((len(places), columns + 1), MASK).scatter_(1, places, self.tokens)[:, :columns]
        scores = self.scores.new_zeros(len(places), columns + 1).scatter_(1, places, self.scores)[:, :columns]
        return Canvas(tokens=tokens.masked_fill(~within(lengths, columns), PAD), lengths=lengths, scores=scores)

    def filled(self, words: Tensor, log_probabilities: Tensor) -> "Canvas":
        """With words (int64 [k]), and the log-probabilities of them, in place of all k placeholders."""
        places = self.placeholders
        return dataclasses.replace(
            self,
            tokens=self.tokens.masked_scatter(places, words),
            scores=self.scores.masked_scatter(places, log_probabilities.double()),
        )

    def take(self, rows: Tensor) -> "Canvas":
        """Some of the canvases: int64 [m]."""
        return Canvas(tokens=self.tokens[rows], lengths=self.lengths[rows], scores=self.scores[rows])

    def equal(self, other: "Canvas") -> Tensor:
        """Which of them are as they are in `other`: bool [n]."""
        columns = min(self.tokens.shape[1], other.tokens.shape[1])
        same_tokens = (self.tokens[:, :columns] == other.tokens[:, :columns]).all(dim=1)
        return same_tokens & (self.lengths == other.lengths)


def _longest(lengths: Tensor) -> int:
    return max(lengths.tolist(), default=2)


def gap_counts(hidden: Tensor, words: Tensor) -> Tensor:
    """How many hidden words are in each gap of the canvas of the others.

    `hidden` bool [n, T], which of a target's words are hidden; `words` int64 [n], how many words it has -> int64
    [n, T + 1], 0 behind the last gap."""
    gap = (within(words, hidden.shape[1]) & ~hidden).cumsum(dim=1)
    counts = torch.zeros(len(hidden), hidden.shape[1] + 1, dtype=torch.int64, device=hidden.device)
    return counts.scatter_add_(1, gap, hidden.long())


def common_words(drafts: Tensor, draft_words: Tensor, targets: Tensor, target_words: Tensor) -> tuple[Tensor, Tensor]:
    """The words of a longest common subsequence, in drafts int64 [n, X] and in targets int64 [n, Y]: bool of the same.

    The fewest deletions and insertions that turn a draft into its target delete its other words and insert the target's
    others (Levenshtein, 1966). Of several common subsequences it is the one that is met first from the right, a word of
    the draft going unmatched where it may. The first `draft_words` and `target_words` (int64 [n]) tokens count."""
    equal = drafts[:, :, None] == targets[:, None, :]
    equal &= within(draft_words, drafts.shape[1])[:, :, None] & within(target_words, targets.shape[1])[:, None, :]
    longest = _longest_common(equal)
    in_drafts = torch.zeros_like(drafts, dtype=torch.bool)
    in_targets = torch.zeros(len(targets), targets.shape[1] + 1, dtype=torch.bool, device=targets.device)
    end = torch.full_like(target_words, targets.shape[1])[:, None]  # so many words of the target are still unmatched
    for word in reversed(range(drafts.shape[1])):
        here = longest[:, word + 1].gather(1, end)
        kept = here > longest[:, word].gather(1, end)
        match = (longest[:, word + 1] < here).sum(dim=1, keepdim=True)  # the first end that has as many in common
        in_drafts[:, word] = kept[:, 0]
        in_targets.scatter_(1, match, in_targets.gather(1, match) | kept)
        end = torch.where(kept, match - 1, end)
    return in_drafts, in_targets[:, 1:]


def _longest_common(equal: Tensor) -> Tensor:
    """Lengths of the longest common subsequences of all beginnings: bool [n, X, Y] -> int32 [n, X + 1, Y + 1].

    A row comes from the row before in one piece: one more word of the target never makes a common subsequence shorter,
    so that the greatest so far stands for it."""
    n, words, others = equal.shape
    longest = torch.zeros(n, words + 1, others + 1, dtype=torch.int32, device=equal.device)
    for word in range(words):
        matched = torch.maximum(longest[:, word, 1:], longest[:, word, :-1] + equal[:, word])
        longest[:, word + 1, 1:] = matched.cummax(dim=1).values
    return longest

"""Edits of sentences against every subsequence tried, and canvases against lists."""

import itertools
import random

import pytest
import torch
from pair_batches import padded

from framework.models.translation.edits import Canvas, common_words, gap_counts
from framework.models.translation.layers import within
from framework.samples.vocabulary import BOS, EOS, MASK, PAD


def longest_tried(first: list[int], second: list[int]) -> int:
    """Length of the longest common subsequence, by trying all of the first's."""

    def is_within(part: tuple[int, ...]) -> bool:
        words = iter(second)
        return all(word in words for word in part)

    lengths = range(len(first), -1, -1)
    return next(n for n in lengths if any(map(is_within, itertools.combinations(first, n))))


@pytest.mark.parametrize("kinds", [2, 3, 6])
def test_common_words_are_as_many_as_can_be(kinds: int) -> None:
    draw = random.Random(kinds)
    pairs = [[[draw.randrange(10, 10 + kinds) for _ in range(draw.randrange(9))] for _ in range(2)] for _ in range(150)]
    pairs.append([[], []])
    drafts, draft_words = padded([first for first, _ in pairs])
    targets, target_words = padded([second for _, second in pairs])
    in_drafts, in_targets = common_words(drafts, draft_words, targets, target_words)
    for row, (first, second) in enumerate(pairs):
        kept = drafts[row][in_drafts[row]].tolist()
        assert kept == targets[row][in_targets[row]].tolist()
        assert len(kept) == longest_tried(first, second)


def test_what_is_hidden_is_put_back_by_the_fewest_edits() -> None:
    draw = random.Random(0)
    sentences = [[draw.randrange(10, 14) for _ in range(draw.randrange(1, 12))] for _ in range(60)]
    target, lengths = padded([[*sentence, EOS] for sentence in sentences])
    whole = Canvas.of(target, lengths)
    drawn = whole.inner & (torch.rand(whole.tokens.shape, generator=torch.manual_seed(0)) < 0.5)
    draft = whole.without(drawn)
    in_drafts, in_targets = common_words(draft.tokens[:, 1:], draft.words, target, whole.words)
    assert in_drafts.equal(within(draft.words, draft.tokens.shape[1] - 1))
    hidden = within(whole.words, target.shape[1]) & ~in_targets
    assert hidden.sum(dim=1).equal(drawn.sum(dim=1))
    opened = draft.opened(gap_counts(hidden, whole.words)[:, : draft.tokens.shape[1] - 1])
    filled = opened.filled(target[hidden], torch.zeros(int(hidden.sum())))
    assert opened.placeholders[:, 1:].equal(hidden)
    assert filled.equal(whole).all()


def test_canvases_are_edited_as_lists_are() -> None:
    tokens, lengths = padded([[BOS, 10, 11, 12, EOS], [BOS, 13, EOS], [BOS, EOS]])
    canvas = Canvas(tokens=tokens, lengths=lengths, scores=-tokens.double())
    assert canvas.inner.tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    gone = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    shorter = canvas.without(gone)
    assert shorter.tokens.tolist() == [[BOS, 11, EOS], [BOS, EOS, PAD], [BOS, EOS, PAD]]
    assert shorter.words.tolist() == [1, 0, 0]
    assert shorter.scores.equal(-shorter.tokens.double())
    wider = shorter.opened(torch.tensor([[1, 2], [0, 0], [1, 0]]))
    assert wider.tokens.tolist() == [
        [BOS, MASK, 11, MASK, MASK, EOS],
        [BOS, EOS, PAD, PAD, PAD, PAD],
        [BOS, MASK, EOS, PAD, PAD, PAD],
    ]
    assert wider.words.tolist() == [4, 0, 1]
    assert wider.scores[:, 2].tolist() == [-11, 0, -EOS]
    filled = wider.filled(torch.tensor([20, 21, 22, 23]), torch.tensor([-1.0, -2.0, -3.0, -4.0]))
    assert filled.tokens[:, 1:5].tolist() == [[20, 11, 21, 22], [EOS, PAD, PAD, PAD], [23, EOS, PAD, PAD]]
    assert filled.scores[:, 1].tolist() == [-1, -EOS, -4]


def test_equal_canvases() -> None:
    first = Canvas.of(*padded([[10, 11, EOS], [10, EOS], [EOS]]))
    second = Canvas.of(*padded([[10, EOS], [10, EOS], [EOS]]))
    assert first.equal(second).tolist() == [False, True, True]
    assert second.equal(first).tolist() == [False, True, True]
    empty = Canvas.empty(1, torch.device("cpu"))
    assert empty.equal(second.take(torch.tensor([2]))).tolist() == [True]

"""The Levenshtein transformer: its losses against a plain loop, its rounds against edits of lists."""

import dataclasses
from typing import Any

import pytest
import torch
from pair_batches import pair_batch, share, with_prior
from torch import Tensor

from framework.errors import InputError
from framework.models.translation.edits import common_words
from framework.models.translation.hiding import hidden_words
from framework.models.translation.layers import visible, within
from framework.models.translation.levenshtein import Levenshtein, LevenshteinNetwork
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN

VOCABULARY = 23


def network(seed: int = 0, **fields: Any) -> LevenshteinNetwork:
    """Small, float64, with weights that are large enough to tell places apart."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "heads": 2, "inner": 24, "encoder_layers": 1, "decoder_layers": 1, "longest": 20, "most": 5}
    built = Levenshtein(**{**sizes, "deviation": 0.4, **fields}).build(VOCABULARY)
    assert isinstance(built, LevenshteinNetwork)
    return built.double()


class Plain:
    """The network, asked of one canvas of one sentence at a time."""

    def __init__(self, model: LevenshteinNetwork, source: Tensor) -> None:
        seen = visible(torch.tensor([len(source)]), len(source))
        self.model, self.memories = model, model.body.remember(model.body.encode(source[None], seen), seen)

    def decoded(self, canvas: list[int]) -> Tensor:
        seen = visible(torch.tensor([len(canvas)]), len(canvas))
        return self.model.body.decode(torch.tensor([canvas]), self.memories, seen)[0]

    def openings(self, canvas: list[int]) -> Tensor:
        rows = self.decoded(canvas)
        scores: Tensor = self.model.opening(torch.cat([rows[:-1], rows[1:]], dim=1))
        return scores.log_softmax(dim=1)

    def words(self, canvas: list[int]) -> Tensor:
        """Of the placeholders."""
        rows = self.decoded(canvas)[[place for place, token in enumerate(canvas) if token == MASK]]
        return self.model.body.embedding.scores(rows).log_softmax(dim=1)

    def deletions(self, words: list[int]) -> Tensor:
        scores: Tensor = self.model.deletion(self.decoded([BOS, *words, EOS])[1:-1])
        return scores.log_softmax(dim=1)

    def written(self, told: Tensor) -> list[int]:
        return (MASK + 1 + told[:, MASK + 1 :].argmax(dim=1)).tolist()


def in_common(draft: list[int], target: list[int]) -> tuple[list[bool], list[bool]]:
    lengths = torch.tensor([len(draft)]), torch.tensor([len(target)])
    found = common_words(torch.tensor([draft]), lengths[0], torch.tensor([target]), lengths[1])
    return found[0][0].tolist(), found[1][0].tolist()


def filled(canvas: list[int], words: list[int]) -> list[int]:
    new = iter(words)
    return [next(new) if token == MASK else token for token in canvas]


@dataclasses.dataclass
class Told:
    """What a plain loop over the pairs of a batch finds."""

    opening: list[Tensor] = dataclasses.field(default_factory=list)
    """Log-probability of the right number of placeholders, a gap."""
    filling: list[Tensor] = dataclasses.field(default_factory=list)
    """Log-probabilities of all tokens, a placeholder."""
    gold: list[int] = dataclasses.field(default_factory=list)
    """The right ones."""
    places: list[int] = dataclasses.field(default_factory=list)
    """Where these are in the flattened targets."""
    deletion: list[Tensor] = dataclasses.field(default_factory=list)
    """Log-probability of what is right, a word of a filled canvas."""

    def loss(self) -> Tensor:
        filling = [row[word] for row, word in zip(self.filling, self.gold, strict=True)]
        return -torch.stack([torch.stack(each).mean() for each in (self.opening, filling, self.deletion)]).sum()


def told_plainly(model: LevenshteinNetwork, batch: PairBatch) -> Told:
    told, drawn = Told(), hidden_words(batch.key.fold(2), batch, fewest=0)
    for row, (source_length, length) in enumerate(zip(batch.source_lengths, batch.target_lengths, strict=True)):
        plain = Plain(model, batch.source[row, :source_length])
        target = batch.target[row, : length - 1].tolist()
        draft = [word for place, word in enumerate(target) if not drawn[row, place]]
        kept = in_common(draft, target)[1]
        masked = [word if keep else MASK for word, keep in zip(target, kept, strict=True)]
        counts = [len(words) for words in "".join("." if word == MASK else "|" for word in masked).split("|")]
        openings, words = plain.openings([BOS, *draft, EOS]), plain.words([BOS, *masked, EOS])
        hidden = [place for place, word in enumerate(masked) if word == MASK]
        guess = filled(masked, plain.written(words))
        right = in_common(guess, target)[0]
        told.opening += [openings[gap, min(count, model.settings.most)] for gap, count in enumerate(counts)]
        told.filling += list(words)
        told.gold += [target[place] for place in hidden]
        told.places += [row * batch.target.shape[1] + place for place in hidden]
        told.deletion += [scores[int(not keep)] for scores, keep in zip(plain.deletions(guess), right, strict=True)]
    assert len(told.filling) == int(drawn.sum())
    return told


UNSMOOTHED: dict[str, Any] = {"dropout": 0.0, "label_smoothing": 0.0, "opening_smoothing": 0.0}


def test_the_losses_are_a_plain_loops() -> None:
    model, batch = network(**UNSMOOTHED, most=2), pair_batch()
    torch.testing.assert_close(model(batch), told_plainly(model, batch).loss(), rtol=1e-12, atol=0)
    smoothed = network(dropout=0.4, most=2)
    assert not torch.isclose(smoothed(batch), model(batch), rtol=1e-3)
    assert smoothed.eval()(batch).equal(model(batch))  # what is measured is neither smoothed nor dropped out


def test_smoothing_is_of_words_and_numbers() -> None:
    batch = pair_batch()
    told = told_plainly(network(**UNSMOOTHED), batch)
    plain = network(**UNSMOOTHED)(batch)
    rows = torch.stack(told.filling)
    gold = rows.gather(1, torch.tensor(told.gold)[:, None]).mean()
    expected = plain + 0.1 * (gold - rows.mean())
    torch.testing.assert_close(network(**{**UNSMOOTHED, "label_smoothing": 0.1})(batch), expected, rtol=1e-12, atol=0)
    assert not torch.isclose(network(**{**UNSMOOTHED, "opening_smoothing": 0.1})(batch), plain, rtol=1e-6)


def test_a_prior_is_of_the_words_that_are_filled_in() -> None:
    model, batch = network(**UNSMOOTHED), with_prior(pair_batch(), VOCABULARY)
    assert batch.prior is not None
    told = told_plainly(model, batch)
    dense = batch.prior.dense(VOCABULARY)[told.places]
    divergence = (torch.special.xlogy(dense, dense) - dense * torch.stack(told.filling)).sum(dim=1).mean()
    weight = batch.prior_weight
    torch.testing.assert_close(model(batch), (1 - weight) * told.loss() + weight * divergence, rtol=1e-12, atol=0)


def test_shares_add_up_with_dropout_and_a_prior() -> None:
    model, batch = network(dropout=0.4), with_prior(pair_batch(), VOCABULARY)

    def told(shares: list[PairBatch]) -> list[Tensor]:
        model.zero_grad()
        loss = torch.stack([model(part) for part in shares]).sum()
        torch.autograd.backward(loss)
        return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]

    whole = told([batch])
    shared = told([share(batch, rows) for rows in (torch.tensor([4, 0]), torch.tensor([1, 2, 3, 6, 5]))])
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-12)
    assert len(whole) == 1 + len(list(model.parameters()))


def revised(plain: Plain, canvas: list[int], limit: int) -> list[int]:
    """One round over the words of a canvas."""
    settings = plain.model.settings
    if canvas:
        gone = plain.deletions(canvas).argmax(dim=1).tolist()
        canvas = [word for word, goes in zip(canvas, gone, strict=True) if not goes]
    scores = plain.openings([BOS, *canvas, EOS])
    scores[:, 0] -= settings.end_penalty
    opened: list[int] = []
    room = limit - len(canvas)
    for word, count in zip([None, *canvas], scores.argmax(dim=1).tolist(), strict=True):
        opened += ([] if word is None else [word]) + [MASK] * min(count, room)
        room -= min(count, room)
    return filled(opened, plain.written(plain.words([BOS, *opened, EOS]))) if MASK in opened else opened


@pytest.mark.parametrize(("seed", "iterations"), [(1, 1), (2, 10), (3, 10)])
def test_translations_are_edited_until_they_stay(seed: int, iterations: int) -> None:
    model, batch = network(seed, iterations=iterations, end_penalty=0.1).eval(), pair_batch(12, seed=seed)
    found = model.translate(batch.source, batch.source_lengths)
    rounds = []
    for row, length in enumerate(batch.source_lengths.tolist()):
        plain = Plain(model, batch.source[row, :length])
        states: list[list[int]] = [[]]
        while len(states) <= iterations and states[-1:] != states[-2:-1]:
            states.append(revised(plain, states[-1], min(2 * length + 10, 18)))
        rounds.append(len(states))
        assert found.tokens[row, : found.lengths[row]].tolist() == states[-1]
    assert (found.tokens == PAD).equal(~within(found.lengths, found.tokens.shape[1]))
    assert not torch.isin(found.tokens, torch.tensor([BOS, EOS, UNKNOWN, MASK])).any()
    assert iterations == 1 or len(set(rounds)) > 1  # some stay as they are before others


def test_scores_are_of_the_words_that_stay() -> None:
    model, batch = network(4, iterations=1).eval(), pair_batch()
    found = model.translate(batch.source, batch.source_lengths)
    row = int(found.lengths.argmax())
    words = int(found.lengths[row])
    told = Plain(model, batch.source[row, : batch.source_lengths[row]]).words([BOS, *[MASK] * words, EOS])
    expected = told[:, MASK + 1 :].log_softmax(dim=1).max(dim=1).values.mean()
    assert found.scores[row].item() == pytest.approx(expected.item(), rel=1e-12)


def test_forced_probabilities_see_nothing_of_the_target() -> None:
    model, batch = network(dropout=0.4).eval(), pair_batch()
    told = model.forced(batch)
    words = batch.target_lengths.tolist()[3] - 1
    plain = Plain(model, batch.source[3, : batch.source_lengths[3]])
    torch.testing.assert_close(told[3, :words], plain.words([BOS, *[MASK] * words, EOS]), rtol=1e-12, atol=0)


def test_what_cannot_be_is_refused() -> None:
    for fields, text in (
        ({"iterations": 0}, r"--model\.iterations is 0"),
        ({"deviation": -0.1}, r"--model\.deviation is -0\.1; expected a number above 0"),
        ({"longest": 2}, r"--model\.longest is 2; expected at least 3"),
        ({"end_penalty": float("nan")}, r"--model\.end-penalty is nan; expected a number"),
        ({"opening_smoothing": 1.0}, r"--model\.opening-smoothing is 1\.0"),
    ):
        with pytest.raises(InputError, match=text):
            Levenshtein(**fields)

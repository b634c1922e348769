"""The masked language model: what it hides, its loss against a plain loop, its prior, and Mask-Predict pass by pass."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from pair_batches import pair_batch, share, with_prior
from torch import Tensor

from framework.errors import InputError
from framework.models.translation.hiding import hidden_of_everyone, hidden_words, lowest
from framework.models.translation.layers import visible, within
from framework.models.translation.mask_predict import mask_predict, masked_canvas
from framework.models.translation.masked import CMLM, MaskedNetwork
from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN

VOCABULARY = 23


def network(seed: int = 0, **fields: Any) -> MaskedNetwork:
    """Small, float64, with weights that are large enough to tell places apart."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "heads": 2, "inner": 24, "encoder_layers": 1, "decoder_layers": 2, "longest": 20}
    built = CMLM(**{**sizes, "deviation": 0.4, **fields}).build(VOCABULARY)
    assert isinstance(built, MaskedNetwork)
    return built.double()


@pytest.mark.parametrize("fewest", [0, 1])
def test_as_many_words_are_hidden_as_a_uniform_draw_says(fewest: int) -> None:
    n, words = 6000, 4
    samples, lengths = torch.arange(n), torch.full((n,), words + 1)
    batch = dataclasses.replace(
        pair_batch(),
        samples=samples,
        target=torch.full((n, words + 3), 7),
        target_lengths=lengths,
        everyone=torch.stack([samples, lengths, lengths], dim=1),
    )
    hidden = hidden_words(batch.key, batch, fewest=fewest)
    counts = hidden.sum(dim=1).bincount(minlength=words + 1) / n
    share_of_each = torch.tensor([1 - fewest, 1, 1, 1, 1]) / (words + 1 - fewest)
    torch.testing.assert_close(counts, share_of_each, rtol=0, atol=0.02)
    by_place, mean = hidden.double().mean(dim=0), (fewest + words) / 2 / words
    torch.testing.assert_close(by_place[:words], torch.full((words,), mean).double(), rtol=0, atol=0.02)
    assert not hidden[:, words:].any()  # neither EOS nor padding
    assert hidden.sum() == hidden_of_everyone(batch.key, batch, fewest=fewest)
    assert not hidden_words(Key.root(1), batch, fewest=fewest).equal(hidden)


def test_what_is_hidden_goes_by_the_pair() -> None:
    batch = pair_batch()
    part = share(batch, torch.tensor([5, 2]))
    columns = part.target.shape[1]
    assert hidden_words(part.key, part, fewest=1).equal(hidden_words(batch.key, batch, fewest=1)[[5, 2], :columns])
    assert hidden_of_everyone(part.key, part, fewest=1) == hidden_words(batch.key, batch, fewest=1).sum()


def test_lowest_of_each_row() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = lowest(values, within(torch.tensor([3, 3, 0]), 4), torch.tensor([2, 1, 0]))
    assert chosen.tolist() == [[False, True, True, False], [True, False, False, False], [False] * 4]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_a_plain_loops(smoothing: float) -> None:
    model, batch = network(dropout=0.0, label_smoothing=smoothing), pair_batch()
    words, predicted, lengths = 0.0, 0, 0.0
    hidden = hidden_words(batch.key.fold(2), batch, fewest=1)
    for row, (places, places_of_target) in enumerate(zip(batch.source_lengths, batch.target_lengths, strict=True)):
        source, target = batch.source[row : row + 1, :places], batch.target[row : row + 1, :places_of_target]
        seen = visible(batch.source_lengths[row : row + 1], source.shape[1])
        encoded = model.body.encode(source, seen)
        canvas = target.masked_fill(hidden[row, : target.shape[1]], MASK)
        seen_canvas = visible(batch.target_lengths[row : row + 1], target.shape[1])
        decoded = model.body.decode(canvas, model.body.remember(encoded, seen), seen_canvas)
        told = model.body.embedding.scores(decoded).log_softmax(dim=-1)[0].detach()
        for place in hidden[row].nonzero().squeeze(1).tolist():
            own, all_tokens = float(told[place, target[0, place]]), float(told[place].mean())
            words -= (1 - smoothing) * own + smoothing * all_tokens
            predicted += 1
        lengths -= model.length(encoded.mean(dim=1)).log_softmax(dim=1)[0, target.shape[1] - 1].item()
    expected = words / predicted + 0.1 * lengths / len(batch.samples)
    assert model(batch).item() == pytest.approx(expected, rel=1e-12)
    unsmoothed = network(dropout=0.0, label_smoothing=0.0)
    assert model.eval()(batch).equal(unsmoothed(batch))  # what is measured is not smoothed


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_rows_that_are_wanted_are_those_of_all(norm: str) -> None:
    model, batch = network(dropout=0.3, norm=norm), pair_batch()
    hidden = hidden_words(batch.key.fold(2), batch, fewest=0)
    assert len(set(hidden.sum(dim=1).tolist())) > 2  # some sentences have more than others, some have none
    canvas = batch.target.masked_fill(hidden, MASK)
    wanted, everything = model._run(batch, canvas, hidden)[1], model._run(batch, canvas)[1][hidden]
    torch.testing.assert_close(wanted, everything, rtol=1e-12, atol=1e-13)
    gradients = [
        torch.autograd.grad(rows.square().sum(), list(model.body.parameters())) for rows in (wanted, everything)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert model._run(batch, canvas, torch.zeros_like(hidden))[1].shape == (0, 16)


@pytest.mark.parametrize("weight", [0.6, 0.0])
def test_a_prior_is_mixed_in_where_words_are_predicted(weight: float) -> None:
    model, batch = network(dropout=0.0), with_prior(pair_batch(), VOCABULARY, weight=weight)
    assert batch.prior is not None
    plain = dataclasses.replace(batch, prior=None)
    hidden = hidden_words(batch.key.fold(2), batch, fewest=1)
    encoded = model.body.encode(batch.source, visible(batch.source_lengths, batch.source.shape[1]))
    memories = model.body.remember(encoded, visible(batch.source_lengths, batch.source.shape[1]))
    seen = visible(batch.target_lengths, batch.target.shape[1])
    decoded = model.body.decode(batch.target.masked_fill(hidden, MASK), memories, seen)
    told = model.body.embedding.scores(decoded).log_softmax(dim=-1).flatten(0, 1)
    dense = batch.prior.dense(VOCABULARY)
    divergence = (torch.special.xlogy(dense, dense) - dense * told).sum(dim=1)[hidden.flatten()].sum() / hidden.sum()
    expected = (1 - weight) * model(plain) + weight * divergence
    torch.testing.assert_close(model(batch), expected, rtol=1e-12, atol=0)
    assert (weight == 0) == torch.equal(model(batch), model(plain))
    assert torch.equal(model.eval()(batch), model(plain))  # what is measured has no prior


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
    kept = network(dropout=0.0)
    assert not torch.isclose(whole[0], kept(batch).detach(), rtol=1e-3)  # dropout was on


def plainly(model: MaskedNetwork, source: Tensor, words: int) -> tuple[list[int], float]:
    """Mask-Predict of one sentence of `words` words as the paper tells it, one thing at a time."""
    lengths = torch.tensor([source.shape[1]])
    seen = visible(lengths, source.shape[1])
    memories = model.body.remember(model.body.encode(source, seen), seen)
    canvas, scores, passes = [MASK] * words, [0.0] * words, model.settings.passes
    for done in range(1, passes + 1):
        tokens = torch.tensor([[*canvas, EOS]])
        decoded = model.body.decode(tokens, memories, visible(torch.tensor([words + 1]), words + 1))
        told = model.body.embedding.scores(decoded)[0, :, MASK + 1 :].log_softmax(dim=1).detach()
        for place in [place for place in range(words) if canvas[place] == MASK]:
            canvas[place] = MASK + 1 + int(told[place].argmax())
            scores[place] = float(told[place].max())
        for place in sorted(range(words), key=lambda place: scores[place])[: math.floor(words * (1 - done / passes))]:
            canvas[place] = MASK
    return canvas, sum(scores) / words


@pytest.mark.parametrize(("passes", "lengths"), [(1, "likeliest"), (4, "likeliest"), (4, "expected")])
def test_translations_are_the_best_of_some_lengths(passes: int, lengths: str) -> None:
    model, batch = network(seed=3, passes=passes, length_beam=3, lengths=lengths).eval(), pair_batch()
    found = model.translate(batch.source, batch.source_lengths)
    for row, length in enumerate(batch.source_lengths.tolist()):
        source = batch.source[row : row + 1, :length]
        encoded = model.body.encode(source, visible(torch.tensor([length]), length))
        told = model.length(encoded.mean(dim=1))[0, 1:].softmax(dim=0).tolist()
        mean = sum(share * words for words, share in enumerate(told, start=1))
        away = [-share if lengths == "likeliest" else abs(words - mean) for words, share in enumerate(told, start=1)]
        tried = [plainly(model, source, 1 + place) for place in sorted(range(len(told)), key=away.__getitem__)[:3]]
        tokens, score = max(tried, key=lambda each: each[1])
        assert found.tokens[row, : found.lengths[row]].tolist() == tokens
        assert float(found.scores[row]) == pytest.approx(score, rel=1e-12)
    assert (found.tokens == PAD).equal(~within(found.lengths, found.tokens.shape[1]))
    assert not torch.isin(found.tokens, torch.tensor([BOS, EOS, UNKNOWN, MASK])).any()


def test_what_follows_itself_is_written_once() -> None:
    """And only that: a word may come again later. The score is that of what was predicted."""
    model, batch = network(seed=6, passes=2, length_beam=2).eval(), pair_batch()
    merging = MaskedNetwork(model.body, dataclasses.replace(model.settings, merge_repeats=True)).double().eval()
    merging.load_state_dict(model.state_dict())
    merged, whole = (each.translate(batch.source, batch.source_lengths) for each in (merging, model))
    shorter = again = 0
    for row, length in enumerate(whole.lengths.tolist()):
        expected = [word for word, _ in itertools.groupby(whole.tokens[row, :length].tolist())]
        assert merged.tokens[row, : merged.lengths[row]].tolist() == expected
        shorter, again = shorter + (len(expected) < length), again + (len(set(expected)) < len(expected))
    assert shorter
    assert again
    assert merged.scores.equal(whole.scores)
    assert (merged.tokens == PAD).equal(~within(merged.lengths, merged.tokens.shape[1]))


def test_one_pass_is_greedy() -> None:
    model, batch = network(seed=4, passes=1, length_beam=1).eval(), pair_batch()
    found = model.translate(batch.source, batch.source_lengths)
    told = dataclasses.replace(batch, target=masked_canvas(found.lengths, 20), target_lengths=found.lengths + 1)
    forced = model.forced(told)[:, : found.tokens.shape[1], MASK + 1 :]
    greedy = (MASK + 1 + forced.argmax(dim=-1)).masked_fill(~within(found.lengths, forced.shape[1]), PAD)
    assert found.tokens.equal(greedy)


def test_a_translation_does_not_depend_on_the_others() -> None:
    model, batch = network(seed=5).eval(), pair_batch()
    together = model.translate(batch.source, batch.source_lengths)
    assert len(set(together.lengths.tolist())) > 1
    for row, length in enumerate(batch.source_lengths.tolist()):
        alone = model.translate(batch.source[row : row + 1, :length], batch.source_lengths[row : row + 1])
        assert together.tokens[row, : together.lengths[row]].tolist() == alone.tokens[0].tolist()
        assert float(together.scores[row]) == pytest.approx(float(alone.scores[0]), rel=1e-12)


def test_passes_are_calls_and_hide_fewer_each_time() -> None:
    words, seen = torch.tensor([10, 3, 1]), []

    def predict(canvas: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        assert (canvas == MASK).equal(masked)
        seen.append(masked.sum(dim=1).tolist())
        count = int(masked.sum())
        return torch.full((count,), 9), -torch.rand(count)

    mask_predict(predict, words, 10)
    assert seen == [[10, 3, 1]] + [[10 * (10 - done) // 10, 3 * (10 - done) // 10, 0] for done in range(1, 10)]


def test_forced_probabilities_see_nothing_of_the_target() -> None:
    model, batch = network(dropout=0.4).eval(), pair_batch()
    told = model.forced(batch)
    assert told.shape == (*batch.target.shape, VOCABULARY)
    torch.testing.assert_close(told.exp().sum(dim=-1), torch.ones(batch.target.shape).double())
    others = dataclasses.replace(batch, target=batch.target.masked_fill(batch.target > MASK, MASK + 1))
    assert told.equal(model.forced(others))


def test_what_cannot_be_is_refused() -> None:
    for fields, text in (
        ({"passes": 0}, r"--model\.passes is 0"),
        ({"longest": 5}, r"--model\.longest is 5; expected more than --model\.length-beam, 5"),
        ({"length_weight": -0.1}, r"--model\.length-weight is -0\.1"),
        ({"deviation": -0.1}, r"--model\.deviation is -0\.1; expected a number above 0"),
        ({"dropout": 1.0}, r"--model\.dropout is 1\.0"),
    ):
        with pytest.raises(InputError, match=text):
            CMLM(**fields)

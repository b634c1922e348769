"""The Transformer: its attention against torch's, its loss against cross_entropy, its search against plain ones."""

import itertools
from typing import Any

import pytest
import torch
from pair_batches import FIRST_WORD, pair_batch, sentences, share
from torch import Tensor, nn

from framework.errors import InputError
from framework.models.translation.attention import MultiHeadAttention
from framework.models.translation.layers import EncoderDecoder, TokenEmbedding, visible
from framework.models.translation.transformer import Transformer, TransformerNetwork
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN

TINY: dict[str, Any] = {"width": 16, "heads": 4, "inner": 24, "encoder_layers": 2, "decoder_layers": 2}


def network(vocabulary: int = 23, seed: int = 0, **fields: Any) -> TransformerNetwork:
    torch.manual_seed(seed)
    built = Transformer(**{**TINY, **fields}).build(vocabulary).double()
    assert isinstance(built, TransformerNetwork)
    return built


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torchs(causal: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(16, 4).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.keys_and_values.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias.normal_(), ours.keys_and_values.bias.normal_()]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x, lengths = torch.randn(3, 5, 16, dtype=torch.float64), torch.tensor([5, 2, 3])
    allowed = None if causal else visible(lengths, 5)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64) if causal else None
    padding = None if allowed is None else ~allowed[:, 0, 0]
    expected, _ = theirs(x, x, x, key_padding_mask=padding, attn_mask=mask, need_weights=False)
    found = ours(x, ours.remember(x, allowed), causal=causal)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_layers_are_torchs(norm: str) -> None:
    ours = network(norm=norm).eval().body
    batch = pair_batch()
    memory_mask = ~visible(batch.source_lengths, batch.source.shape[1])[:, 0, 0]
    settings = {"d_model": 16, "nhead": 4, "dim_feedforward": 24, "batch_first": True, "norm_first": norm == "pre"}
    x, y = ours.embedding(batch.source), ours.embedding(batch.target)
    for layer in ours.encoder:
        theirs = nn.TransformerEncoderLayer(**settings, dropout=0.0).double()
        _copied(theirs, layer, ("norm1", "norm2"))
        x = theirs(x, src_key_padding_mask=memory_mask)
    x = ours.encoder_norm(x)
    causal = nn.Transformer.generate_square_subsequent_mask(y.shape[1], dtype=torch.float64)
    for layer in ours.decoder:
        theirs = nn.TransformerDecoderLayer(**settings, dropout=0.0).double()
        _copied(theirs, layer, ("norm1", "norm2", "norm3"))
        y = theirs(y, x, tgt_mask=causal, memory_key_padding_mask=memory_mask)
    allowed = visible(batch.source_lengths, batch.source.shape[1])
    encoded = ours.encode(batch.source, allowed)
    found = ours.decode(batch.target, ours.remember(encoded, allowed))
    torch.testing.assert_close(found, ours.decoder_norm(y), rtol=0, atol=1e-12)


def _copied(theirs: Any, ours: Any, norms: tuple[str, ...]) -> None:
    """Gives torch's layer the weights of ours."""
    with torch.no_grad():
        pairs = [(theirs.self_attn, ours.attention)]
        if hasattr(theirs, "multihead_attn"):
            pairs.append((theirs.multihead_attn, ours.source_attention))
        for to, of in pairs:
            to.in_proj_weight.copy_(torch.cat([of.query.weight, of.keys_and_values.weight]))
            to.in_proj_bias.copy_(torch.cat([of.query.bias, of.keys_and_values.bias]))
            to.out_proj.load_state_dict(of.output.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward.first.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.second.state_dict())
        for name, residual in zip(norms, ours.residuals, strict=True):
            getattr(theirs, name).load_state_dict(residual.norm.state_dict())


def test_positions_are_the_papers() -> None:
    embedding = TokenEmbedding(9, 6, positions="sinusoidal", longest=1).double()
    nn.init.zeros_(embedding.weight)
    rows = embedding(torch.zeros(1, 4, dtype=torch.int64), first=2)[0]
    for row, place in enumerate(range(2, 6)):
        for pair in range(3):
            angle = torch.tensor(place / 10_000 ** (2 * pair / 6), dtype=torch.float64)
            torch.testing.assert_close(rows[row, pair], angle.sin(), rtol=0, atol=1e-12)
            torch.testing.assert_close(rows[row, 3 + pair], angle.cos(), rtol=0, atol=1e-12)
    learned = TokenEmbedding(9, 6, positions="learned", longest=3)
    with pytest.raises(InputError, match=r"a sentence has 4 tokens; --model\.longest is 3"):
        learned(torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_smoothed_mean(smoothing: float) -> None:
    model, batch = network(label_smoothing=smoothing, dropout=0.0), pair_batch()
    scores, gold = model.forced(batch)
    real = batch.target[batch.target != PAD]
    assert gold.equal(real)
    expected = nn.functional.cross_entropy(scores, real, label_smoothing=smoothing)
    torch.testing.assert_close(model(batch), expected, rtol=1e-12, atol=0)
    plain = nn.functional.cross_entropy(scores, real)
    torch.testing.assert_close(model.eval()(batch), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_shares_add_up_with_dropout_on(norm: str) -> None:
    model, batch = network(norm=norm, dropout=0.4), pair_batch()

    def gradients(shares: list[PairBatch]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        loss = torch.stack([model(part) for part in shares]).sum()
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    whole = gradients([batch])
    shared = gradients([share(batch, rows) for rows in (torch.tensor([4, 0]), torch.tensor([1, 2, 3, 6, 5]))])
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-13)
    assert len(whole[1]) == len(list(model.parameters()))
    kept = network(norm=norm, dropout=0.0)
    kept.load_state_dict(model.state_dict())
    assert not torch.isclose(whole[0], kept(batch).detach(), rtol=1e-3)  # dropout was on


def scored(model: TransformerNetwork, source: Tensor, written: tuple[int, ...]) -> float:
    """The log-probability of a translation of one source sentence, int64 [S], EOS included: one pass over all of it."""
    target = torch.tensor([[*written, EOS]])
    lengths = torch.tensor([target.shape[1]])
    batch = PairBatch(
        samples=torch.zeros(1, dtype=torch.int64),
        source=source[None],
        source_lengths=torch.tensor([len(source)]),
        target=target,
        target_lengths=lengths,
        key=pair_batch().key,
        everyone=torch.tensor([[0, len(source), target.shape[1]]]),
    )
    with torch.no_grad():
        scores, gold = model.forced(batch)
    return float(scores.log_softmax(1).gather(1, gold[:, None]).sum())


SOURCES = sentences(torch.tensor([5, 1, 8, 3]), 23, 5)
LENGTHS = torch.tensor([5, 1, 8, 3])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
def test_a_beam_that_is_wide_enough_is_exhaustive(penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    words, longest = 3, 3
    vocabulary = FIRST_WORD + words
    model = network(vocabulary, seed=4, beam=200, length_penalty=penalty).eval()
    source = sentences(torch.tensor([4, 6]), vocabulary, 1)
    every = [
        text
        for length in range(longest + 1)
        for text in itertools.product(range(FIRST_WORD, vocabulary), repeat=length)
    ]
    limits = torch.full((2,), longest)
    translations = limited(model, source, torch.tensor([4, 6]), limits, monkeypatch)
    for row, length in enumerate((4, 6)):
        values = {text: scored(model, source[row, :length], text) for text in every}
        best = max(values, key=lambda text: values[text] / (len(text) + 1) ** penalty)
        assert tuple(translations.tokens[row, : translations.lengths[row]].tolist()) == best
        assert float(translations.scores[row]) == pytest.approx(values[best] / (len(best) + 1), rel=1e-9)


def limited(model: Any, source: Tensor, lengths: Tensor, limits: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a model translates in no more than so many tokens."""
    from framework.models.translation import transformer

    search = transformer.beam_search
    monkeypatch.setattr(transformer, "beam_search", lambda writing, _, **settings: search(writing, limits, **settings))
    return model.translate(source, lengths)


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model = network(seed=seed, beam=1).eval()
    translations = model.translate(SOURCES, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        written: list[int] = []
        while len(written) < 2 * length + 10:
            token = likeliest(model, SOURCES[row, :length], written)
            if token == EOS:
                break
            written.append(token)
        assert translations.tokens[row, : translations.lengths[row]].tolist() == written
        expected = scored(model, SOURCES[row, :length], tuple(written)) / (len(written) + 1)
        assert float(translations.scores[row]) == pytest.approx(expected, rel=1e-9)


def likeliest(model: TransformerNetwork, source: Tensor, written: list[int]) -> int:
    """The word, or EOS, that a model holds likeliest behind the words written."""
    allowed = visible(torch.tensor([len(source)]), len(source))
    body: EncoderDecoder = model.body
    with torch.no_grad():
        sources = body.remember(body.encode(source[None], allowed), allowed)
        scores = body.embedding.scores(body.decode(torch.tensor([[BOS, *written]]), sources)[0, -1])
    scores[[BOS, PAD, UNKNOWN, MASK]] = -torch.inf
    return int(scores.argmax())


@pytest.mark.parametrize("beam", [1, 4])
def test_a_translation_does_not_depend_on_the_others(beam: int) -> None:
    model = network(seed=2, beam=beam).eval()
    together = model.translate(SOURCES, LENGTHS)
    assert together.lengths.unique().numel() > 1
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model.translate(SOURCES[row : row + 1, :length], LENGTHS[row : row + 1])
        assert together.tokens[row, : together.lengths[row]].tolist() == alone.tokens[0].tolist()
        assert float(together.scores[row]) == pytest.approx(float(alone.scores[0]), rel=1e-12)
    assert not torch.isin(together.tokens, torch.tensor([BOS, EOS, UNKNOWN, MASK])).any()


def test_what_cannot_be_is_refused() -> None:
    for fields, text in (
        ({"width": 10, "heads": 4}, r"--model\.width is 10; expected a multiple of --model\.heads, 4"),
        ({"beam": 0}, r"--model\.beam is 0"),
        ({"label_smoothing": 1.0}, r"--model\.label-smoothing is 1\.0"),
        ({"length_penalty": -1.0}, r"--model\.length-penalty is -1\.0"),
        ({"length_penalty": float("nan")}, r"--model\.length-penalty is nan; expected at least 0, and at most 10"),
        ({"length_penalty": 1000.0}, r"--model\.length-penalty is 1000\.0"),
    ):
        with pytest.raises(InputError, match=text):
            Transformer(**fields).build(9)

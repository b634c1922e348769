"""The parts of Transformers (Vaswani et al., NeurIPS 2017): embedding, encoder and decoder, dropout by key.

Assumption: a row's draws go by the number of its pair and its place in the sentence, so that neither padding nor the
other sentences of a batch show in them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.kernels.dropout import dropout, relu_dropout
from framework.models.translation.attention import Asked, Memory, MultiHeadAttention
from framework.random import Key

Norm = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned"]

SOURCE, TARGET = 0, 1  # which side's draws a step's key is folded by
_INPUT, _SELF, _CROSS, _INNER, _OUTER = range(5)  # which of a side's or a layer's draws
_PLACES = 1 << 20  # more than any sentence has


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KeyedDropout:
    """Dropout of the rows of n sentences of L positions."""

    share: float
    """Of the elements that are dropped."""
    key: Key | None = None
    """What the draws are keyed by. None: nothing is dropped."""
    rows: Tensor | None = None
    """A number for every sentence and place: int64 [n * L]. None where nothing is dropped."""

    @classmethod
    def of(cls, module: nn.Module, share: float, key: Key, samples: Tensor, length: int) -> "KeyedDropout":
        """Of the pairs `samples` (int64 [n]) at `length` places each, while `module` is in training."""
        if not module.training or share == 0:
            return cls(share=0.0)
        return cls(share=share, key=key, rows=place_ids(samples, length).flatten())

    def under(self, *words: int) -> "KeyedDropout":
        """Of the same rows, for the purpose `words`."""
        return self if self.key is None else dataclasses.replace(self, key=self.key.fold(*words))

    def of_asked(self, asked: Asked) -> "KeyedDropout":
        """Of some of the rows."""
        return self if self.rows is None else dataclasses.replace(self, rows=self.rows[asked.places])

    def __call__(self, x: Tensor) -> Tensor:
        """`x`, [n, L, width] or [rows, width], with elements dropped; of bfloat16, as float32."""
        if self.key is None or self.rows is None:
            return x
        return dropout(_rows(x), self.share, self.key, self.rows).view_as(x)

    def after_relu(self, x: Tensor) -> Tensor:
        """ReLU of `x`, likewise, with elements dropped, in one pass."""
        if self.key is None or self.rows is None:
            return torch.relu(x)
        return relu_dropout(_rows(x), self.share, self.key, self.rows).view_as(x)


def _rows(x: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    return rows.float() if rows.dtype == torch.bfloat16 else rows


KEPT = KeyedDropout(share=0.0)
"""Drops nothing: evaluation."""


def place_ids(samples: Tensor, length: int) -> Tensor:
    """A number for every place in the sentences of pairs, which draws go by: int64 [n] -> int64 [n, length]."""
    return samples[:, None] * _PLACES + torch.arange(length, device=samples.device)


def within(lengths: Tensor, longest: int) -> Tensor:
    """Which of `longest` places belong to sentences of `lengths` (int64 [n]) tokens: bool [n, longest]."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def visible(lengths: Tensor, longest: int) -> Tensor:
    """The same as a Memory's `allowed`: bool [n, 1, 1, longest]."""
    return within(lengths, longest)[:, None, None]


class TokenEmbedding(nn.Module):
    """Tokens as rows, and rows as scores of tokens by the same weights (Press and Wolf, EACL 2017); with positions."""

    def __init__(self, vocabulary: int, width: int, *, positions: Positions, longest: int) -> None:
        """`longest`: the number of positions, where they are learned."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        nn.init.normal_(self.weight, std=width**-0.5)
        self.places = nn.Parameter(torch.empty(longest, width)) if positions == "learned" else None
        if self.places is not None:
            nn.init.normal_(self.places, std=width**-0.5)

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """int64 [n, L] -> [n, L, width]; `first`: the place of the first column in its sentence.

        Raises InputError for a sentence with more places than were learned."""
        width, end = self.weight.shape[1], first + tokens.shape[1]
        if self.places is None:
            places = sinusoids(first, end, self.weight)
        elif end <= len(self.places):
            places = self.places[first:end]
        else:
            raise InputError(
                f"a sentence has {end} tokens; --model.longest is {len(self.places)}. Raise it, or take sinusoidal "
                "--model.positions."
            )
        return nn.functional.embedding(tokens, self.weight) * math.sqrt(width) + places

    def scores(self, x: Tensor) -> Tensor:
        """[..., width] -> scores of all tokens, before the softmax: [..., vocabulary], in the type of `x`."""
        return nn.functional.linear(x, self.weight).to(x.dtype)


def sinusoids(first: int, end: int, like: Tensor) -> Tensor:
    """Positions first to end - 1 as rows [end - first, w]: sines and cosines of place / 10000^(2i / w).

    `like` [any, w] says how wide. Vaswani et al., 2017, with the sines of all frequencies before the cosines."""
    width = like.shape[1]
    place = torch.arange(first, end, dtype=torch.float64, device=like.device)
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64, device=like.device) * -math.log(1e4) / width)
    angles = place[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like.dtype)


class FeedForward(nn.Module):
    """Two linear maps, ReLU and dropout between them, each row by itself."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        for linear in (self.first, self.second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, drop: KeyedDropout) -> Tensor:
        """[..., width] -> the same shape."""
        out: Tensor = self.second(drop.after_relu(self.first(x)))
        return out


class Residual(nn.Module):
    """x + f(x): normalised before f (Xiong et al., ICML 2020), or after the sum."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.norm, self.before = nn.LayerNorm(width), norm == "pre"

    def forward(
        self, x: Tensor, function: Callable[[Tensor], Tensor], drop: KeyedDropout, asked: Asked | None = None
    ) -> Tensor:
        """[..., width] -> the same shape; what `function` gives is dropped out before it is added. Where some places
        are `asked`, it gives their rows alone: [n, L, width] -> [k, width]."""
        given = function(self.norm(x) if self.before else x)
        out = (x if asked is None else asked.take(x)) + drop(given)
        return out if self.before else self.norm(out)


class EncoderLayer(nn.Module):
    """Every position looks at all of its sentence, then is fed forward."""

    def __init__(self, width: int, heads: int, inner: int, norm: Norm) -> None:
        super().__init__()
        self.attention, self.feed_forward = MultiHeadAttention(width, heads), FeedForward(width, inner)
        self.residuals = nn.ModuleList(Residual(width, norm) for _ in range(2))

    def forward(self, x: Tensor, allowed: Tensor, drop: KeyedDropout) -> Tensor:
        """[n, L, width] -> the same shape; `allowed` bool [n, 1, 1, L]."""

        def attend(rows: Tensor) -> Tensor:
            attended: Tensor = self.attention(rows, self.attention.remember(rows, allowed))
            return attended

        x = self.residuals[0](x, attend, drop.under(_SELF))
        out: Tensor = self.residuals[1](x, lambda rows: self.feed_forward(rows, drop.under(_INNER)), drop.under(_OUTER))
        return out


class DecoderLayer(nn.Module):
    """Every position looks at its sentence, then at the source, then is fed forward."""

    def __init__(self, width: int, heads: int, inner: int, norm: Norm) -> None:
        super().__init__()
        self.attention, self.source_attention = MultiHeadAttention(width, heads), MultiHeadAttention(width, heads)
        self.feed_forward = FeedForward(width, inner)
        self.residuals = nn.ModuleList(Residual(width, norm) for _ in range(3))

    def forward(
        self, x: Tensor, source: Memory, allowed: Tensor | None, drop: KeyedDropout, asked: Asked | None = None
    ) -> Tensor:
        """Whole sentences [n, L, width] -> the same shape, or the rows of the places that are `asked`, [k, width].

        `allowed` bool [n, 1, 1, L]: where every position looks; None: every position looks back alone."""

        def attend(rows: Tensor) -> Tensor:
            memory = self.attention.remember(rows, allowed)
            wanted = rows if asked is None else asked.take(rows)
            attended: Tensor = self.attention(wanted, memory, causal=allowed is None, asked=asked)
            return attended

        def look(rows: Tensor) -> Tensor:
            looked: Tensor = self.source_attention(rows, source, asked=asked)
            return looked

        drop = drop if asked is None else drop.of_asked(asked)
        x = self.residuals[0](x, attend, drop.under(_SELF), asked)
        x = self.residuals[1](x, look, drop.under(_CROSS))
        out: Tensor = self.residuals[2](x, lambda rows: self.feed_forward(rows, drop.under(_INNER)), drop.under(_OUTER))
        return out

    def step(self, x: Tensor, source: Memory, before: Memory | None) -> tuple[Tensor, Memory]:
        """One more position of m hypotheses, m / n a source sentence: [m, 1, width] -> the same, and the positions
        so far. `before` those of earlier steps. The hypotheses of a source share its memory."""
        held: list[Memory] = []

        def attend(rows: Tensor) -> Tensor:
            own = self.attention.remember(rows)
            held.append(own if before is None else before.followed_by(own))
            attended: Tensor = self.attention(rows, held[0])
            return attended

        def look(rows: Tensor) -> Tensor:
            looked: Tensor = self.source_attention(rows.view(len(source.keys), -1, rows.shape[-1]), source)
            return looked.view_as(rows)

        x = self.residuals[0](x, attend, KEPT)
        x = self.residuals[1](x, look, KEPT)
        x = self.residuals[2](x, lambda rows: self.feed_forward(rows, KEPT), KEPT)
        return x, held[0]


class Size(Protocol):
    """How large an encoder and a decoder are: fields of every translator that is made of them."""

    @property
    def width(self) -> int:
        """Columns of a row: of embeddings and between layers."""

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""

    @property
    def inner(self) -> int:
        """Columns between the two maps of a feed-forward layer."""

    @property
    def encoder_layers(self) -> int:
        """Layers over the source."""

    @property
    def decoder_layers(self) -> int:
        """Layers over the target."""

    @property
    def dropout(self) -> float:
        """Of embeddings, of what every part of a layer adds, and behind the ReLU."""

    @property
    def norm(self) -> Norm:
        """Whether rows are normalised before every part of a layer, or after it."""

    @property
    def positions(self) -> Positions:
        """How a place in a sentence is told."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sentence, where positions are learned."""


class EncoderDecoder(nn.Module):
    """An encoder and a decoder over one embedding of the tokens of both sides: what translators are made of."""

    def __init__(self, vocabulary: int, size: Size) -> None:
        super().__init__()
        width, norm = size.width, size.norm
        self.dropout = size.dropout
        self.embedding = TokenEmbedding(vocabulary, width, positions=size.positions, longest=size.longest)
        self.encoder, self.decoder = (
            nn.ModuleList(layer(width, size.heads, size.inner, norm) for _ in range(layers))
            for layer, layers in ((EncoderLayer, size.encoder_layers), (DecoderLayer, size.decoder_layers))
        )
        last = nn.LayerNorm if norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = last(width), last(width)

    def drops(self, key: Key, side: int, samples: Tensor, length: int) -> KeyedDropout:
        """The dropout of a side, SOURCE or TARGET, of pairs `samples` int64 [n] with `length` places each."""
        return KeyedDropout.of(self, self.dropout, key.fold(side), samples, length)

    def encode(self, source: Tensor, allowed: Tensor, drop: KeyedDropout = KEPT) -> Tensor:
        """Source tokens int64 [n, S] -> [n, S, width]; `allowed` as `visible` gives it."""
        x = drop.under(_INPUT)(self.embedding(source))
        for depth, layer in enumerate(self.encoder):
            x = layer(x, allowed, drop.under(1 + depth))
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def remember(self, encoded: Tensor, allowed: Tensor) -> list[Memory]:
        """What every decoder layer looks at, of encoded source sentences [n, S, width]; made once for all passes."""
        return [layer.source_attention.remember(encoded, allowed) for layer in self.decoder]  # type: ignore[operator, union-attr]

    def decode(
        self,
        target: Tensor,
        sources: Sequence[Memory],
        allowed: Tensor | None = None,
        drop: KeyedDropout = KEPT,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Target tokens int64 [n, T] -> [n, T, width], to be given to `embedding.scores`; of the places that are
        `wanted` (bool [n, T]) alone, where given: [k, width]. The last layer has no need of the others' rows.

        `allowed`, as `visible` gives it: every position looks at all of those. None: it looks back alone, and all are
        wanted."""
        x, last = drop.under(_INPUT)(self.embedding(target)), len(self.decoder) - 1
        for depth, (layer, source) in enumerate(zip(self.decoder, sources, strict=True)):
            asked = Asked.of(wanted) if wanted is not None and depth == last else None
            x = layer(x, source, allowed, drop.under(1 + depth), asked)
        decoded: Tensor = self.decoder_norm(x)
        return decoded

    def step(
        self, tokens: Tensor, place: int, sources: Sequence[Memory], before: Sequence[Memory] | None
    ) -> tuple[Tensor, list[Memory]]:
        """The next token of m hypotheses, int64 [m], at `place` -> [m, width], and what every layer holds by then.

        Hypotheses of a source sentence stand side by side, as many for each; `before`: what the layers held."""
        x, held = self.embedding(tokens[:, None], place), []
        for depth, (layer, source) in enumerate(zip(self.decoder, sources, strict=True)):
            x, memory = layer.step(x, source, None if before is None else before[depth])  # type: ignore[operator]
            held.append(memory)
        decoded: Tensor = self.decoder_norm(x)
        return decoded[:, 0], held

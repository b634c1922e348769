"""Multi-head attention (Vaswani et al., NeurIPS 2017): queries look at the keys and values of a memory.

A memory is a value: it is made once of sentences that are looked at often (the source of an iterative decoder), and
grows by a position at a time where sentences are being written. Attention weights are not dropped out: their draws
would go by pairs of positions and cost more than the attention itself; everything around them is.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from framework.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """The positions that queries look at: n sentences, L positions."""

    keys: Tensor
    """[n, heads, L, width / heads]."""
    values: Tensor
    """[n, heads, L, width / heads]."""
    allowed: Tensor | None = None
    """Which positions may be looked at, at least one a sentence: bool [n, 1, 1, L]. None: all."""

    def take(self, rows: Tensor) -> "Memory":
        """The sentences `rows` (int64 [m]), each as often as it is named."""
        return Memory(
            keys=self.keys.index_select(0, rows),
            values=self.values.index_select(0, rows),
            allowed=None if self.allowed is None else self.allowed.index_select(0, rows),
        )

    def followed_by(self, more: "Memory") -> "Memory":
        """These positions and those of `more`, behind them; all may be looked at."""
        assert self.allowed is None
        assert more.allowed is None
        return Memory(
            keys=torch.cat([self.keys, more.keys], dim=2), values=torch.cat([self.values, more.values], dim=2)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Some places of n sentences, k in all: those whose rows are wanted, where no others are computed."""

    places: Tensor
    """Of all places, sentence by sentence: int64 [k], ascending."""
    spots: Tensor
    """Where each is if the sentences have the same number of places, the most that one has: int64 [k]."""
    shape: tuple[int, int]
    """Sentences, and the most places of one."""

    @classmethod
    def of(cls, wanted: Tensor) -> "Asked":
        """The places that are `wanted`: bool [n, L]."""
        sentences, counts = len(wanted), wanted.sum(dim=1)
        most = int(counts.max()) if sentences else 0
        spots = torch.arange(most, device=wanted.device) < counts[:, None]
        flat = (mask.flatten().nonzero().squeeze(1) for mask in (wanted, spots))
        return cls(places=next(flat), spots=next(flat), shape=(sentences, most))

    def take(self, x: Tensor) -> Tensor:
        """[n, L, width] -> the rows of these places, [k, width]."""
        return x.flatten(0, 1).index_select(0, self.places)

    def apart(self, rows: Tensor) -> Tensor:
        """[k, width] -> sentence by sentence, zeros behind: [n, most, width]."""
        sentences, most = self.shape
        held = rows.new_zeros(sentences * most, rows.shape[1]).index_copy(0, self.spots, rows)
        return held.view(sentences, most, rows.shape[1])

    def together(self, x: Tensor) -> Tensor:
        """[n, most, width] -> [k, width]: undoes `apart`."""
        return x.flatten(0, 1).index_select(0, self.spots)


class MultiHeadAttention(nn.Module):
    """Attention of `heads` heads, each over its own projection of queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        """Raises InputError where `width` is no multiple of `heads`."""
        super().__init__()
        if width % heads:
            raise InputError(f"--model.width is {width}; expected a multiple of --model.heads, {heads}.")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_and_values = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        with torch.no_grad():
            for weight in (self.query.weight, *self.keys_and_values.weight.chunk(2), self.output.weight):
                nn.init.xavier_uniform_(weight)
        for linear in (self.query, self.keys_and_values, self.output):
            nn.init.zeros_(linear.bias)

    def remember(self, x: Tensor, allowed: Tensor | None = None) -> Memory:
        """The memory of rows [n, L, width]; `allowed` as there."""
        keys, values = self.keys_and_values(x).chunk(2, dim=-1)
        return Memory(keys=self._by_head(keys), values=self._by_head(values), allowed=allowed)

    def forward(self, x: Tensor, memory: Memory, *, causal: bool = False, asked: Asked | None = None) -> Tensor:
        """[n, Q, width] -> [n, Q, width]; where some places are `asked`, their rows alone: [k, width] -> [k, width].

        `causal`: query q looks at the first q + 1 positions alone."""
        queries = self.query(x) if asked is None else asked.apart(self.query(x))
        looked = _attended(self._by_head(queries), memory, causal).transpose(1, 2).flatten(2)
        projected: Tensor = self.output(looked if asked is None else asked.together(looked))
        return projected

    def _by_head(self, x: Tensor) -> Tensor:
        """[n, L, width] -> [n, heads, L, width / heads]."""
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


def _attended(queries: Tensor, memory: Memory, causal: bool) -> Tensor:
    """What queries [n, heads, Q, columns] find in a memory: the same shape."""
    keys, values = memory.keys, memory.values
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        # On CPUs torch's kernel takes three times as long in bfloat16 for sentences of a few dozen words.
        queries, keys, values = queries.float(), keys.float(), values.float()
        with torch.autocast("cpu", enabled=False):
            return scaled_dot_product_attention(queries, keys, values, attn_mask=memory.allowed, is_causal=causal)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=memory.allowed, is_causal=causal)

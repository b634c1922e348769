"""Which words of a sentence are hidden from a student, to be predicted: drawn in training, the least sure in decoding.

In training as many as a uniform draw says, each as likely as the others, drawn by the pair's number in the data set: so
every worker knows how many words of the global batch are hidden, of pairs that it does not hold as well, and padding
does not show. A sentence's words are its tokens without EOS.
"""

import torch
from torch import Tensor

from framework.models.translation.layers import place_ids, within
from framework.random import Key, bits, uniform
from framework.samples.pair_batch import PairBatch

_COUNT, _PLACES = 0, 1  # which of the draws a key is folded by


def hidden_words(key: Key, batch: PairBatch, *, fewest: int) -> Tensor:
    """Which words of a batch's targets are hidden, `fewest` (0 or 1) to all of each: bool [n, T]."""
    samples, words, columns = batch.samples, batch.target_lengths - 1, batch.target.shape[1]
    draws = bits(key.fold(_PLACES), place_ids(samples, columns))
    return lowest(draws, within(words, columns), _hidden_counts(key, samples, words, fewest))


def hidden_of_everyone(key: Key, batch: PairBatch, *, fewest: int) -> Tensor:
    """How many words `hidden_words` hides in the whole global batch: int64, a scalar."""
    samples, _, target_lengths = batch.everyone.unbind(1)
    return _hidden_counts(key, samples, target_lengths - 1, fewest).sum()


def _hidden_counts(key: Key, samples: Tensor, words: Tensor, fewest: int) -> Tensor:
    """How many words of each target are hidden: uniform in `fewest` .. `words`, 0 where there are none. int64 [n]."""
    drawn = fewest + (uniform(key.fold(_COUNT), samples) * (words + 1 - fewest)).long()
    return torch.minimum(drawn, words)


def lowest(values: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """The places of the `counts` lowest values of each row, of those that are `among`; of equal ones the first.

    `values` [n, T], `among` bool [n, T], `counts` int64 [n], of no row more than it has places -> bool [n, T]."""
    highest = torch.inf if values.dtype.is_floating_point else torch.iinfo(values.dtype).max
    order = values.masked_fill(~among, highest).argsort(dim=1, stable=True)
    chosen = within(counts, values.shape[1])
    return torch.zeros_like(chosen).scatter_(1, order, chosen)

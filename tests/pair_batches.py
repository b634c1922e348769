"""Batches of random pairs of sentences, and shares of them as several workers would have them."""

import dataclasses

import torch
from torch import Tensor

from framework.kernels.sparse_rows import SparseRows
from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import EOS, MASK, PAD

FIRST_WORD = MASK + 1


def sentences(lengths: Tensor, vocabulary: int, seed: int) -> Tensor:
    """Random words with EOS at the place that `lengths` (int64 [n]) says, and PAD behind: int64 [n, longest]."""
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD, vocabulary, (len(lengths), int(lengths.max())), generator=draws)
    place = torch.arange(tokens.shape[1])
    tokens[place == lengths[:, None] - 1] = EOS
    return tokens.masked_fill(place >= lengths[:, None], PAD)


def pair_batch(pairs: int = 7, vocabulary: int = 23, *, seed: int = 0) -> PairBatch:
    """A whole global batch."""
    draws = torch.Generator().manual_seed(seed)
    source_lengths, target_lengths = torch.randint(1, 9, (2, pairs), generator=draws)
    samples = torch.randperm(1000, generator=draws)[:pairs]
    return PairBatch(
        samples=samples,
        source=sentences(source_lengths, vocabulary, seed + 1),
        source_lengths=source_lengths,
        target=sentences(target_lengths, vocabulary, seed + 2),
        target_lengths=target_lengths,
        key=Key.root(seed).fold(9),
        everyone=torch.stack([samples, source_lengths, target_lengths], dim=1),
    )


def share(batch: PairBatch, rows: Tensor) -> PairBatch:
    """The pairs `rows` (int64 [m]) of a global batch, padded no further than they need."""
    source, target = int(batch.source_lengths[rows].max()), int(batch.target_lengths[rows].max())
    places = torch.arange(batch.target.numel()).view_as(batch.target)[rows, :target].flatten()
    return PairBatch(
        samples=batch.samples[rows],
        source=batch.source[rows, :source],
        source_lengths=batch.source_lengths[rows],
        target=batch.target[rows, :target],
        target_lengths=batch.target_lengths[rows],
        key=batch.key,
        everyone=batch.everyone,
        prior=None if batch.prior is None else batch.prior.take(places),
        prior_weight=batch.prior_weight,
    )


def with_prior(batch: PairBatch, vocabulary: int = 23, *, weight: float = 0.6) -> PairBatch:
    """The batch with two or three tokens known of some of its target places, and nothing of the others."""
    draws = torch.Generator().manual_seed(1)
    dense = torch.rand(batch.target.numel(), vocabulary, generator=draws, dtype=torch.float64)
    kept = dense >= dense.topk(3, dim=1).values[:, 2:]
    kept[::3] = False
    dense = torch.where(kept, dense, 0)
    weights = dense / dense.sum(dim=1, keepdim=True).clamp(min=1e-9)
    rows, tokens = kept.nonzero().unbind(1)
    indptr = torch.nn.functional.pad(kept.sum(dim=1).cumsum(0), (1, 0))
    prior = SparseRows(indptr=indptr, tokens=tokens.int(), weights=weights[rows, tokens])
    return dataclasses.replace(batch, prior=prior, prior_weight=weight)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows as one tensor, PAD behind, and their lengths: int64 [n, longest] and int64 [n]."""
    columns = max(map(len, rows))
    full = [row + [PAD] * (columns - len(row)) for row in rows]
    return torch.tensor(full, dtype=torch.int64), torch.tensor([len(row) for row in rows])

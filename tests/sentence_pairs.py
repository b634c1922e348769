"""Pairs of sentences made by hand, as batches and as shares of them."""

import dataclasses
import random

import torch
from torch import Tensor, nn

from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import EOS, MASK, PAD

Pair = tuple[list[int], list[int]]
FIRST_WORD = MASK + 1


def reversed_pairs(count: int, *, kinds: int, longest: int, seed: int = 0) -> list[Pair]:
    """Pairs whose target is the source backwards, each word shifted by one of `kinds`."""
    draw = random.Random(seed)
    sources = [[draw.randrange(kinds) for _ in range(draw.randrange(1, longest + 1))] for _ in range(count)]
    return [
        ([FIRST_WORD + word for word in source], [FIRST_WORD + (word + 1) % kinds for word in reversed(source)])
        for source in sources
    ]


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows as one tensor, PAD behind, and their lengths."""
    columns = max(map(len, rows), default=0)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    full = [row + [PAD] * (columns - len(row)) for row in rows]
    return torch.tensor(full, dtype=torch.int64).view(len(rows), columns), lengths


def batch_of(pairs: list[Pair], *, update: int = 0, seed: int = 0) -> PairBatch:
    """All pairs as a global batch, numbered in their order."""
    source, source_lengths = padded([[*source, EOS] for source, _ in pairs])
    target, target_lengths = padded([[*target, EOS] for _, target in pairs])
    samples = torch.arange(len(pairs)) + 100
    return PairBatch(
        samples=samples,
        source=source,
        source_lengths=source_lengths,
        target=target,
        target_lengths=target_lengths,
        key=Key.root(seed).fold(update),
        update=update,
        everyone=torch.stack([samples, source_lengths, target_lengths], dim=1),
    )


def share_of(batch: PairBatch, rows: list[int]) -> PairBatch:
    """Some pairs of a batch as a worker's share, padded no further than they must be."""
    sources, targets = batch.source_lengths[rows], batch.target_lengths[rows]
    columns = int(targets.max()) if rows else 0
    places = torch.arange(batch.target.numel()).view_as(batch.target)[rows, :columns]
    return dataclasses.replace(
        batch,
        samples=batch.samples[rows],
        source=batch.source[rows, : int(sources.max()) if rows else 0],
        source_lengths=sources,
        target=batch.target[rows, :columns],
        target_lengths=targets,
        prior=None if batch.prior is None else batch.prior.take(places.flatten()),
    )


def loss_and_gradients(network: nn.Module, *batches: PairBatch) -> tuple[float, Tensor]:
    """Sums over batches: their loss, and all its gradients in one row."""
    network.zero_grad()
    losses = [network(batch) for batch in batches]
    torch.autograd.backward(losses)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return float(sum(losses)), torch.cat([gradient.flatten() for gradient in gradients])


def learned(network: nn.Module, pairs: list[Pair], *, steps: int, rate: float, size: int) -> nn.Module:
    """`network` after so many steps of Adam, each on as many pairs, in the order given, over and over."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.98))
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50)
        chosen = [pairs[(step * size + place) % len(pairs)] for place in range(size)]
        optimizer.zero_grad()
        torch.autograd.backward(network(batch_of(chosen, update=step)))
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()

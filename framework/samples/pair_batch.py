"""A batch of pairs of sentences: one worker's share of a global batch, as networks that translate see it.

Assumptions: sentences are token ids with EOS at the end and PAD behind it, so that every one has at least a token. What
is drawn for a pair goes by its number in the data set, the key of the step, and places in its sentences: never by the
other pairs of the share, nor by how far it is padded.
"""

import dataclasses

import torch
from torch import Tensor

from framework.kernels.sparse_rows import SparseRows
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """n pairs of sentences, a worker's share of a global batch of g pairs."""

    samples: Tensor
    """The pairs' numbers in the data set: what draws are keyed by. int64 [n]."""
    source: Tensor
    """Tokens, EOS at the end and PAD behind it: int64 [n, S]."""
    source_lengths: Tensor
    """Tokens of every source sentence, EOS counted: int64 [n]."""
    target: Tensor
    """Tokens likewise: int64 [n, T]."""
    target_lengths: Tensor
    """Tokens of every target sentence, EOS counted: int64 [n]."""
    key: Key
    """What the draws of this step are keyed by."""
    everyone: Tensor
    """Number, source length and target length of every pair of the global batch, so that a model can count what all
    workers predict: int64 [g, 3]."""
    prior: SparseRows | None = None
    """What is known of every target position beforehand, in the order of `target` flattened: n * T rows."""
    prior_weight: float = 0.0
    """How much of the loss the prior's term is in this update: a function of the place in the run alone."""

    @property
    def size(self) -> int:
        """Pairs in the global batch."""
        return len(self.everyone)

    def to(self, device: torch.device) -> "PairBatch":
        """The same on a device."""
        return dataclasses.replace(
            self,
            samples=self.samples.to(device),
            source=self.source.to(device),
            source_lengths=self.source_lengths.to(device),
            target=self.target.to(device),
            target_lengths=self.target_lengths.to(device),
            everyone=self.everyone.to(device),
            prior=None if self.prior is None else self.prior.to(device),
        )

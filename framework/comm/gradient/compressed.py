"""Compressed: an all-reduce of fewer bytes, as shorter numbers or as matrices of low rank.

Assumptions: a worker's loss is its part of the global mean, so gradients are small; fp16 has no numbers below 6e-8 or
above 65504, bf16 has float32's range at 8 bits of precision. Exact limits: fp16 and bf16 where gradients and their sums
are such numbers; powersgd where the sum of the gradients has no more than its rank.
"""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from framework.comm.gradient.all_reduce import Replica, check_bucket, refuse_own_statistics, replicated
from framework.comm.gradient.low_rank import LowRank
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.config import placement
from framework.errors import InputError
from framework.registry import GRADIENTS

_WIRES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@GRADIENTS.register("compressed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Compressed:
    """All-reduce in half precision or at low rank (PowerSGD). Exact for gradients that fit: short numbers, low rank."""

    method: Literal["fp16", "bf16", "powersgd"] = "fp16"
    """Numbers of two bytes, or PowerSGD (Vogels, Karimireddy and Jaggi, NeurIPS 2019)."""
    rank: int = 4
    """PowerSGD: columns kept of a gradient matrix; smaller matrices and vectors are sent as they are."""
    start: int = 0
    """PowerSGD: steps at the beginning that are not compressed."""
    bucket_megabytes: int = placement(25)
    """fp16 and bf16: gradients are sent in buckets of about this size, counted before they are shortened."""

    def __post_init__(self) -> None:
        if self.method not in (*_WIRES, "powersgd"):
            raise InputError(f"--gradient.method is '{self.method}'; expected fp16, bf16 or powersgd.")
        if self.rank < 1:
            raise InputError(f"--gradient.rank is {self.rank}; expected at least 1 column.")
        if self.start < 0:
            raise InputError(f"--gradient.start is {self.start}; expected a number of steps, or 0.")
        check_bucket(self.bucket_megabytes)

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
    ) -> AbstractContextManager[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises LostWorkerError out of its body.

        Raises InputError for a model with batch normalisation, unless the workers share its statistics."""
        if self.method != "powersgd":
            return replicated(model, optimizer, group, self.bucket_megabytes, _WIRES[self.method])
        if group.size == 1:
            return nullcontext(Replica(model, model, optimizer))
        refuse_own_statistics(model, group)
        return nullcontext(LowRank(model, optimizer, group, self.rank, self.start))

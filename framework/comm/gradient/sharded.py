"""Sharded: the optimiser's state, and further what it steps on, is kept in pieces, a worker each.

The stages are those of Rajbhandari, Rasley, Ruwase and He, "ZeRO: Memory optimizations toward training trillion
parameter models", SC 2020. Each is exact: the steps are all-reduce's. The optimiser must treat every number by itself,
as SGD and Adam do; one that looks at a whole matrix would see a piece of it.
"""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from framework.comm.gradient.all_reduce import Replica, refuse_own_statistics
from framework.comm.gradient.deep_speed import cut_by_deep_speed
from framework.comm.gradient.fsdp import FullyShardedModel
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.gradient.zero import ShardedOptimizer
from framework.comm.group import Group
from framework.errors import InputError
from framework.registry import GRADIENTS


@GRADIENTS.register("sharded")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharded:
    """Each worker keeps a piece of the optimiser's state, or of the weights, too (ZeRO, SC 2020; FSDP). Exact."""

    stage: Literal["fsdp", "zero1", "zero2", "zero3"] = "zero1"
    """zero1: the optimiser's state is in pieces. fsdp: weights and gradients, too, by torch. zero2 and zero3: as zero1
    and fsdp, with gradients in pieces from the backward pass on, by DeepSpeed (extra `deepspeed`), in float32."""

    def __post_init__(self) -> None:
        if self.stage not in ("fsdp", "zero1", "zero2", "zero3"):
            raise InputError(f"--gradient.stage is '{self.stage}'; expected fsdp, zero1, zero2 or zero3.")

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
    ) -> AbstractContextManager[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises LostWorkerError out of its body; InputError where the stage needs
        what is not installed, or the model keeps statistics that workers would not share."""
        if group.size == 1:
            return nullcontext(Replica(model, model, optimizer))
        refuse_own_statistics(model, group)
        for weight in model.parameters():
            weight.data = weight.data.contiguous()  # pieces are ranges and rows; an image's weights lie otherwise
        if self.stage == "fsdp":
            return nullcontext(FullyShardedModel(model, optimizer, group))
        if self.stage == "zero1":
            return nullcontext(ShardedOptimizer(model, optimizer, group))
        return cut_by_deep_speed(model, optimizer, group, 2 if self.stage == "zero2" else 3)

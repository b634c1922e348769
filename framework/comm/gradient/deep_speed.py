"""ZeRO's stages 2 and 3 by DeepSpeed, on gloo as on NCCL; of the extra `deepspeed`.

Assumptions: the model is called as a module and returns one tensor, through which all gradients flow; the optimiser
treats every number by itself. DeepSpeed steps in float32, so a float64 run agrees with others to that alone. It divides
gradients by the number of workers, so what flows back is multiplied by it. Its messages are taken from its own log of
them, and counted as a ring sends them. A weight that nobody used counts as one whose gradient is zero: momentum and
decay move it. Evaluation in stage 3 takes a second, plain module, which has weights only while it is asked.
"""

import contextlib
import copy
import importlib.util
import os
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framework.comm.gradient.all_reduce import is_of_transport
from framework.comm.gradient.clip import Clip
from framework.comm.gradient.fsdp import give_up_weights
from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.errors import InputError

_SHARED_MEMORY = "deepspeed_shm_comm"  # an operator that would be compiled at every host's first start


@contextlib.contextmanager
def cut_by_deep_speed(
    model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, stage: Literal[2, 3]
) -> Iterator[GradientSynchronizer]:
    """DeepSpeed at work, whose messages pass by the group: where they fail, LostWorkerError is raised out of its body.

    Raises InputError where DeepSpeed is not installed."""
    synchronizer, began = None, time.monotonic()
    try:
        synchronizer = DeepSpeedModel(model, optimizer, group, stage)
        yield synchronizer
    except RuntimeError as error:
        if not is_of_transport(error):
            raise
        met = began if synchronizer is None else synchronizer.met
        raise group.lost("gradient", error, time.monotonic() - met) from error


class DeepSpeedModel:
    """A model that DeepSpeed has cut, and its optimiser with it: a GradientSynchronizer."""

    shared = False

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, stage: Literal[2, 3]) -> None:
        """Hands `model` and `optimizer` over. Raises InputError where DeepSpeed is not installed."""
        if importlib.util.find_spec("deepspeed") is None:
            raise InputError(f"--gradient.stage zero{stage} needs DeepSpeed: pip install 'shardyard[deepspeed]'.")
        self._group, self._model, self._stage = group, model, stage
        self._plain = copy.deepcopy(model) if stage == 3 else None
        if self._plain is not None:
            give_up_weights(self._plain)
        self._engine = _engine(model, optimizer, group, stage)
        self.module = _Called(self._engine, group.size)
        self._show_pieces()
        self._count("state")  # what it sent to begin with
        self.met = time.monotonic()  # when all workers had last stepped

    def step(self) -> None:
        """The optimiser's step on this worker's pieces, and the new weights to everybody."""
        self._engine.step()
        self._show_pieces()
        self._count("gradient")
        self.met = time.monotonic()

    def _show_pieces(self) -> None:
        """Stage 3 takes the optimiser's parameters away after a step; its state is told by them."""
        if self._stage == 3:
            self._engine.optimizer._set_fp32_optimizer_param_groups()

    def _count(self, purpose: str) -> None:
        """Adds the messages since it was last asked, as the ring of each sends them."""
        from deepspeed.comm.comm import comms_logger

        for name, sizes in comms_logger.comms_dict.items():
            for size, (times, *_) in sizes.items():
                self._group.count(purpose, int(times * size * _sent(name, self._group.size)))
        comms_logger.comms_dict.clear()

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model, or in stage 3 a plain one with all of the weights, gathered from everybody."""
        if self._plain is None:
            yield self._model
            return
        from deepspeed.runtime.zero import GatheredParameters

        buffers = dict(self._model.named_buffers())
        for name, buffer in self._plain.named_buffers():
            buffer.copy_(buffers[name])
        with GatheredParameters(list(self._model.parameters())):
            for weight, gathered in zip(self._plain.parameters(), self._model.parameters(), strict=True):
                weight.data = gathered.detach().clone()
        self._count("state")
        try:
            yield self._plain
        finally:
            give_up_weights(self._plain)

    def state(self) -> dict[str, Tensor]:
        """Nothing but the optimiser's, which is kept by whoever keeps this."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""


def _sent(message: str, workers: int) -> float:
    """What a worker sends of a message, as a share of the tensor it gives; on average, where roles differ."""
    if "gather" in message:  # its own piece, to all others
        return workers - 1
    return 2 * (workers - 1) / workers if "all_reduce" in message else (workers - 1) / workers


class _Called(nn.Module):
    """What the loop calls: the engine, with gradients multiplied by the number of workers on their way back."""

    def __init__(self, engine: nn.Module, factor: int) -> None:
        super().__init__()
        self.engine, self.factor = engine, factor

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """The engine's answer."""
        answer: Tensor = self.engine(*arguments, **named)
        if answer.requires_grad:
            answer.register_hook(lambda gradient: gradient * self.factor)  # type: ignore[no-untyped-call]
        return answer

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The engine does that after each step."""


def library(group: Group) -> Any:
    """DeepSpeed, which looks about when it is imported, and so is told where it is before."""
    os.environ.setdefault("LOCAL_RANK", str(group.hosts[: group.rank].count(group.hosts[group.rank])))
    os.environ.setdefault("DS_ACCELERATOR", group.device.type)
    import deepspeed

    return deepspeed


def _engine(model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, stage: int) -> Any:
    deepspeed = library(group)
    if (clip := Clip.of(optimizer)) is not None:
        clip.leave()  # DeepSpeed knows the norm over all pieces
    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY] = False
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0 if clip is None else clip.norm,  # left away, it would clip to a norm of one
        "comms_logger": {"enabled": True, "prof_all": True, "verbose": False},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine

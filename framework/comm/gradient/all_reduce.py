"""All-reduce: every worker gets the sum of all gradients, every step; torch's DistributedDataParallel does it.

Assumptions: a worker's loss is its part of the global mean, so gradients are summed, not averaged; every worker calls
forward and backward once a step, even with no sample of its own; the models start equal, for the engine seeds them so.
Buffers stay a worker's own, so a layer that learns in them, as batch normalisation does, is refused.
"""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # missing from torch's stubs alone
from torch.futures import Future
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from framework.comm.gradient.strategy import GradientSynchronizer
from framework.comm.group import Group
from framework.config import placement
from framework.errors import InputError
from framework.registry import GRADIENTS


@GRADIENTS.register("all-reduce")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AllReduce:
    """Sum the gradients of all workers in every step, overlapped with the backward pass. Exact."""

    bucket_megabytes: int = placement(25)
    """Gradients are sent in buckets of about this size, each as soon as it is complete."""

    def __post_init__(self) -> None:
        check_bucket(self.bucket_megabytes)

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
    ) -> AbstractContextManager[GradientSynchronizer]:
        """Takes over `model` and `optimizer`. Raises LostWorkerError out of its body.

        Raises InputError for a model with batch normalisation, unless the workers share its statistics."""
        return replicated(model, optimizer, group, self.bucket_megabytes)


def check_bucket(megabytes: int) -> None:
    """Raises InputError for a size that no bucket can have; 0 is one for every weight."""
    if megabytes < 0:
        raise InputError(f"--gradient.bucket-megabytes is {megabytes}; expected at least 0.")


@contextlib.contextmanager
def replicated(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    group: Group,
    bucket_megabytes: int,
    wire: torch.dtype | None = None,
) -> Iterator[GradientSynchronizer]:
    """All-reduce at work; `wire` is the type in which gradients are sent and summed, None their own."""
    if group.size == 1:
        yield Replica(model, model, optimizer)
        return
    refuse_own_statistics(model, group)
    reduction = _Reduction(group, wire, parameters=sum(1 for weight in model.parameters() if weight.requires_grad))
    wrapped = _data_parallel(model, bucket_megabytes)
    wrapped.register_comm_hook(None, reduction.hook)
    try:
        yield Replica(wrapped, model, optimizer)
    except RuntimeError as error:
        failure = reduction.failure or (error if is_of_transport(error) else None)
        if failure is None:
            raise
        raise group.lost("gradient", failure, time.monotonic() - reduction.began) from error
    finally:
        wrapped.reducer._remove_autograd_hooks()


def is_of_transport(error: RuntimeError) -> bool:
    """Whether torch.distributed raised it: DDP tells which weights were used without our hook, and gloo's errors have
    no class of their own."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo/", "NCCL"))


def _data_parallel(model: nn.Module, bucket_megabytes: int) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, is unknown to the older torch that we also work with.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            model,
            broadcast_buffers=False,
            init_sync=False,
            # Keeps the buckets as they are from the first step on. They would be rebuilt after it otherwise, the
            # order of the ring's sums would change, and a resumed run would differ in the last bit.
            find_unused_parameters=True,
            bucket_cap_mb=bucket_megabytes,
        )


class Replica:
    """A model whose weights and whose optimiser's state are the same on every worker after every step."""

    shared = True

    def __init__(self, module: nn.Module, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """`module` calls `model` and leaves the same gradients on every worker."""
        self.module, self._model, self._optimizer = module, model, optimizer

    def step(self) -> None:
        """The optimiser's step, alike everywhere."""
        self._optimizer.step()

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The model as it is."""
        return contextlib.nullcontext(self._model)

    def state(self) -> dict[str, Tensor]:
        """Nothing of a worker's own."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""


def refuse_own_statistics(model: nn.Module, group: Group) -> None:
    """Raises InputError where a worker would normalise by its own share of a batch, and the models drift apart."""
    for name, layer in model.named_modules():
        by_batch = isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
        if by_batch or (isinstance(layer, _InstanceNorm) and layer.track_running_stats):
            raise InputError(
                f"layer '{name}' is a {type(layer).__name__}, whose statistics would differ between the "
                f"{group.size} workers; take GroupNorm or LayerNorm, on GPUs torch.nn.SyncBatchNorm, or one worker."
            )


class _Reduction:
    """The communication hook, and what became of it."""

    def __init__(self, group: Group, wire: torch.dtype | None, parameters: int) -> None:
        self._group, self._wire, self._parameters = group, wire, parameters
        self.failure: BaseException | None = None
        self.began = time.monotonic()  # the last bucket's

    def hook(self, state: None, bucket: GradBucket) -> Future[Tensor]:
        buffer = bucket.buffer()
        sent = buffer if self._wire is None else buffer.to(self._wire)
        self._group.count_all_reduce("gradient", sent.numel() * sent.element_size())
        if bucket.is_last():  # one int32 a parameter: which of them any worker has used
            self._group.count_all_reduce("gradient", 4 * self._parameters)
        self.began = time.monotonic()

        def summed(done: Future[list[Tensor]]) -> Tensor:
            try:
                total = done.value()[0]
            except RuntimeError as error:
                self.failure = error
                raise
            return total if self._wire is None else buffer.copy_(total)

        work = dist.all_reduce(sent, async_op=True)
        future: Future[Tensor] = work.get_future().then(summed)
        return future

"""All-reduce: every worker gets the sum of all gradients, every step; torch's DistributedDataParallel does it.

Assumptions: a worker's loss is its part of the global mean, so gradients are summed, not averaged; every worker calls
forward and backward once a step, even with no sample of its own; the models start equal, for the engine seeds them so.
"""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # missing from torch's stubs alone
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from framework.comm.group import Group
from framework.config import placement
from framework.registry import GRADIENTS


@GRADIENTS.register("all-reduce")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AllReduce:
    """Sum the gradients of all workers in every step, overlapped with the backward pass. Exact."""

    bucket_megabytes: int = placement(25)
    """Gradients are sent in buckets of about this size, each as soon as it is complete."""

    @contextlib.contextmanager
    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> Iterator[nn.Module]:
        """The module to call: `model` itself in a group of one. Raises LostWorkerError out of its body."""
        if group.size == 1:
            yield model
            return
        reduction = _Reduction(group, parameters=sum(1 for weight in model.parameters() if weight.requires_grad))
        wrapped = self._replica(model)
        wrapped.register_comm_hook(None, reduction.hook)
        try:
            yield wrapped
        except RuntimeError as error:
            if reduction.failure is None:
                raise
            raise group.lost("gradient", reduction.failure, reduction.seconds) from error
        finally:
            wrapped.reducer._remove_autograd_hooks()

    def _replica(self, model: nn.Module) -> DistributedDataParallel:
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
                bucket_cap_mb=self.bucket_megabytes,
            )


class _Reduction:
    """The communication hook, and what became of it."""

    def __init__(self, group: Group, parameters: int) -> None:
        self._group = group
        self._parameters = parameters
        self.failure: BaseException | None = None
        self.seconds = 0.0

    def hook(self, state: None, bucket: GradBucket) -> Future[Tensor]:
        buffer = bucket.buffer()
        self._group.count_all_reduce("gradient", buffer.numel() * buffer.element_size())
        if bucket.is_last():  # one int32 a parameter: which of them any worker has used
            self._group.count_all_reduce("gradient", 4 * self._parameters)
        begin = time.monotonic()

        def summed(done: Future[list[Tensor]]) -> Tensor:
            try:
                return done.value()[0]
            except RuntimeError as error:
                self.failure, self.seconds = error, time.monotonic() - begin
                raise

        work = dist.all_reduce(buffer, async_op=True)
        future: Future[Tensor] = work.get_future().then(summed)
        return future

"""A fully sharded model: torch's FSDP2 over the group, which counts its bytes.

Assumptions: the model is called as a module, forward and backward once a step, and is one unit: its weights are whole
from the forward to the end of the backward pass, in pieces before and after. The optimiser treats every number by
itself; it steps on this worker's rows of every weight, which may be none. Weights lie contiguous. FSDP gives one that
nobody used a gradient of zeros, with which momentum and decay would move it: so who uses what is told beside it.
Evaluation takes a second, plain module, which has weights while it is asked alone.
"""

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.hooks import RemovableHandle

from framework.comm.gradient.clip import add_up_clip
from framework.comm.gradient.collect import all_ranges, anywhere, replace_parameters, summed_range, trainable
from framework.comm.group import Group
from framework.errors import InputError

_NEEDED = ("set_custom_all_gather", "set_custom_reduce_scatter", "set_reduce_scatter_unused_params")


class FullyShardedModel:
    """A model in pieces, and its optimiser with it: a GradientSynchronizer."""

    shared = False

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> None:
        """Cuts `model`, and gives `optimizer` its pieces. Raises InputError where it cannot be cut."""
        self._optimizer, self._group = optimizer, group
        self._plain = copy.deepcopy(model)
        give_up_weights(self._plain)
        before, sizes = trainable(model), {name: weight.shape for name, weight in model.named_parameters()}
        self.module = _sharded(model, group)
        self._rows = {name: size[0] for name, size in sizes.items()}  # what has no rows cannot be sharded
        self._sharded = trainable(self.module)
        self._pieces = [nn.Parameter(_piece(weight)) for weight in self._sharded]
        replace_parameters(optimizer, before, self._pieces)
        add_up_clip(optimizer, lambda squares: group.all_reduce(squares, "gradient"))
        self._used = _Used(self.module)

    def step(self) -> None:
        """The optimiser's step on this worker's pieces of weights that somebody used."""
        used = anywhere(self._group, self._used.taken())
        for weight, piece, one in zip(self._sharded, self._pieces, used, strict=True):
            piece.grad = _piece(weight.grad) if one else None
        self._optimizer.step()

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """A plain module with all of the weights, gathered from everybody."""
        buffers = dict(self.module.named_buffers())
        for name, buffer in self._plain.named_buffers():
            buffer.copy_(buffers[name])
        weights = dict(self.module.named_parameters())
        for name, weight in self._plain.named_parameters():
            weight.data = self._gathered(_piece(weights[name]), self._rows[name])
        try:
            yield self._plain
        finally:
            give_up_weights(self._plain)

    def _gathered(self, mine: Tensor, rows: int) -> Tensor:
        """All rows of a weight, of which every worker has as many as `torch.chunk` gives it."""
        size = self._group.size
        most = -(-rows // size)
        counts = [min(max(rows - rank * most, 0), most) for rank in range(size)]
        return self._group.exchange(torch.cat([mine] * size), [len(mine)] * size, counts, "state")

    def state(self) -> dict[str, Tensor]:
        """Nothing but the optimiser's, which is kept by whoever keeps this."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""


class _Used:
    """Which weights backward passes come to: watched on the whole weights, which FSDP has in place by each forward."""

    def __init__(self, module: nn.Module) -> None:
        """Of a module that is sharded already."""
        self._flags, self._handles = [False] * len(trainable(module)), list[RemovableHandle]()
        module.register_forward_pre_hook(self._watch)

    def _watch(self, module: nn.Module, arguments: Any) -> None:
        if not self._handles:
            self._handles = [
                weight.register_hook(functools.partial(self._note, index))  # type: ignore[no-untyped-call]
                for index, weight in enumerate(trainable(module))
            ]

    def _note(self, index: int, gradient: Tensor) -> None:
        self._flags[index] = True

    def taken(self) -> list[bool]:
        """Of every weight that is learned, in the model's order, whether it was used since this was asked last."""
        for handle in self._handles:
            handle.remove()
        flags, self._flags, self._handles = self._flags, [False] * len(self._flags), []
        return flags


class _AllGather:
    """How FSDP has the group bring all pieces together."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> None:
        output_tensor.copy_(all_ranges(self._group, input_tensor))


class _ReduceScatter:
    """How FSDP has the group sum gradients into pieces."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,  # the sum, for _sharded asks for nothing else
        async_op: bool = False,
    ) -> None:
        output_tensor.copy_(summed_range(self._group, input_tensor))


def _sharded(model: nn.Module, group: Group) -> Any:
    """`model` itself, in pieces; gradients are summed."""
    from torch.distributed.fsdp import (
        FSDPModule,
        fully_shard,
    )  # two seconds of imports that other strategies do not need

    lacking = [name for name in _NEEDED if not hasattr(FSDPModule, name)]
    if lacking:
        raise InputError(
            f"--gradient.stage fsdp needs a newer torch than {torch.__version__}; take zero1 or upgrade it."
        )
    try:
        sharded: Any = fully_shard(model, mesh=init_device_mesh(group.device.type, (group.size,)))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"torch cannot shard this model: {error} Take --gradient.stage zero1.") from error
    sharded.set_custom_all_gather(_AllGather(group))
    sharded.set_custom_reduce_scatter(_ReduceScatter(group))
    sharded.set_reduce_scatter_unused_params(True)  # or workers that use different weights would wait for each other
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)
    return sharded


def _piece(weight: Any) -> Tensor:
    """This worker's rows of a sharded weight or gradient, in its own memory."""
    piece: Tensor = weight.detach().to_local()
    return piece


def give_up_weights(model: nn.Module) -> None:
    """Gives up the memory of a model's weights."""
    for weight in model.parameters():
        weight.data = weight.new_empty(0)

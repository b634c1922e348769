"""What gradient strategies are made of: sums over all workers in few messages, and parameters in pieces.

Assumptions: as of the group; every worker has the same weights in the same order.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from framework.comm.group import Group

BUCKET = 25 << 20
"""Bytes of one message, about: what bounds the memory of joining tensors."""


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are learned, in the model's order."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def held(weight: nn.Parameter) -> Tensor:
    """What this worker holds of a parameter: all of it or, of one that DeepSpeed has cut, its piece."""
    piece = getattr(weight, "ds_tensor", weight)
    assert isinstance(piece, Tensor)
    return piece


def add_up(group: Group, tensors: Iterable[Tensor], purpose: str) -> None:
    """Replaces every tensor by its sum over all workers, the same bits on each."""
    for bucket in _buckets(tensors):
        flat = group.all_reduce(torch.cat([tensor.reshape(-1) for tensor in bucket]), purpose)
        for tensor, part in zip(bucket, flat.split_with_sizes([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def average(group: Group, tensors: Sequence[Tensor], purpose: str) -> None:
    """Replaces every tensor by its mean over all workers, the same bits on each."""
    add_up(group, tensors, purpose)
    for tensor in tensors:
        tensor.div_(group.size)


def used_anywhere(group: Group, weights: Sequence[nn.Parameter]) -> list[bool]:
    """Of every parameter, whether any worker's backward pass came to it: the others have no gradient at all."""
    return anywhere(group, [weight.grad is not None for weight in weights])


def anywhere(group: Group, mine: Sequence[bool]) -> list[bool]:
    """Of every flag, whether it is set on any worker."""
    flags = torch.tensor(mine, dtype=torch.int32, device=group.device)
    return [bool(one) for one in group.all_reduce(flags, "gradient", "max").tolist()]


def summed_range(group: Group, numbers: Tensor) -> Tensor:
    """Worker r's answer is range r of the sum of all workers' `numbers` [k n]: [n]. Sends (k - 1) / k of them.

    The order of the sum is that of the ranks, whatever the transport."""
    ones = [1] * group.size
    return group.exchange(numbers.view(group.size, -1), ones, ones, "gradient").sum(0)


def all_ranges(group: Group, mine: Tensor, purpose: str = "gradient") -> Tensor:
    """The numbers [n] of every worker, one after the other: [k n]. Sends k - 1 times one's own."""
    ones = [1] * group.size
    return group.exchange(mine.repeat(group.size, 1), ones, ones, purpose).view(-1)


def replace_parameters(
    optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], pieces: Sequence[nn.Parameter]
) -> None:
    """Lets an optimiser that has not stepped yet step on `pieces` in place of `weights`; its settings stay."""
    assert not optimizer.state, "the optimiser's state is of the weights it had"
    piece_of = dict(zip(map(id, weights), pieces, strict=True))
    for settings in optimizer.param_groups:
        settings["params"] = [piece_of[id(weight)] for weight in settings["params"] if id(weight) in piece_of]


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors of one type together, up to a bucket's size or one tensor."""
    open_buckets: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_buckets.setdefault(tensor.dtype, [])
        size = sum(one.numel() for one in bucket) + tensor.numel()
        if bucket and size * tensor.element_size() > BUCKET:
            yield bucket
            bucket = open_buckets[tensor.dtype] = []
        bucket.append(tensor)
    yield from open_buckets.values()

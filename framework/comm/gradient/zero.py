"""A sharded optimiser: gradients are summed where their weights are stepped on, and new weights go to everybody.

Assumptions: a worker's loss is its part of the global mean, so gradients are summed; the weights of a model have one
type and lie contiguous; the optimiser treats every number by itself. All weights, one after the other, are cut into as
many equal ranges as there are workers. The optimiser of a worker knows of every weight the piece in its range, as a
view, which may be empty: so it has as many parameters as the model, and state for its own range alone. Two messages a
step move 2 (k - 1) / k of the weights, as an all-reduce does.
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from framework.comm.gradient.clip import add_up_clip
from framework.comm.gradient.collect import all_ranges, replace_parameters, summed_range, trainable, used_anywhere
from framework.comm.group import Group
from framework.errors import InputError


class ShardedOptimizer:
    """A whole model with a piece of its optimiser: a GradientSynchronizer."""

    shared = False

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> None:
        """Gives `optimizer` pieces for parameters. Raises InputError for weights of several types."""
        self.module, self._optimizer, self._group = model, optimizer, group
        self._weights = trainable(model)
        types = {weight.dtype for weight in self._weights}
        if len(types) > 1:
            raise InputError(f"the model's weights are {', '.join(map(str, types))}; sharded takes one type.")
        self._sizes = [weight.numel() for weight in self._weights]
        self._range = -(-sum(self._sizes) // group.size)
        self._pieces = [nn.Parameter(piece) for piece in self._cut([weight.data.view(-1) for weight in self._weights])]
        replace_parameters(optimizer, self._weights, self._pieces)
        add_up_clip(optimizer, lambda squares: group.all_reduce(squares, "gradient"))

    def _cut(self, flat: list[Tensor]) -> list[Tensor]:
        """Of every weight's numbers, flat, those in this worker's range: views."""
        first, pieces, begin = self._group.rank * self._range, [], 0
        for numbers in flat:
            low, high = (min(max(edge - begin, 0), len(numbers)) for edge in (first, first + self._range))
            pieces.append(numbers[low:high])
            begin += len(numbers)
        return pieces

    def step(self) -> None:
        """Sums gradients where they are needed, steps there, and gives everybody the new weights."""
        used = used_anywhere(self._group, self._weights)
        with torch.no_grad():
            mine = self._summed_range()
            for piece, part, one in zip(
                self._pieces, mine.split_with_sizes([len(p) for p in self._pieces]), used, strict=True
            ):
                piece.grad = part if one else None
        self._optimizer.step()
        with torch.no_grad():
            self._share()

    def _summed_range(self) -> Tensor:
        """The sum over all workers of the gradients in this worker's range, [numbers of all pieces]."""
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._weights]
        summed = summed_range(self._group, self._padded(gradients, self._range * self._group.size))
        return summed[: sum(len(piece) for piece in self._pieces)]

    def _share(self) -> None:
        """Gives this worker's range to all, and takes theirs."""
        received = all_ranges(self._group, self._padded(self._pieces, self._range))
        for weight, part in zip(self._weights, received[: sum(self._sizes)].split_with_sizes(self._sizes), strict=True):
            weight.copy_(part.view_as(weight))

    def _padded(self, tensors: Sequence[Tensor], length: int) -> Tensor:
        """All numbers one after the other, and zeros up to `length`."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        return nn.functional.pad(flat, (0, length - len(flat)))

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The model as it is."""
        return contextlib.nullcontext(self.module)

    def state(self) -> dict[str, Tensor]:
        """Nothing but the optimiser's, which is kept by whoever keeps this."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""

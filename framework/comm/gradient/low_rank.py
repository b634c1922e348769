"""PowerSGD at work: every gradient matrix is sent as two thin ones, and what they miss is added to the next.

Vogels, Karimireddy and Jaggi, "PowerSGD: Practical low-rank gradient compression for distributed optimization", NeurIPS
2019, algorithms 1 and 2: with M a worker's gradient [n, m] plus its error, P = orthogonal(sum of M Q), Q = M^T P; all
workers step on P (sum of Q)^T, each remembers M - P Q^T, and the sum of Q begins the next power iteration.

Assumptions: gradients are summed, not averaged; all workers compute the same bits from the same numbers. Messages go
out after the backward pass, three a step, so that there are no buckets in flight side by side.
"""

import contextlib
import dataclasses
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from framework.comm.gradient.collect import add_up, trainable, used_anywhere
from framework.comm.group import Group
from framework.random import Key, uniform

_DRAWS = Key.root(0x506F776572534744)  # the first queries: the same in every run and on every worker


class LowRank:
    """A model whose gradients are summed at low rank: a GradientSynchronizer."""

    shared = True

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, group: Group, rank: int, start: int) -> None:
        """Compresses to `rank` columns after `start` steps."""
        self.module, self._optimizer, self._group, self._start = model, optimizer, group, start
        self._weights, self._steps = trainable(model), 0
        self._matrices = {
            index: _Matrix.like(weight, rank, _DRAWS.fold(index))
            for index, weight in enumerate(self._weights)
            if _is_worth_it(weight, rank)
        }

    def step(self) -> None:
        """The optimiser's step on the compressed sum of all gradients; those that nobody has stay none."""
        used = used_anywhere(self._group, self._weights)
        for weight, one in zip(self._weights, used, strict=True):
            if one and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        with torch.no_grad():
            self._sum([index for index, one in enumerate(used) if one])
        self._optimizer.step()
        self._steps += 1

    def _sum(self, used: list[int]) -> None:
        """Replaces the gradients of these weights by their sum over all workers."""
        compressed = [index for index in used if index in self._matrices and self._steps >= self._start]
        add_up(self._group, [_gradient(self._weights[index]) for index in used if index not in compressed], "gradient")
        held = [(self._matrices[index], _gradient(self._weights[index])) for index in compressed]
        whole = [gradient.reshape(matrix.error.shape) + matrix.error for matrix, gradient in held]
        left = [rows @ matrix.query for rows, (matrix, _) in zip(whole, held, strict=True)]
        add_up(self._group, left, "gradient")
        # Orthonormal columns whatever the rank is: a gradient of lower rank has no numbers to divide by.
        left = [torch.linalg.qr(columns).Q for columns in left]
        for rows, columns, (matrix, _) in zip(whole, left, held, strict=True):
            torch.mm(rows.t(), columns, out=matrix.query)
            torch.sub(rows, columns @ matrix.query.t(), out=matrix.error)
        add_up(self._group, [matrix.query for matrix, _ in held], "gradient")
        for columns, (matrix, gradient) in zip(left, held, strict=True):
            gradient.copy_((columns @ matrix.query.t()).view_as(gradient))

    def whole(self) -> AbstractContextManager[nn.Module]:
        """The model as it is."""
        return contextlib.nullcontext(self.module)

    def state(self) -> dict[str, Tensor]:
        """The steps taken, and every matrix's error and query."""
        state = {"steps": torch.tensor(self._steps)}
        for index, matrix in self._matrices.items():
            state |= {f"error.{index}": matrix.error, f"query.{index}": matrix.query}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        self._steps = int(state["steps"])
        for index, matrix in self._matrices.items():
            matrix.error.copy_(state[f"error.{index}"])
            matrix.query.copy_(state[f"query.{index}"])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Matrix:
    """What is remembered of a weight seen as a matrix [n, m]."""

    error: Tensor
    """[n, m]: this worker's gradients that were not sent yet."""
    query: Tensor
    """[m, rank]: where the next power iteration begins, the same on every worker."""

    @classmethod
    def like(cls, weight: Tensor, rank: int, key: Key) -> "_Matrix":
        error = torch.zeros_like(weight, requires_grad=False).reshape(len(weight), -1)
        draws = uniform(key, torch.arange(error.shape[1] * rank)).view(-1, rank)
        return cls(error=error, query=(2 * draws - 1).to(weight))


def _is_worth_it(weight: Tensor, rank: int) -> bool:
    """Whether two thin matrices are fewer numbers than the weight's own."""
    if weight.ndim < 2 or weight.numel() == 0:
        return False
    rows, columns = len(weight), weight.numel() // len(weight)
    return rank * (rows + columns) < rows * columns


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None, "weights without a gradient anywhere were left out"
    return weight.grad

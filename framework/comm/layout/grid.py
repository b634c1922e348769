"""Workers as a grid of rows and columns: which nodes a grid row has, and how rows move inside it and between them.

Worker w stands in grid row w // columns, so a grid row is a run of neighbours and its workers' nodes, its *block row*,
are a run of global ids. Rows of nodes move two ways. Inside a grid row by an exchange, whose gradient is the exchange
back. Down a grid column in turn: a worker's rows to all others of its column, and in the backward pass the sum of what
these have for them back to it.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.comm.group import Group, Pending
from framework.comm.reach import Shards, owner_of_part
from framework.comm.subgroup import Subgroup


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """This worker's place among the others."""

    group: Group
    """All workers."""
    rows: int
    """Grid rows."""
    columns: int
    """Workers of a grid row."""
    starts: tuple[int, ...]
    """Worker w owns the global ids starts[w] to starts[w + 1]."""
    above: Subgroup
    """The workers of this one's grid column."""

    @classmethod
    def open(cls, shards: Shards, columns: int) -> "Grid":
        """All workers in grid rows of `columns`, a divisor of their number. All workers call this together."""
        group, store = shards.group, shards.store
        owner = owner_of_part(torch.arange(store.parts), store.parts, group.size)
        first_parts = torch.searchsorted(owner, torch.arange(group.size + 1))
        stacked = [range(column, group.size, columns) for column in range(columns)]
        return cls(
            group=group,
            rows=group.size // columns,
            columns=columns,
            starts=tuple(store.offsets[first_parts].tolist()),
            above=Subgroup.split(group, stacked),
        )

    @property
    def row(self) -> int:
        """This worker's grid row."""
        return self.group.rank // self.columns

    @property
    def column(self) -> int:
        """This worker's grid column."""
        return self.group.rank % self.columns

    @property
    def owned(self) -> int:
        """Nodes that this worker owns."""
        return self.beside[self.column]

    @property
    def beside(self) -> list[int]:
        """Nodes that every worker of this grid row owns."""
        first = self.row * self.columns
        return [self.starts[w + 1] - self.starts[w] for w in range(first, first + self.columns)]

    @property
    def blocks(self) -> list[int]:
        """Nodes of every block row."""
        bounds = [self.starts[row * self.columns] for row in range(self.rows + 1)]
        return [after - before for before, after in itertools.pairwise(bounds)]

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph."""
        return self.starts[-1]

    def among_row(self, counts: Sequence[int]) -> list[int]:
        """Counts for the workers of this grid row as counts for all: none for the others."""
        everyone = [0] * self.group.size
        everyone[self.row * self.columns : (self.row + 1) * self.columns] = counts
        return everyone

    def gathered(self, rows: Tensor, purpose: str) -> Tensor:
        """Rows of the owned nodes [n, ...] -> of the block row [r, ...]; or any other rows, `purpose` being `state`."""
        counts = self.group.exchange_counts([len(rows)] * self.group.size, "state")
        sent = self.among_row([len(rows)] * self.columns)
        received = self.among_row(counts[self.row * self.columns : (self.row + 1) * self.columns])
        return self.group.exchange(torch.cat([rows] * self.columns), sent, received, purpose)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """What bytes are counted under."""

    forward: str
    """Of activations."""
    backward: str
    """Of gradients."""


def exchanged(rows: Tensor, grid: Grid, sent: Sequence[int], received: Sequence[int], way: Way) -> Tensor:
    """[sum of sent, ...] -> [sum of received, ...]: rows to and from the workers of a grid row. Differentiable."""
    if grid.columns == 1:
        return rows
    moved: Tensor = _Exchanged.apply(rows, grid, sent, received, way)  # type: ignore[no-untyped-call]
    return moved


def brought(rows: Tensor, grid: Grid, stages: Sequence[int], way: Way) -> Tensor:
    """[own block row, columns] -> [the block rows of `stages`, one after the other, columns]. Differentiable.

    Each comes from the worker of this grid column that has it."""
    together: Tensor = _Brought.apply(rows, grid, stages, way)  # type: ignore[no-untyped-call]
    return together


def bring(rows: Tensor, grid: Grid, stage: int, purpose: str) -> Pending:
    """The rows of block row `stage` [.., columns] to all of a grid column, `rows` being this worker's own."""
    block = rows if stage == grid.row else rows.new_empty(grid.blocks[stage], *rows.shape[1:])
    return grid.above.broadcast(block.contiguous(), _holder(grid, stage), purpose)


def give(rows: Tensor, grid: Grid, stage: int, purpose: str) -> Pending:
    """The sum at block row `stage` of what a grid column has for its rows, in place; undefined elsewhere."""
    return grid.above.reduce(rows, _holder(grid, stage), purpose)


def _holder(grid: Grid, row: int) -> int:
    """The worker of this grid column that stands in `row`."""
    return row * grid.columns + grid.column


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, grid: Grid, sent: Sequence[int], received: Sequence[int], way: Way) -> Tensor:
        ctx.grid, ctx.sent, ctx.received, ctx.way = grid, sent, received, way
        return grid.group.exchange(rows, grid.among_row(sent), grid.among_row(received), way.forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grid = ctx.grid
        sent, received = grid.among_row(ctx.received), grid.among_row(ctx.sent)
        return grid.group.exchange(gradients[0], sent, received, ctx.way.backward), None, None, None, None


class _Brought(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, grid: Grid, stages: Sequence[int], way: Way) -> Tensor:
        ctx.grid, ctx.stages, ctx.way, ctx.shape = grid, stages, way, rows.shape
        coming = [bring(rows, grid, stage, way.forward) for stage in stages]
        return torch.cat([rows[:0], *(block.wait() for block in coming)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grid, own = ctx.grid, gradients[0].new_zeros(ctx.shape)
        # A copy: a sum in place leaves whatever it likes in it.
        blocks = gradients[0].contiguous().clone().split_with_sizes([grid.blocks[stage] for stage in ctx.stages])
        going = [give(block, grid, stage, ctx.way.backward) for stage, block in zip(ctx.stages, blocks, strict=True)]
        for stage, sums in zip(ctx.stages, going, strict=True):
            total = sums.wait()
            own = total if stage == grid.row else own
        return own, None, None, None

"""Layer after layer, piece by piece, so that computing goes on while rows are under way between workers.

Of every layer's rows those that others wait for are made first, and sent; the rest is made then. Where little or
nothing is to be sent next, it is the other way round: first those rows whose neighbours are all here, before the
others' rows are waited for. Autograd undoes first what was made last, so gradients are under way while the rest is
undone. Rows are the same as without pieces, for all but the sums is done row by row.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from framework.graph.block import GraphBlock, Piece, Sending
from framework.models.layers import ROWWISE, RowwiseLayer


class Activation(Protocol):
    """What stands between two layers, row by row."""

    def __call__(self, block: GraphBlock, rows: Tensor, piece: Piece) -> Tensor:
        """Of a piece of the rows that `block` gave: [some, columns] -> [some, columns]."""


def can_be_in_pieces(layers: Iterable[nn.Module], blocks: Sequence[GraphBlock]) -> bool:
    """Whether all layers are rowwise, nobody's hooks wait for them to be called, and rows can be sent before every
    block but the first."""
    sending = [block for block in blocks[1:] if isinstance(block, Sending) and block.pieces]
    return 1 < len(blocks) == len(sending) + 1 and all(map(_plain, layers))


def _plain(layer: nn.Module) -> bool:
    """Whether the layer is one of ours, not a class of its own made of it, and calling it does nothing else."""
    hooks = (hooks for module in layer.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))
    return type(layer) in ROWWISE and not any(hooks)


def forward_in_pieces(layers: Iterable[Any], blocks: Sequence[Any], x: Tensor, activate: Activation) -> Tensor:
    """Rows of the first block's sources -> rows of the last block's targets. Layers: RowwiseLayer, blocks: but for the
    first, Sending."""
    layer, *others = layers
    block, *following = blocks
    pieces = following[0].pieces
    counts = [piece.count for piece in pieces]
    sums = list(layer.sums(block, layer.source_rows(x)).split_with_sizes(counts))
    stage = _Stage(pieces, sums, x[: block.num_targets].split_with_sizes(counts) if layer.uses_own else None)
    for after, sending in zip(others, following, strict=True):
        make = partial(_between, layer, after, block, activate)
        made, block = stage.made(make, sending, others_first=2 * after.width <= layer.width)
        sources, own = torch.cat([summed for _, summed in made]), [rows for rows, _ in made] if after.uses_own else None
        del made  # rows that no layer keeps are free before others are made
        layer, stage = after, _Stage(pieces, after.sums_in_pieces(block, sources), own, block.land)
        del sources
    return torch.cat(stage.last(layer.target_rows))


Between = tuple[Tensor, Tensor]
"""Rows between two layers, and what of them the second sums."""


def _between(
    layer: RowwiseLayer,
    after: RowwiseLayer,
    block: GraphBlock,
    activate: Activation,
    sums: Tensor,
    own: Tensor | None,
    piece: Piece,
) -> Between:
    rows = activate(block, layer.target_rows(sums, own), piece)
    return rows, after.source_rows(rows)


class _Stage:
    """A layer's sums in pieces, some of which may lack neighbours until others' rows have come."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        sums: list[Tensor],
        own: Sequence[Tensor] | None,
        land: Callable[[Sequence[Tensor]], list[Tensor]] | None = None,
    ) -> None:
        """`own`: the rows that went in, where the layer uses them; `land`: what waits for others' rows, if any come."""
        self.pieces, self.sums, self.land = pieces, sums, land
        self.own: Sequence[Tensor | None] = [None] * len(pieces) if own is None else own

    def made(
        self, make: Callable[[Tensor, Tensor | None, Piece], Between], sending: Sending, *, others_first: bool
    ) -> tuple[list[Between], Any]:
        """The rows of all pieces; `sending` sends those that others wait for. `others_first`: whether rows that lack
        nothing are made before others' are waited for."""
        made: dict[int, Between] = {}

        def add(chosen: Callable[[Piece], bool]) -> None:
            for number, piece in enumerate(self.pieces):
                if chosen(piece) and number not in made:
                    made[number] = make(self.sums[number], self.own[number], piece)

        if others_first:
            add(lambda piece: not piece.lacks)
        self._land()
        add(lambda piece: piece.sent)
        first = [number for number, piece in enumerate(self.pieces) if piece.sent]
        sent, block = sending.send([made[number][1] for number in first])
        for number, summed in zip(first, sent, strict=True):
            rows, before = made[number]
            made[number] = (summed if rows is before else rows, summed)
        add(lambda piece: True)
        return [made[number] for number in range(len(self.pieces))], block

    def last(self, make: Callable[[Tensor, Tensor | None], Tensor]) -> list[Tensor]:
        """The rows of all pieces of the last layer: first of those that lack nothing."""
        made = {
            number: make(self.sums[number], self.own[number])
            for number, piece in enumerate(self.pieces)
            if not piece.lacks
        }
        self._land()
        for number, piece in enumerate(self.pieces):
            if piece.lacks:
                made[number] = make(self.sums[number], self.own[number])
        return [made[number] for number in range(len(self.pieces))]

    def _land(self) -> None:
        if self.land is not None:
            lacking = [number for number, piece in enumerate(self.pieces) if piece.lacks]
            for number, sums in zip(lacking, self.land([self.sums[number] for number in lacking]), strict=True):
                self.sums[number] = sums

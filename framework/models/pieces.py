"""Layer after layer, piece by piece: of every layer's rows those that other workers wait for are made first, and sent.

So the rest is computed while they are under way, and is undone while their gradients are: autograd undoes first what
was made last. Rows are the same as without pieces, for all but the sums is done row by row.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from framework.graph.block import GraphBlock, Piece, Sending
from framework.models.layers import RowwiseLayer


class Activation(Protocol):
    """What stands between two layers, row by row."""

    def __call__(self, block: GraphBlock, rows: Tensor, piece: Piece) -> Tensor:
        """Of a piece of the rows that `block` gave: [some, columns] -> [some, columns]."""


def can_be_in_pieces(layers: Iterable[Any], blocks: Sequence[GraphBlock]) -> TypeGuard[Iterable[RowwiseLayer]]:
    """Whether all layers are rowwise, and rows can be sent before every block but the first."""
    sending = [block for block in blocks[1:] if isinstance(block, Sending) and block.pieces]
    return 1 < len(blocks) == len(sending) + 1 and all(isinstance(layer, RowwiseLayer) for layer in layers)


def forward_in_pieces(
    layers: Iterable[RowwiseLayer], blocks: Sequence[GraphBlock], x: Tensor, activate: Activation
) -> Tensor:
    """Rows of the first block's sources -> rows of the last block's targets."""
    layer, *others = layers
    block, *following = blocks
    rows, sums = x[: block.num_targets], layer.sums(block, layer.source_rows(x))
    for after, sending in zip(others, following, strict=True):
        assert isinstance(sending, Sending)
        counts = [piece.count for piece in sending.pieces]
        own = rows.split_with_sizes(counts) if layer.uses_own else [None] * len(counts)
        made: dict[int, tuple[Tensor, Tensor]] = {}  # rows between the layers, and what of them is summed
        given = list(zip(sending.pieces, sums.split_with_sizes(counts), own, strict=True))
        for number, (piece, some, theirs) in enumerate(given):
            if piece.sent:
                made[number] = _made(activate(block, layer.target_rows(some, theirs), piece), after)
        sent, block_after = sending.send([sources for _, sources in made.values()])
        for (number, (some, sources)), on in zip(list(made.items()), sent, strict=True):
            made[number] = (on if some is sources else some, on)
        for number, (piece, some, theirs) in enumerate(given):
            if not piece.sent:
                made[number] = _made(activate(block, layer.target_rows(some, theirs), piece), after)
        pieces, summed = zip(*(made[number] for number in range(len(counts))), strict=True)
        sources = torch.cat(summed)
        if after.uses_own:
            rows = sources if pieces[0] is summed[0] else torch.cat(pieces)
        layer, block = after, block_after
        sums = layer.sums(block, sources)
    return layer.target_rows(sums, rows if layer.uses_own else None)


def _made(rows: Tensor, after: RowwiseLayer) -> tuple[Tensor, Tensor]:
    return rows, after.source_rows(rows)

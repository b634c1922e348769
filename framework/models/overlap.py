"""Layer after layer, span by span, so that computing goes on while rows are under way between workers.

Of every layer's rows those that others wait for are made first, and sent; the rest is made then. Where little or
nothing is to be sent next, it is the other way round: first those rows whose neighbours are all here, before the
others' rows are waited for. Autograd undoes first what was made last, so gradients are under way while the rest is
undone. Rows are the same as without spans, for all but the sums is done row by row.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from framework.graph.block import GraphBlock, Sending, Span
from framework.models.layers import ROWWISE, RowwiseLayer


class Activation(Protocol):
    """What stands between two layers, row by row."""

    def __call__(self, block: GraphBlock, rows: Tensor, span: Span) -> Tensor:
        """Of a span of the rows that `block` gave: [some, columns] -> [some, columns]."""


def can_overlap(layers: Iterable[nn.Module], blocks: Sequence[GraphBlock]) -> bool:
    """Whether all layers are rowwise, nobody's hooks wait for them to be called, and rows can be sent before every
    block but the first."""
    sending = [block for block in blocks[1:] if isinstance(block, Sending) and block.spans]
    return 1 < len(blocks) == len(sending) + 1 and all(map(_plain, layers))


def _plain(layer: nn.Module) -> bool:
    """Whether the layer is one of ours, not a class of its own made of it, and calling it does nothing else."""
    hooks = (getattr(module, name) for module in layer.modules() for name in _HOOKS)
    return type(layer) in ROWWISE and not any(hooks)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def forward_overlapped(layers: Iterable[Any], blocks: Sequence[Any], x: Tensor, activate: Activation) -> Tensor:
    """Rows of the first block's sources -> rows of the last block's targets. Layers: RowwiseLayer, blocks: but for the
    first, Sending."""
    layer, *others = layers
    block, *following = blocks
    spans = following[0].spans
    counts = [span.count for span in spans]
    sums = list(layer.sums(block, layer.source_rows(x)).split_with_sizes(counts))
    stage = _Stage(spans, sums, x[: block.num_targets].split_with_sizes(counts) if layer.uses_own else None)
    for after, sending in zip(others, following, strict=True):
        make = partial(_between, layer, after, block, activate)
        made, block = stage.made(make, sending, others_first=2 * after.width <= layer.width)
        sources, own = torch.cat([summed for _, summed in made]), [rows for rows, _ in made] if after.uses_own else None
        del made  # rows that no layer keeps are free before others are made
        layer, stage = after, _Stage(spans, after.sums_in_spans(block, sources), own, block.land)
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
    span: Span,
) -> Between:
    rows = activate(block, layer.target_rows(sums, own), span)
    return rows, after.source_rows(rows)


class _Stage:
    """A layer's sums in spans, some of which may lack neighbours until others' rows have come."""

    def __init__(
        self,
        spans: Sequence[Span],
        sums: list[Tensor],
        own: Sequence[Tensor] | None,
        land: Callable[[Sequence[Tensor]], list[Tensor]] | None = None,
    ) -> None:
        """`own`: the rows that went in, where the layer uses them; `land`: what waits for others' rows, if any come."""
        self.spans, self.sums, self.land = spans, sums, land
        self.own: Sequence[Tensor | None] = [None] * len(spans) if own is None else own

    def made(
        self, make: Callable[[Tensor, Tensor | None, Span], Between], sending: Sending, *, others_first: bool
    ) -> tuple[list[Between], Any]:
        """The rows of all spans; `sending` sends those that others wait for. `others_first`: whether rows that lack
        nothing are made before others' are waited for."""
        made: dict[int, Between] = {}

        def add(chosen: Callable[[Span], bool]) -> None:
            for number, span in enumerate(self.spans):
                if chosen(span) and number not in made:
                    made[number] = make(self.sums[number], self.own[number], span)

        if others_first:
            add(lambda span: not span.remote)
        self._land()
        add(lambda span: span.boundary)
        first = [number for number, span in enumerate(self.spans) if span.boundary]
        sent, block = sending.send([made[number][1] for number in first])
        for number, summed in zip(first, sent, strict=True):
            rows, before = made[number]
            made[number] = (summed if rows is before else rows, summed)
        add(lambda span: True)
        return [made[number] for number in range(len(self.spans))], block

    def last(self, make: Callable[[Tensor, Tensor | None], Tensor]) -> list[Tensor]:
        """The rows of all spans of the last layer: first of those that lack nothing."""
        made = {
            number: make(self.sums[number], self.own[number])
            for number, span in enumerate(self.spans)
            if not span.remote
        }
        self._land()
        for number, span in enumerate(self.spans):
            if span.remote:
                made[number] = make(self.sums[number], self.own[number])
        return [made[number] for number in range(len(self.spans))]

    def _land(self) -> None:
        if self.land is not None:
            lacking = [number for number, span in enumerate(self.spans) if span.remote]
            for number, sums in zip(lacking, self.land([self.sums[number] for number in lacking]), strict=True):
                self.sums[number] = sums

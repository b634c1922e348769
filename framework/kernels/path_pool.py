"""Attention over paths that are pooled to one row each, with gradients; no number is held for a path and a column.

Assumptions: centre t has the paths offsets[t] to offsets[t + 1] of a table `nodes` [paths, steps]: the nodes of a path
without its centre, from the centre on. The row of a path is the mean or the maximum of its nodes' values, column by
column; of equal maxima the first along the path counts. What is held is of the sizes paths x heads and nodes x columns.
Two operators are each other's gradients: `sums` adds pooled rows up by centre, `dots` multiplies them by vectors.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.errors import InputError
from framework.kernels import check, native, segments
from framework.kernels.aggregate import spmm
from framework.kernels.attention import attention, edge_softmax
from framework.kernels.csr import CSR, row_of_entries, transpose


def path_attention(
    offsets: Tensor,
    nodes: Tensor,
    values: Tensor,
    source_scores: Tensor,
    centre_scores: Tensor,
    *,
    path_vector: Tensor | None = None,
    negative_slope: float = 0.2,
    path_scale: Tensor | None = None,
    transposed: CSR | None = None,
) -> Tensor:
    """Attention of each centre over its paths (Yang et al., "SPAGAN", IJCAI 2019): softmax times pooled rows.

    A path's score is leaky_relu(the mean of its nodes' source_scores + centre_scores[t]), each head apart: of a vector
    times a mean of rows, where source_scores are that vector times the rows. With such a `path_vector` [H, D] paths are
    pooled by the maximum instead, and it is leaky_relu(path_vector . pooled row + centre_scores[t]).
    `offsets` int64 [T + 1], `nodes` int32 or int64 [P, steps], `values` float32 or float64 [S, H, D], `source_scores`
    [S, H], `centre_scores` [T, H], `path_scale` [P, H] factors after the softmax (dropout). Returns [T, H, D]; a centre
    without paths has 0. Differentiable in values, scores and vector. `transposed` is `places(offsets, nodes, S)`,
    computed in the backward pass if it is not given. Raises InputError for a node outside [0, S)."""
    table = _Table.checked(offsets, nodes, values, maximum=path_vector is not None, given_places=transposed)
    if path_scale is not None:
        path_scale = check.features("path_scale", path_scale.detach(), (len(nodes), values.shape[1]), like=values)
    if nodes.shape[1] == 1:  # a pooled row is the node's: attention over edges, whose kernel is fused
        return attention(
            table.offsets, table.nodes.flatten(), values, source_scores, centre_scores,
            negative_slope=negative_slope, edge_scale=path_scale, transposed=transposed,
        )  # fmt: skip
    scores = _scores(table, values, source_scores, centre_scores, path_vector)
    weights = edge_softmax(table.offsets, torch.nn.functional.leaky_relu(scores, negative_slope))
    if path_scale is not None:
        weights = weights * path_scale
    out: Tensor = _Sums.apply(table, values.contiguous(), weights)  # type: ignore[no-untyped-call]
    return out


def path_attention_weights(
    offsets: Tensor,
    nodes: Tensor,
    values: Tensor,
    source_scores: Tensor,
    centre_scores: Tensor,
    *,
    path_vector: Tensor | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """The softmax that `path_attention` weighs paths with: [P, H], without gradient."""
    with torch.no_grad():
        table = _Table.checked(offsets, nodes, values, maximum=path_vector is not None, given_places=None)
        scores = _scores(table, values, source_scores, centre_scores, path_vector)
        return edge_softmax(table.offsets, torch.nn.functional.leaky_relu(scores, negative_slope))


def places(offsets: Tensor, nodes: Tensor, num_sources: int) -> CSR:
    """Where each source stands in a table of paths: rows are sources, entries centres, `edges` positions in the table.

    Raises InputError for a node outside [0, num_sources)."""
    return transpose(offsets * nodes.shape[1], nodes.flatten(), num_sources)


def _scores(
    table: "_Table", values: Tensor, source_scores: Tensor, centre_scores: Tensor, path_vector: Tensor | None
) -> Tensor:
    """Scores of paths before the leaky ReLU: [P, H]. Of means they are means, one number a node and head."""
    heads = values.shape[1]
    centre_scores = check.features("centre_scores", centre_scores, (len(table.offsets) - 1, heads), like=values)
    if path_vector is None:
        rows = check.features("source_scores", source_scores, (len(values), heads), like=values).unsqueeze(2)
        vectors = values.new_ones(1, heads, 1)
    else:
        rows = values.contiguous()
        vectors = check.features("path_vector", path_vector, tuple(values.shape[1:]), like=values)[None]
    scores: Tensor = _Dots.apply(table, rows, vectors, centre_scores)  # type: ignore[no-untyped-call]
    return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """Paths and how they are pooled: the matrix that both operators multiply by."""

    offsets: Tensor
    nodes: Tensor
    maximum: bool
    given_places: CSR | None

    @classmethod
    def checked(
        cls, offsets: Tensor, nodes: Tensor, values: Tensor, *, maximum: bool, given_places: CSR | None
    ) -> "_Table":
        """Raises InputError for shapes, types or nodes that do not fit together."""
        if nodes.dim() != 2 or nodes.shape[1] == 0:
            raise InputError(f"nodes is of shape {list(nodes.shape)}; expected [paths, steps] with a step at least.")
        check.index("nodes", nodes[:, 0])
        check.features("values", values, (None, None, None))
        check.below("nodes", nodes, len(values))
        offsets = check.pointers(offsets, len(nodes))
        return cls(offsets=offsets, nodes=nodes.contiguous(), maximum=maximum, given_places=given_places)

    def sums(self, values: Tensor, weights: Tensor) -> Tensor:
        """Pooled rows times their weights [P, H], added up by centre: [T, H, D]."""
        out = values.new_empty(len(self.offsets) - 1, *values.shape[1:])
        if self._compiled(values):
            self._call("path_sums", values, weights.contiguous(), out)
            return out
        for centres, paths in segments.chunks(self.offsets, _columns(values)):
            messages = self._pooled(values, paths) * weights[paths, :, None]
            out[centres] = _sums_of(self.offsets, centres, messages)
        return out

    def dots(self, values: Tensor, vectors: Tensor, added: Tensor | None) -> Tensor:
        """Pooled rows times the vectors [T or 1, H, D] of their centres, plus what is `added` [T, H]: [P, H]."""
        out = values.new_empty(len(self.nodes), values.shape[1])
        if self._compiled(values):
            added = None if added is None else added.contiguous()
            self._call("path_dots", values, vectors.contiguous(), _stride(vectors), added, out)
            return out
        for centres, paths in segments.chunks(self.offsets, _columns(values)):
            own = row_of_entries(_within(self.offsets, centres), paths.stop - paths.start)
            rows = vectors.expand(len(self.offsets) - 1, -1, -1)[centres][own]
            out[paths] = (self._pooled(values, paths) * rows).sum(2)
            if added is not None:
                out[paths] += added[centres][own]
        return out

    def spread(self, values: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
        """What values get of pooled rows whose gradients are weights [P, H] times vectors [T or 1, H, D]: [S, H, D]."""
        back = self.given_places or places(self.offsets, self.nodes, len(values))
        out = torch.empty_like(values)
        if self._compiled(values):
            where = (back.indptr, len(values), back.indices.int(), back.edges)
            self._call("path_spread", values, *where, weights.contiguous(), vectors.contiguous(), _stride(vectors), out)
            return out
        rows = vectors.expand(len(self.offsets) - 1, -1, -1)
        steps = self.nodes.shape[1]
        for sources, entries in segments.chunks(back.indptr, _columns(values)):
            path, step = back.edges[entries] // steps, back.edges[entries] % steps
            passed = weights[path, :, None] * rows[back.indices[entries]]
            passed = passed * self._first_maximum(values, path, step) if self.maximum else passed / steps
            out[sources] = _sums_of(back.indptr, sources, passed)
        return out

    def _compiled(self, values: Tensor) -> bool:
        return native.usable(self.offsets, values) and len(values) < 2**31

    def _call(self, name: str, values: Tensor, *others: native.Argument) -> None:
        """The C++ function `name`, on this table and `values`."""
        centres, steps = len(self.offsets) - 1, self.nodes.shape[1]
        table = (self.offsets, centres, self.nodes.int(), steps, self.maximum)
        native.call(native.typed(name, values), *table, values, *values.shape[1:], *others)

    def _pooled(self, values: Tensor, paths: slice) -> Tensor:
        """The rows of some paths: [paths, H, D]."""
        first, *others = self.nodes[paths].unbind(1)
        pooled = values[first]
        for step in others:
            coming = values[step]
            pooled = torch.where(coming > pooled, coming, pooled) if self.maximum else pooled + coming
        return pooled if self.maximum else pooled / self.nodes.shape[1]

    def _first_maximum(self, values: Tensor, path: Tensor, step: Tensor) -> Tensor:
        """Where values at a `step` of each `path` (int64 [n]) are its maximum, the first of several: bool [n, H, D]."""
        own = values[self.nodes[path, step]]
        first = torch.ones_like(own, dtype=torch.bool)
        for number in range(self.nodes.shape[1]):
            other = values[self.nodes[path, number]]
            first &= torch.where((number < step)[:, None, None], own > other, own >= other)
        return first


def _stride(vectors: Tensor) -> int:
    """Numbers from one centre's vector to the next one's; 0 where all have the same."""
    return 0 if len(vectors) == 1 else _columns(vectors)


def _columns(rows: Tensor) -> int:
    """Numbers in a row of [n, H, D]."""
    return rows.shape[1] * rows.shape[2]


def _within(offsets: Tensor, rows: slice) -> Tensor:
    """The pointers of a run of rows, from 0."""
    return offsets[rows.start : rows.stop + 1] - offsets[rows.start]


def _sums_of(offsets: Tensor, rows: slice, messages: Tensor) -> Tensor:
    """Sums of messages [entries, H, D] over each of a run of rows: [rows, H, D]."""
    return segments.segment_sum(_within(offsets, rows), messages.flatten(1)).view(-1, *messages.shape[1:])


class _Sums(torch.autograd.Function):
    """`_Table.sums`, differentiable in values and weights."""

    @staticmethod
    def forward(context: Any, table: _Table, values: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(values, weights)
        context.table = table
        return table.sums(values, weights)

    @staticmethod
    @once_differentiable  # by kernels, which autograd does not see: a second derivative would be a part of it
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weights = context.saved_tensors
        gradient = gradients[0].contiguous()
        needed = context.needs_input_grad
        value_gradient = context.table.spread(values, weights, gradient) if needed[1] else None
        weight_gradient = context.table.dots(values, gradient, None) if needed[2] else None
        return None, value_gradient, weight_gradient


class _Dots(torch.autograd.Function):
    """`_Table.dots` with one vector for all centres, differentiable in values, vector and what is added."""

    @staticmethod
    def forward(context: Any, table: _Table, values: Tensor, vectors: Tensor, added: Tensor) -> Tensor:
        context.save_for_backward(values, vectors)
        context.table = table
        return table.dots(values, vectors, added)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, vectors = context.saved_tensors
        gradient, table = gradients[0].contiguous(), context.table
        value_gradient = vector_gradient = added_gradient = None
        if context.needs_input_grad[1]:
            value_gradient = table.spread(values, gradient, vectors)
        if context.needs_input_grad[2]:
            vector_gradient = table.sums(values, gradient).sum(0, keepdim=True)
        if context.needs_input_grad[3]:
            added_gradient = spmm(table.offsets, torch.arange(len(gradient), device=gradient.device), gradient)
        return None, value_gradient, vector_gradient, added_gradient

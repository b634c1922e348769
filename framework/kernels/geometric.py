"""The spatial graph convolution's sums: rows of neighbours, gated by where the neighbours are; with gradients.

Assumptions: a gate is an affine map of a relative position, so cheap that it is made again wherever it is needed. What
is held at once is of the size targets x filters x channels, whatever the number of edges.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.kernels import check, native, segments
from framework.kernels.csr import CSR, row_of_entries, transpose

_BYTES = 64  # of a vector in C++: columns are padded to whole ones


def geometric_sum(
    indptr: Tensor,
    indices: Tensor,
    x: Tensor,
    positions: Tensor,
    filters: Tensor,
    biases: Tensor,
    weight: Tensor | None = None,
    *,
    target_positions: Tensor | None = None,
    transposed: CSR | None = None,
) -> Tensor:
    """`out[i, m] = sum of weight[e] * relu(biases[m] + filters[m]^T (p_j - p_i)) * x[j]` over the entries e of row i.

    j is the index of an entry. That is a spatial graph convolution before its linear map (Danel et al., "Spatial
    Graph Convolutional Networks", ICONIP 2020). `indptr` int64 [T + 1], `indices` int32 or int64 [E], `x` float32 or
    float64 [S, C]; of its type `positions` [S, D], `filters` [K, D, C], `biases` [K, C], `weight` [E] (None: 1) and
    `target_positions` [T, D] (None: the first T of `positions`). Returns [T, K * C], filter by filter; an empty row is
    0. Differentiable in all that is float. `transposed` is `transpose(indptr, indices, S)`, computed in the backward
    pass if it is not given. Raises InputError for shapes that do not fit and an index outside [0, S)."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    x = check.features("x", x, (None, None))
    check.below("indices", indices, len(x))
    positions = check.features("positions", positions, (len(x), None), like=x)
    biases = check.features("biases", biases, (None, x.shape[1]), like=x)
    filters = check.features("filters", filters, (len(biases), positions.shape[1], x.shape[1]), like=x)
    if target_positions is None:
        target_positions = positions[: len(indptr) - 1]
    target_positions = check.features("target_positions", target_positions, (len(indptr) - 1, positions.shape[1]), x)
    if weight is not None:
        weight = check.features("weight", weight, (len(indices),), like=x)
    parameters = torch.cat([biases.reshape(1, -1), filters.transpose(0, 1).reshape(positions.shape[1], -1)])
    columns, whole = parameters.shape[1], _BYTES // x.element_size()
    parameters = torch.nn.functional.pad(parameters, (0, -columns % whole))
    out: Tensor = _GeometricSum.apply(  # type: ignore[no-untyped-call]
        transposed, indptr, indices.int(), x, positions, target_positions, parameters, weight
    )
    return out[:, :columns] if columns < out.shape[1] else out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Gated:
    """The operands of a sum, checked; and what can be made of them in both ways."""

    indptr: Tensor
    indices: Tensor
    x: Tensor
    positions: Tensor
    target_positions: Tensor
    parameters: Tensor
    """[1 + dimensions, columns]: biases, then the filters of each dimension, filter by filter, padded with 0."""
    weight: Tensor | None

    @cached_property
    def native(self) -> bool:
        """Whether C++ can be called on it."""
        return native.usable(self.indptr, self.x) and len(self.x) < 2**31 and self.x.shape[1] > 0

    def call(self, name: str, *others: Tensor, back: CSR | None = None) -> None:
        """Call the C++ kernel `name` on the operands, by source where `back` is the transposed CSR, and `others`."""
        sizes = (self.positions.shape[1], self.parameters, self.x.shape[1], self.parameters.shape[1])
        matrix, edges, ends = (self.indptr, self.indices), None, (self.target_positions, self.positions)
        if back is not None:
            matrix, edges, ends = (back.indptr, back.indices.int()), back.edges, (self.positions, self.target_positions)
        rows = len(matrix[0]) - 1
        native.call(native.typed(name, self.x), matrix[0], rows, matrix[1], edges, self.weight, *ends, *sizes, *others)

    @cached_property
    def periodic(self) -> Tensor:
        """Rows of x, their channels over and over, one vector longer: a vector finds the channels of any column."""
        return self.x.index_select(1, self.channels(self.x.shape[1] + _BYTES // self.x.element_size()))

    def channels(self, columns: int) -> Tensor:
        """The channel of every column."""
        return torch.arange(columns, device=self.x.device) % max(1, self.x.shape[1])

    def parts(self) -> "Iterator[_Part]":
        """The entries with their gates, some rows at a time: what the twins go through."""
        channels = self.channels(self.parameters.shape[1])
        for rows, entries in segments.chunks(self.indptr, self.parameters.shape[1]):
            indptr = self.indptr[rows.start : rows.stop + 1] - self.indptr[rows.start]
            row = rows.start + row_of_entries(indptr, entries.stop - entries.start)
            source = self.indices[entries].long()
            offsets = self.positions[source] - self.target_positions[row]
            yield _Part(
                rows=rows,
                entries=entries,
                indptr=indptr,
                row=row,
                offsets=offsets,
                gates=torch.addmm(self.parameters[0], offsets, self.parameters[1:]),
                values=self.x[source][:, channels],
                weight=1 if self.weight is None else self.weight[entries, None],
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Some rows and their entries."""

    rows: slice
    entries: slice
    indptr: Tensor
    """Of the rows, from 0."""
    row: Tensor
    """[entries]."""
    offsets: Tensor
    """[entries, dimensions]."""
    gates: Tensor
    """[entries, columns], not yet rectified."""
    values: Tensor
    """[entries, columns]: x of the sources, once a filter."""
    weight: Tensor | int
    """[entries, 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _EdgeGradients:
    """Gradients by entry."""

    weight: Tensor
    """[entries]."""
    offsets: Tensor
    """[entries, dimensions]."""


def _sum(gated: _Gated) -> Tensor:
    out = gated.x.new_empty(len(gated.indptr) - 1, gated.parameters.shape[1])
    if gated.native:
        gated.call("geometric_sum", gated.periodic, out)
        return out
    for part in gated.parts():
        out[part.rows] = segments.segment_sum(part.indptr, part.gates.relu() * part.values * part.weight)
    return out


def _source_gradient(gated: _Gated, gradient: Tensor, back: CSR) -> Tensor:
    """Of x."""
    if gated.native:
        out = torch.empty_like(gated.x)
        gated.call("geometric_source_gradient", gradient, out, back=back)
        return out
    channels = gated.x.shape[1]
    filters = gradient.shape[1] // max(1, channels)
    by_edge = gated.x.new_empty(len(gated.indices), channels)
    for part in gated.parts():
        products = part.gates.relu() * gradient[part.row] * part.weight
        by_edge[part.entries] = products[:, : filters * channels].view(-1, filters, channels).sum(1)
    return segments.segment_sum(back.indptr, by_edge[back.edges])


def _parameter_gradient(gated: _Gated, gradient: Tensor) -> Tensor:
    if gated.native:
        out = torch.empty_like(gated.parameters)
        gated.call("geometric_parameter_gradient", gated.periodic, gradient, out)
        return out
    out = torch.zeros_like(gated.parameters)
    for part in gated.parts():
        slopes = (gradient[part.row] * part.values * part.weight).masked_fill_(part.gates <= 0, 0)
        out[0] += slopes.sum(0)
        out[1:].addmm_(part.offsets.t(), slopes)
    return out


def _edge_gradients(gated: _Gated, gradient: Tensor) -> _EdgeGradients:
    out = _EdgeGradients(
        weight=gated.x.new_empty(len(gated.indices)),
        offsets=gated.x.new_empty(len(gated.indices), gated.positions.shape[1]),
    )
    if gated.native:
        gated.call("geometric_edge_gradient", gated.periodic, gradient, out.weight, out.offsets)
        return out
    for part in gated.parts():
        products = gradient[part.row] * part.values
        out.weight[part.entries] = (products * part.gates.relu()).sum(1)
        slopes = (products * part.weight).masked_fill_(part.gates <= 0, 0)
        out.offsets[part.entries] = slopes @ gated.parameters[1:].t()
    return out


class _GeometricSum(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        transposed: CSR | None,
        *operands: Tensor | None,
    ) -> Tensor:
        context.save_for_backward(*operands)
        context.transposed = transposed
        return _sum(_gated(*operands))

    @staticmethod
    @once_differentiable  # by kernels, which autograd does not see: a second derivative would be a part of it
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gated, gradient = _gated(*context.saved_tensors), gradients[0].contiguous()
        wanted = context.needs_input_grad[3:]  # x, positions, target_positions, parameters, weight
        of_x, of_positions, of_targets, of_parameters, of_weight = (None,) * 5
        back = context.transposed
        if back is None and (wanted[0] or wanted[1]):
            back = transpose(gated.indptr, gated.indices, len(gated.x))
        if wanted[0]:
            of_x = _source_gradient(gated, gradient, back)
        if wanted[3]:
            of_parameters = _parameter_gradient(gated, gradient)
        if wanted[1] or wanted[2] or wanted[4]:
            by_edge = _edge_gradients(gated, gradient)
            of_weight = by_edge.weight if wanted[4] else None
            of_positions = segments.segment_sum(back.indptr, by_edge.offsets[back.edges]) if wanted[1] else None
            of_targets = -segments.segment_sum(gated.indptr, by_edge.offsets) if wanted[2] else None
        return None, None, None, of_x, of_positions, of_targets, of_parameters, of_weight


def _gated(*operands: Tensor | None) -> _Gated:
    names = (field.name for field in dataclasses.fields(_Gated))
    return _Gated(**dict(zip(names, operands, strict=True)))  # type: ignore[arg-type]

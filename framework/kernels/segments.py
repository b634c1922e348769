"""Sums over the rows of a CSR in plain torch: what the twins of the float kernels are made of.

Assumptions: rows are what `indptr` (int64 [rows + 1]) says. Everything runs on any device, and deterministically
(segment reductions, no atomic additions).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from framework.kernels.csr import row_of_entries

_ENTRIES_AT_ONCE = 1 << 22  # numbers held at once for the entries of a chunk of rows


def segment_sum(indptr: Tensor, values: Tensor) -> Tensor:
    """Sums of `values` [entries, ...] by row: [rows, ...], 0 for an empty row."""
    return _reduce(indptr, values, "sum", 0.0)


def segment_max(indptr: Tensor, values: Tensor) -> Tensor:
    """Maxima of `values` [entries, ...] by row: [rows, ...], minus infinity for an empty row."""
    return _reduce(indptr, values, "max", float("-inf"))


def _reduce(indptr: Tensor, values: Tensor, reduction: str, empty: float) -> Tensor:
    if len(values) == 0 or len(indptr) == 1 or values.numel() == 0:
        return values.new_full((len(indptr) - 1, *values.shape[1:]), empty)
    return torch.segment_reduce(values, reduction, offsets=indptr, axis=0, initial=empty, unsafe=True)


def weighted_sum(indptr: Tensor, indices: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
    """Row sums of `weight[e] * x[indices[e]]`: [rows, columns]; `weight` [entries] or None for 1."""
    sums = x.new_empty(len(indptr) - 1, x.shape[1])
    for rows, entries in chunks(indptr, x.shape[1]):
        messages = x[indices[entries]]
        if weight is not None:
            messages = messages * weight[entries, None]
        sums[rows] = segment_sum(indptr[rows.start : rows.stop + 1] - indptr[rows.start], messages)
    return sums


def row_dots(indptr: Tensor, indices: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a[row of e] . b[indices[e]]` for each entry e: [entries]."""
    dots = a.new_empty(len(indices))
    for rows, entries in chunks(indptr, a.shape[1]):
        part = indptr[rows.start : rows.stop + 1] - indptr[rows.start]
        row = row_of_entries(part, entries.stop - entries.start)
        dots[entries] = (a[rows][row] * b[indices[entries]]).sum(dim=1)
    return dots


def chunks(indptr: Tensor, width: int) -> Iterator[tuple[slice, slice]]:
    """Runs of whole rows, with their entries, of about as many entries of `width` numbers as are held at once."""
    num_rows = len(indptr) - 1
    goal = max(1, _ENTRIES_AT_ONCE // max(1, width))
    begin = 0
    while begin < num_rows:
        first = int(indptr[begin])
        end = int(torch.searchsorted(indptr, first + goal, right=True)) - 1
        end = min(num_rows, max(begin + 1, end))
        yield slice(begin, end), slice(first, int(indptr[end]))
        begin = end

"""Sampling of neighbours, relabelling of what was sampled, and copies of rows.

Assumptions: a row's key is its node's original id, so that a draw does not depend on where a node is stored; entries of
a row lie in the order of the CSR, which is that of original ids, so that positions mean the same everywhere.
"""

import dataclasses

import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels import check, native
from framework.kernels.csr import offsets
from framework.random import Key, philox


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
    """Some entries of some rows of a CSR."""

    indptr: Tensor
    """Where each sampled row begins and the last ends: int64 [rows + 1]."""
    indices: Tensor
    """The column of each sampled entry, in the type of the CSR's: [sampled]."""
    edges: Tensor
    """The position of each sampled entry in the CSR, increasing inside a row: int64 [sampled]."""


def sample_neighbors(indptr: Tensor, indices: Tensor, rows: Tensor, row_keys: Tensor, fanout: int, key: Key) -> Sampled:
    """Up to `fanout` entries of each row, uniformly and without replacement; all of them where fanout is -1.

    `indptr` int64 [nodes + 1], `indices` int32 or int64 [edges]; `rows` index [n], which may repeat; `row_keys` int64
    [n]: equal keys draw equal positions. Draw i of row key v is word 0 of Philox(key, (i, v low, v high, 0)); Floyd's
    algorithm (Bentley and Floyd, CACM 30(9), 1987) makes the sample of the draws, each scaled to its range by a
    product (a bias below degree / 2**32). Raises InputError for a row outside the CSR or a fanout below -1."""
    indptr, indices, rows, fanout = _checked(indptr, indices, rows, fanout)
    row_keys = check.long("row_keys", row_keys, len(rows))
    if not native.usable(indptr, indices, rows, row_keys):
        _require_rows(indptr, indices, rows)
        return _sample_neighbors_torch(indptr, indices, rows, row_keys, fanout, key)
    drawn = _room(indptr, indices, rows, fanout)
    name = native.typed("sample_fill", indices)
    native.call(
        name, indptr, indices, rows, row_keys, len(rows), key.value, drawn.indptr, drawn.indices, drawn.edges
    )  # fmt: skip
    return drawn


def sample_shared(indptr: Tensor, indices: Tensor, rows: Tensor, column_keys: Tensor, fanout: int, key: Key) -> Sampled:
    """Up to `fanout` entries of each row, those whose columns have the lowest draws; all of them where fanout is -1.

    As `sample_neighbors`, but a column has one draw for all rows: word 0 of Philox(key, (0, v low, v high, 0)), v its
    key. Of each row that is a uniform sample without replacement; rows with common columns choose the same of them.
    Entries of one column in one row (parallel edges) have one draw, too: the first in the row goes first.
    `column_keys` int64 [columns]. Raises InputError for a row or a column outside, or a fanout below -1."""
    indptr, indices, rows, fanout = _checked(indptr, indices, rows, fanout)
    column_keys = check.long("column_keys", column_keys)
    if not native.usable(indptr, indices, rows, column_keys):
        _require_rows(indptr, indices, rows)
        return _sample_shared_torch(indptr, indices, rows, column_keys, fanout, key)
    drawn = _room(indptr, indices, rows, fanout)
    bad = native.call(
        native.typed("sample_shared", indices), indptr, indices, rows, column_keys, len(column_keys), len(rows),
        key.value, drawn.indptr, drawn.indices, drawn.edges,
    )  # fmt: skip
    if bad:
        raise check.outside("indices", int(indices[bad - 1]), len(column_keys))
    return drawn


def _checked(indptr: Tensor, indices: Tensor, rows: Tensor, fanout: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """What both take. A batch draws for few of a shard's rows: only those are looked at, where they are drawn for."""
    if fanout < -1:
        raise InputError(f"fanout is {fanout}; expected a number of neighbours, or -1 for all of them.")
    indices = check.index("indices", indices)
    indptr, rows = check.ends(indptr, len(indices)), check.long("rows", rows)
    return indptr, indices, rows, min(fanout, len(indices))  # all the same: no row has more entries


def _require_rows(indptr: Tensor, indices: Tensor, rows: Tensor) -> None:
    """Raises InputError for a row outside the CSR, or a CSR whose rows end before they begin."""
    check.below("rows", rows, len(indptr) - 1)
    check.pointers(indptr, len(indices))


def _room(indptr: Tensor, indices: Tensor, rows: Tensor, fanout: int) -> Sampled:
    """A sample whose rows are as long as they will be; its entries are still to be written."""
    starts = torch.empty(len(rows) + 1, dtype=torch.int64, device="cpu")
    if native.call("sample_counts", indptr, len(indptr) - 1, len(indices), rows, len(rows), fanout, starts):
        _require_rows(indptr, indices, rows)
    total = int(starts[-1])
    columns, edges = (
        torch.empty(total, dtype=indices.dtype, device="cpu"),
        torch.empty(total, dtype=torch.int64, device="cpu"),
    )
    return Sampled(indptr=starts, indices=columns, edges=edges)


def _sample_neighbors_torch(
    indptr: Tensor, indices: Tensor, rows: Tensor, row_keys: Tensor, fanout: int, key: Key
) -> Sampled:
    begins = indptr[rows]
    degrees = indptr[rows + 1] - begins
    counts = degrees if fanout < 0 else degrees.clamp(max=fanout)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    row_of = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    offsets = torch.arange(len(row_of), device=rows.device) - starts[row_of]
    partial = counts < degrees
    if bool(partial.any()):
        offsets[partial[row_of]] = _floyd(degrees[partial], row_keys[partial], fanout, key).flatten()
    edges = begins[row_of] + offsets
    return Sampled(indptr=starts, indices=indices[edges], edges=edges)


def _sample_shared_torch(
    indptr: Tensor, indices: Tensor, rows: Tensor, column_keys: Tensor, fanout: int, key: Key
) -> Sampled:
    begins = indptr[rows]
    degrees = indptr[rows + 1] - begins
    counts = degrees if fanout < 0 else degrees.clamp(max=fanout)
    before = offsets(degrees)
    row_of = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), degrees)
    rank = torch.arange(len(row_of), device=rows.device) - before[row_of]
    entries = begins[row_of] + rank
    check.below("indices", indices[entries], len(column_keys))
    ids = column_keys[indices[entries].long()]
    draws = philox(key.value, (0, ids, ids >> 32, 0))[0]
    by_draw = torch.argsort(draws, stable=True)
    by_row = by_draw[torch.argsort(row_of[by_draw], stable=True)]  # row after row, the lowest draw first
    edges = entries[by_row[rank < counts[row_of]].sort().values]
    return Sampled(indptr=offsets(counts), indices=indices[edges], edges=edges)


def _floyd(sizes: Tensor, row_keys: Tensor, count: int, key: Key) -> Tensor:
    """`count` of the numbers below each of `sizes` ([n], each above `count`), sorted: int64 [n, count]."""
    draws = philox(
        key.value, (torch.arange(count, device=sizes.device), row_keys[:, None], row_keys[:, None] >> 32, 0)
    )[0]
    chosen = torch.empty_like(draws)
    for i in range(count):
        last = sizes - count + i
        drawn = draws[:, i] * (last + 1) >> 32
        taken = (chosen[:, :i] == drawn[:, None]).any(dim=1)
        chosen[:, i] = torch.where(taken, last, drawn)
    return chosen.sort(dim=1).values


def unique_relabel(first: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`first`, then the ids of `rest` that it lacks in the order they first occur; and where each of `rest` is in that.

    `first` index [a], distinct; `rest` index [b]. Returns the ids [u] (int32 if both are), positions int32 [b], and
    where in `rest` each id that `first` lacks occurs first, int64 [u - a]."""
    first, rest = check.index("first", first), check.index("rest", rest)
    dtype = torch.promote_types(first.dtype, rest.dtype)
    if len(first) + len(rest) >= 2**31:
        raise InputError(f"{len(first) + len(rest)} ids are too many to relabel at once; expected fewer than 2**31.")
    if not native.usable(first, rest):
        return _unique_relabel_torch(first.to(dtype), rest.to(dtype))
    unique = torch.empty(len(first) + len(rest), dtype=dtype, device="cpu")
    unique[: len(first)] = first
    rest = rest.to(dtype)
    positions, occurs = (
        torch.empty(len(rest), dtype=torch.int32, device="cpu"),
        torch.empty(len(rest), dtype=torch.int64, device="cpu"),
    )
    name = native.typed("unique_relabel", unique)
    size = native.call(name, len(first), rest, len(rest), unique, positions, occurs)
    return _cut(unique, size), positions, _cut(occurs, size - len(first))


def _cut(tensor: Tensor, size: int) -> Tensor:
    """The first `size` entries, without the memory of the others where those are more."""
    return tensor[:size].clone() if 2 * size < len(tensor) else tensor[:size]


def _unique_relabel_torch(first: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ids, group = torch.unique(torch.cat([first, rest]), return_inverse=True)
    by_group = torch.argsort(group, stable=True)
    sizes = torch.bincount(group, minlength=len(ids))
    occurrence = by_group[sizes.cumsum(0) - sizes]  # where each id occurs first
    added = (occurrence >= len(first)).nonzero().flatten()
    added = added[torch.argsort(occurrence[added])]
    position = occurrence.clone()
    position[added] = torch.arange(len(first), len(first) + len(added), device=first.device)
    positions = position[group[len(first) :]].to(torch.int32)
    return torch.cat([first, ids[added]]), positions, occurrence[added] - len(first)


def gather_rows(source: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """`source[rows]` as a copy of bytes, into `out` where given. Without gradient.

    `source` [N, ...] of any type, read-only memory too; `rows` index [n]; `out` [n, ...] contiguous, of the same type.
    Raises InputError for a row outside, or an `out` that does not fit."""
    rows = check.long("rows", rows)
    shape = (len(rows), *source.shape[1:])
    if torch.is_grad_enabled() and source.requires_grad:
        raise InputError("source requires a gradient, which gather_rows does not pass on: index it, or detach it.")
    given = out is not None
    if out is None:
        out = torch.empty(shape, dtype=source.dtype, device=source.device)
    elif out.shape != shape or out.dtype != source.dtype or not out.is_contiguous():
        raise InputError(f"out is {out.dtype} {list(out.shape)}; expected contiguous {source.dtype} {list(shape)}.")
    check.below("rows", rows, len(source))
    if native.usable(source, rows, out) and source.is_contiguous():
        native.call("gather_rows", source, rows, len(rows), _row_bytes(source), out)
        if given:
            torch.autograd.graph.increment_version(out)  # as torch does, for whoever has kept `out` as it was
    else:
        torch.index_select(source, 0, rows, out=out)
    return out


def scatter_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """`out[rows] = values` as a copy of bytes. Without gradient.

    `out` [N, ...] contiguous; `rows` index [n], distinct; `values` [n, ...] of the type of `out`. Raises InputError for
    a row outside, or values that do not fit."""
    rows = check.long("rows", rows)
    if values.shape != (len(rows), *out.shape[1:]) or values.dtype != out.dtype or not out.is_contiguous():
        raise InputError(
            f"values is {values.dtype} {list(values.shape)}; expected {out.dtype} {[len(rows), *out.shape[1:]]}, "
            "and out contiguous."
        )
    check.below("rows", rows, len(out))
    if native.usable(out, rows, values):
        native.call("scatter_rows", out, rows, len(rows), _row_bytes(out), values.contiguous())
        torch.autograd.graph.increment_version(out)
    else:
        out[rows] = values


def _row_bytes(source: Tensor) -> int:
    return source[:1].numel() * source.element_size() if len(source) else 0

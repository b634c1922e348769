"""Edge lists to in-edge CSR: rows are targets, entries are sources; the transpose; degrees.

Assumptions: ids are dense, from 0. A CSR keeps for every entry where it came from (`edges`), so that edge columns
follow by one gather.
"""

import dataclasses

import torch
from torch import Tensor

from framework.kernels import check, native


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSR:
    """A sparse matrix by rows."""

    indptr: Tensor
    """Where each row begins and the last ends: int64 [rows + 1]."""
    indices: Tensor
    """The column of each entry: int32 or int64 [entries]."""
    edges: Tensor
    """The position each entry had in the input it was built from: int64 [entries]."""

    def to(self, device: torch.device) -> "CSR":
        """The same matrix on `device`."""
        return CSR(indptr=self.indptr.to(device), indices=self.indices.to(device), edges=self.edges.to(device))


def build_csr(targets: Tensor, sources: Tensor, num_targets: int, *, order: Tensor | None = None) -> CSR:
    """The in-edge CSR of the edges `sources[i] -> targets[i]`.

    `targets` int64 [edges]; `sources` int32 or int64 [edges], whose type `indices` has. Inside a row entries are sorted
    by `order[source]` (`order`: int64 [source ids]; None: by source), equal ones by input position. Raises InputError
    for a target outside [0, num_targets) or a source that `order` does not have."""
    targets = check.long("targets", targets)
    sources = check.index("sources", sources, len(targets))
    check.count("num_targets", num_targets)
    if order is not None:
        order = check.long("order", order)
        check.below("sources", sources, len(order))
    if not native.usable(targets, sources, order):
        return _build_csr_torch(targets, sources, num_targets, order)
    indptr = torch.empty(num_targets + 1, dtype=torch.int64, device="cpu")
    indices, edges = torch.empty_like(sources), torch.empty_like(targets)
    name = native.typed("build_csr", sources)
    bad = native.call(name, targets, sources, order, len(targets), num_targets, indptr, indices, edges)
    if bad:
        raise check.outside("targets", int(targets[bad - 1]), num_targets)
    return CSR(indptr=indptr, indices=indices, edges=edges)


def _build_csr_torch(targets: Tensor, sources: Tensor, num_targets: int, order: Tensor | None) -> CSR:
    check.below("targets", targets, num_targets)
    by_source = torch.argsort(sources if order is None else order[sources], stable=True)
    edges = by_source[torch.argsort(targets[by_source], stable=True)]
    return CSR(indptr=offsets(torch.bincount(targets, minlength=num_targets)), indices=sources[edges], edges=edges)


def transpose(indptr: Tensor, indices: Tensor, num_columns: int) -> CSR:
    """The CSR of the transposed matrix; `edges` are positions in `indices`, increasing inside a row.

    `indptr` int64 [rows + 1], `indices` int32 or int64 [entries] in [0, num_columns). The result's `indices` are rows
    of the input, int32 where they fit. Raises InputError for an index outside [0, num_columns)."""
    indices = check.index("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    check.count("num_columns", num_columns)
    num_rows = len(indptr) - 1
    row_type = torch.int32 if num_rows < 2**31 else torch.int64
    if not native.usable(indptr, indices):
        check.below("indices", indices, num_columns)
        edges = torch.argsort(indices, stable=True)
        rows = row_of_entries(indptr, len(indices)).to(row_type)
        return CSR(indptr=offsets(torch.bincount(indices, minlength=num_columns)), indices=rows[edges], edges=edges)
    scratch = torch.empty(len(indices), dtype=row_type, device="cpu")
    rows = torch.empty_like(scratch)
    starts = torch.empty(num_columns + 1, dtype=torch.int64, device="cpu")
    edges = torch.empty(len(indices), dtype=torch.int64, device="cpu")
    name = native.typed("transpose", indices, rows)
    bad = native.call(name, indptr, indices, num_rows, num_columns, scratch, starts, rows, edges)
    if bad:
        raise check.outside("indices", int(indices[bad - 1]), num_columns)
    return CSR(indptr=starts, indices=rows, edges=edges)


def degrees(ids: Tensor, num_nodes: int) -> Tensor:
    """How often each node occurs in `ids` (int32 or int64 [any]): int64 [num_nodes].

    Raises InputError for an id outside [0, num_nodes)."""
    ids = check.index("ids", ids)
    check.count("num_nodes", num_nodes)
    if not native.usable(ids):
        check.below("ids", ids, num_nodes)
        return torch.bincount(ids, minlength=num_nodes)
    counts = torch.empty(num_nodes, dtype=torch.int64, device="cpu")
    bad = native.call(native.typed("degrees", ids), ids, len(ids), num_nodes, counts)
    if bad:
        raise check.outside("ids", int(ids[bad - 1]), num_nodes)
    return counts


def row_of_entries(indptr: Tensor, num_entries: int) -> Tensor:
    """The row of each entry of a CSR: int64 [num_entries]."""
    rows = torch.arange(len(indptr) - 1, device=indptr.device)
    return torch.repeat_interleave(rows, indptr.diff(), output_size=num_entries)


def offsets(counts: Tensor) -> Tensor:
    """The `indptr` of rows with `counts` entries (int64 or bool [rows]): int64 [rows + 1]."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts

"""Induced subgraphs: all edges of a graph among the members of many small sets of its nodes.

Assumptions: every set is sorted and has a node once, every row of the CSR is sorted and may have an entry several times
(parallel edges); so two lists are compared in one walk. Nodes are numbers in an order of the caller's, mostly a rank.
"""

import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels import check, native
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.sample import Sampled
from framework.kernels.segments import chunks


def induced_edges(starts: Tensor, members: Tensor, indptr: Tensor, indices: Tensor) -> Sampled:
    """For every member of every set, the entries of its row that are in the same set, in the row's order.

    `starts` int64 [sets + 1] says where each set begins in `members`, index [pairs]; `indptr` int64 [nodes + 1] and
    `indices` index [edges] are the graph. A row of the result is a pair of set and member: its `indices` (int32) are
    places in `members`, its `edges` places in the graph's. A member's row may be far longer than its set, or shorter:
    the shorter is walked. Raises InputError for a node outside, or more pairs than fit int32."""
    members, indices = check.index("members", members), check.index("indices", indices)
    starts, indptr = check.pointers(starts, len(members)), check.pointers(indptr, len(indices))
    nodes = len(indptr) - 1
    check.below("members", members, nodes)
    check.below("indices", indices, nodes)
    if len(members) >= 2**31:
        raise InputError(f"{len(members)} members are too many for one call; expected fewer than 2**31.")
    dtype = torch.promote_types(members.dtype, indices.dtype)
    members, indices = members.to(dtype), indices.to(dtype)
    if not native.usable(starts, members, indptr, indices):
        return _induced_edges_torch(starts, members, indptr, indices)
    counts, sets = torch.empty(len(members), dtype=torch.int64, device="cpu"), len(starts) - 1
    native.call(native.typed("induced_counts", members), starts, sets, members, indptr, indices, counts)
    rows = offsets(counts)
    found, edges = (torch.empty(int(rows[-1]), dtype=kind, device="cpu") for kind in (torch.int32, torch.int64))
    name = native.typed("induced_fill", members)
    native.call(name, starts, sets, members, indptr, indices, rows, found, edges)
    return Sampled(indptr=rows, indices=found, edges=edges)


def _induced_edges_torch(starts: Tensor, members: Tensor, indptr: Tensor, indices: Tensor) -> Sampled:
    """Looks every entry of every member's row up, so many at a time; the members in turn are sorted by set and node."""
    nodes, members = max(1, len(indptr) - 1), members.long()
    sets = row_of_entries(starts, len(members))
    known = sets * nodes + members
    begins = indptr[members]
    walked = offsets(indptr[members + 1] - begins)
    counts = torch.zeros_like(members)
    found, edges = [indices.new_empty(0, dtype=torch.int32)], [indptr.new_empty(0)]
    for pairs, entries in chunks(walked, 1):
        part = walked[pairs.start : pairs.stop + 1] - entries.start
        row = row_of_entries(part, entries.stop - entries.start) + pairs.start
        here = torch.arange(entries.start, entries.stop, device=row.device) - walked[row] + begins[row]
        wanted = sets[row] * nodes + indices[here]
        place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        hit = known[place] == wanted
        counts[pairs] = torch.bincount(row[hit] - pairs.start, minlength=pairs.stop - pairs.start)
        found.append(place[hit].to(torch.int32))
        edges.append(here[hit])
    return Sampled(indptr=offsets(counts), indices=torch.cat(found), edges=torch.cat(edges))

"""What edges cost a path: little where attention is strong (Yang et al., "SPAGAN", IJCAI 2019).

Assumptions: edges are a CSR of a block or a whole graph, whose row i lists the nodes that i attends to; target i is
source i. Attention is a positive number an edge, the mean over heads. An edge costs 1 - attention / greatest attention:
dividing by the greatest of all is the step of the authors' released code, and the paper has the attention itself.
"""

import torch
from torch import Tensor

from framework.errors import InputError
from framework.graph.path_block import BlockPaths
from framework.kernels.csr import row_of_entries

LEAST = 1e-9  # what the strongest edge costs: a sparse library may take an explicit 0 for no edge


def greatest_attention(attention: Tensor, indptr: Tensor, indices: Tensor) -> float:
    """The greatest attention of an edge between two nodes; 0 where there is none.

    `attention` float [edges]. Of a graph on several workers the greatest of their answers is to be taken."""
    between = attention[indices != row_of_entries(indptr, len(indices))]
    return float(between.max()) if len(between) else 0.0


def edge_costs(attention: Tensor, indptr: Tensor, indices: Tensor, *, greatest: float | None = None) -> Tensor:
    """Costs of edges by attention: [edges], of its type, from 1e-9 to 1; self-loops, on no shortest path, cost 1.

    `attention` float [edges]; `indptr` int64 [rows + 1], `indices` int [edges]. `greatest`: `greatest_attention` of the
    whole graph, where these are not all its edges. Raises InputError for attention that is negative or no number."""
    _require_positive(attention, len(indices))
    if greatest is None:
        greatest = greatest_attention(attention, indptr, indices)
    loops = indices == row_of_entries(indptr, len(indices))
    return _costs(attention, greatest).masked_fill(loops, 1.0)


def refreshed_costs(
    costs: Tensor,
    indptr: Tensor,
    indices: Tensor,
    paths: BlockPaths,
    attention: Tensor,
    *,
    greatest: float | None = None,
) -> Tensor:
    """Costs after a stage of path attention: [edges]. An edge that was a path of two nodes is counted anew.

    Other edges, which a detour was cheaper than, have no attention of their own and keep their `costs` [edges]; so do
    self-loops. `attention` float [paths] is that of `paths`, whose self paths are left out. `greatest`: that of all
    workers, by `greatest_attention` of the paths. Raises InputError as `edge_costs` does, and for longer paths."""
    if paths.steps != 1:
        raise InputError(f"paths are of {paths.steps + 1} nodes; expected those of 2, which are edges.")
    _require_positive(attention, len(paths.nodes))
    ends = paths.nodes.flatten().long()
    if greatest is None:
        greatest = greatest_attention(attention, paths.offsets, ends)
    rows, sources = row_of_entries(indptr, len(indices)), len(paths.original)
    named, order = torch.sort(paths.centres * sources + ends)
    wanted = rows * sources + indices
    place = torch.searchsorted(named, wanted).clamp(max=len(named) - 1)
    if len(named) == 0:
        return costs.clone()
    found = (named[place] == wanted) & (indices != rows)
    return torch.where(found, _costs(attention, greatest)[order[place]].to(costs.dtype), costs)


def _costs(attention: Tensor, greatest: float) -> Tensor:
    return (1 - attention / greatest if greatest > 0 else torch.ones_like(attention)).clamp(LEAST, 1.0)


def _require_positive(attention: Tensor, entries: int) -> None:
    if attention.shape != (entries,) or not bool((attention >= 0).all()):
        raise InputError(
            f"attention is {list(attention.shape)}, with negative numbers or NaN or of another size; expected "
            f"[{entries}] numbers of at least 0."
        )

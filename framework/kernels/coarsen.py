"""Coarsening of graphs: greedy matching of neighbours, and the edges between clusters of nodes.

Assumptions: the CSRs are int64, of one set of nodes on both sides. Nothing here is differentiable.
"""

import torch
from torch import Tensor

from framework.kernels import check, native, segments
from framework.kernels.csr import CSR, build_csr, offsets, row_of_entries


def greedy_matching(indptr: Tensor, indices: Tensor, scores: Tensor, order: Tensor) -> Tensor:
    """Pairs of neighbours: in `order`, each node that is free takes its free neighbour of the highest score.

    `indptr` [n + 1], `indices` [e], `scores` float64 [e], `order` int64 [n], a permutation of the nodes. Of equal
    scores the first in the row counts; a node is no neighbour of its own. Returns int64 [n]: the lower node of the pair
    that a node is in, itself where it is in none."""
    indices = check.long("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    nodes = len(indptr) - 1
    scores = check.features("scores", scores, (len(indices),), like=torch.empty(0, dtype=torch.float64))
    order = check.long("order", order, nodes)
    check.below("indices", indices, nodes)
    check.below("order", order, nodes)
    if not native.usable(indptr, indices, scores, order):
        return _greedy_matching_torch(indptr, indices, scores, order)
    cluster = torch.empty_like(order)
    native.call("greedy_matching", indptr, indices, scores, order, nodes, cluster)
    return cluster


def _greedy_matching_torch(indptr: Tensor, indices: Tensor, scores: Tensor, order: Tensor) -> Tensor:
    starts, others, score = indptr.tolist(), indices.tolist(), scores.tolist()
    cluster = [-1] * len(order)
    for node in order.tolist():
        if cluster[node] < 0:
            row = range(starts[node], starts[node + 1])
            free = [e for e in row if others[e] != node and cluster[others[e]] < 0]
            other = others[max(free, key=lambda e: score[e])] if free else node
            cluster[node] = cluster[other] = min(node, other)
    return torch.tensor(cluster, dtype=torch.int64, device=order.device)


def coarse_edges(
    indptr: Tensor, indices: Tensor, weight: Tensor | None, cluster: Tensor, members: CSR
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The edges between clusters: every two once, without loops, neighbours ascending, their weights added up.

    `indptr` [n + 1], `indices` [e], `weight` float32 or float64 [e] or None; `cluster` int64 [n], 0 to m - 1; `members`
    the nodes of each cluster. Returns the same three of the coarse graph."""
    indices = check.long("indices", indices)
    indptr = check.pointers(indptr, len(indices))
    cluster = check.long("cluster", cluster, len(indptr) - 1)
    check.below("indices", indices, len(cluster))
    clusters = len(members.indptr) - 1
    check.below("cluster", cluster, clusters)
    nodes = check.long("members", members.indices, len(cluster))
    starts = check.pointers(members.indptr, len(cluster))
    check.below("members", nodes, len(cluster))
    if weight is not None:
        weight = check.features("weight", weight.detach(), (len(indices),))
    if not native.usable(indptr, indices, weight, cluster):
        return _coarse_edges_torch(indptr, indices, weight, cluster, clusters)
    out_indptr, out_indices = indptr.new_empty(clusters + 1), torch.empty_like(indices)
    out_weight = None if weight is None else torch.empty_like(weight)
    native.call(
        native.typed("coarse_edges", torch.empty(0, dtype=torch.float32) if weight is None else weight),
        indptr, indices, weight, cluster, starts, nodes, clusters,
        out_indptr, out_indices, out_weight,
    )  # fmt: skip
    count = int(out_indptr[-1])
    return out_indptr, out_indices[:count].clone(), None if out_weight is None else out_weight[:count].clone()


def _coarse_edges_torch(
    indptr: Tensor, indices: Tensor, weight: Tensor | None, cluster: Tensor, clusters: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, columns = cluster[row_of_entries(indptr, len(indices))], cluster[indices]
    apart = rows != columns
    pairs, which = torch.unique(rows[apart] * clusters + columns[apart], return_inverse=True)
    starts = offsets(torch.bincount(pairs // max(1, clusters), minlength=clusters))
    if weight is None:
        return starts, pairs % max(1, clusters), None
    entries = build_csr(which, torch.arange(len(which), device=which.device), len(pairs))
    return starts, pairs % max(1, clusters), segments.segment_sum(entries.indptr, weight[apart][entries.indices])

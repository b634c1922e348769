"""In-neighbours that lie in several shards, or with other workers, as one CSR over the nodes they were asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.graph.block import Nodes
from framework.kernels.csr import offsets
from framework.sample.sampler import Drawn, Neighbors


def joined(several: list[Neighbors], weighted: bool = False) -> Neighbors:
    """The rows of several CSRs, one after the other. `weighted`: whether edges have weights, where there is none."""
    if len(several) == 1:
        return several[0]
    if not several:
        nothing = torch.empty(0, dtype=torch.float32) if weighted else None
        return Neighbors(indptr=torch.zeros(1, dtype=torch.int64), sources=Nodes.none(), edge_weights=nothing)
    counts = torch.cat([neighbors.indptr.diff() for neighbors in several])
    weights = [neighbors.edge_weights for neighbors in several if neighbors.edge_weights is not None]
    chances = [neighbors.chances for neighbors in several if neighbors.chances is not None]
    return Neighbors(
        indptr=offsets(counts),
        sources=_one_after_the_other([neighbors.sources for neighbors in several]),
        edge_weights=torch.cat(weights) if weights else None,
        chances=torch.cat(chances) if chances else None,
    )


def _one_after_the_other(several: Sequence[Nodes | Drawn]) -> Drawn:
    ends = torch.tensor([len(drawn) for drawn in several]).cumsum(0)

    def describe(chosen: Tensor) -> Nodes:
        which = torch.searchsorted(ends, chosen, right=True)
        by_piece = torch.argsort(which, stable=True)
        counts = torch.bincount(which, minlength=len(several)).tolist()
        found = [
            drawn[run - (int(end) - len(drawn))]
            for drawn, end, run in zip(several, ends, chosen[by_piece].split_with_sizes(counts), strict=True)
        ]
        back = torch.empty_like(by_piece)
        back[by_piece] = torch.arange(len(by_piece))
        return Nodes.concatenate(found)[back]

    return Drawn(ids=torch.cat([drawn.ids for drawn in several]), describe=describe)


def restored(sorted_rows: Neighbors, order: Tensor) -> Neighbors:
    """Row i of the argument becomes row order[i]."""
    if torch.equal(order, torch.arange(len(order))):
        return sorted_rows
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    return rows_at(sorted_rows, position)


def rows_at(neighbors: Neighbors, position: Tensor) -> Neighbors:
    """Row position[i] of the argument becomes row i; some may be left out, and some may be there several times."""
    counts = neighbors.indptr.diff()[position]
    indptr = offsets(counts)
    shift = neighbors.indptr[:-1][position] - indptr[:-1]
    edges = torch.arange(int(indptr[-1])) + torch.repeat_interleave(shift, counts)
    weights, chances, sources = neighbors.edge_weights, neighbors.chances, neighbors.sources
    return Neighbors(
        indptr=indptr,
        sources=Drawn(ids=sources.ids[edges], describe=lambda chosen: sources[edges[chosen]]),
        edge_weights=None if weights is None else weights[edges],
        chances=None if chances is None else chances[edges],
    )


def exchanged(group: Group, answer: Neighbors, asked: list[int], counts: list[int]) -> Neighbors:
    """Sends every worker the rows that it has asked for, and gives those that this one has.

    `answer`: as many rows as `asked`, grouped by who has; `counts`: those asked of every worker. All call together."""
    degrees = group.exchange(answer.indptr.diff(), asked, counts, "frontier")
    drawn = [int(run.sum()) for run in answer.indptr.diff().split_with_sizes(asked)]
    coming = [int(run.sum()) for run in degrees.split_with_sizes(counts)]
    sources = answer.sources
    rows = torch.stack([sources.ids, sources.original, sources.degree], dim=1)
    rows = group.exchange(rows, drawn, coming, "frontier")
    columns = [
        None if column is None else group.exchange(column, drawn, coming, "frontier")
        for column in (answer.edge_weights, answer.chances)
    ]
    ids, original, degree = rows.unbind(1)
    return Neighbors(
        indptr=offsets(degrees),
        sources=Nodes(ids=ids.contiguous(), original=original.contiguous(), degree=degree.contiguous()),
        edge_weights=columns[0],
        chances=columns[1],
    )

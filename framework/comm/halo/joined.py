"""Attention on a vertex-cut: what workers have for a node from edges of theirs, joined by softmaxes of their totals."""

import dataclasses

import torch
from torch import Tensor

from framework.comm.halo import partials
from framework.comm.halo.block import Wire
from framework.comm.halo.plan import HaloPlan
from framework.kernels.attention import join_attention, partial_attention


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What all workers have for the boundary nodes: the owners' own, then what came of mirrors."""

    answers: Tensor
    """[boundary + sent, heads, columns]."""
    totals: Tensor
    """Log-sum-exps of the scores they are made of: [boundary + sent, heads]; minus infinity where there is no edge."""


def gathered(partial: Tensor, totals: Tensor, wire: Wire, layer: int) -> Parts:
    """[n + h, heads, columns] and [n + h, heads] of a worker's edges: those of mirrors go to owners. Differentiable."""
    plan, owned = wire.plan, wire.plan.num_owned
    heads, columns = partial.shape[1:]
    # A mirror without an edge, and one whose row the strategy does not let come, is 0 in all columns on the wire.
    met = totals[owned:] != -torch.inf
    rows = [partial[owned:].flatten(1), totals[owned:].where(met, 0), met[:, :1].to(totals.dtype)]
    copies = partials.gathered(torch.cat(rows, dim=1), plan, wire.exchange, layer)
    others, other_totals, came = copies.split_with_sizes([heads * columns, heads, 1], dim=1)
    return Parts(
        answers=torch.cat([partial[plan.boundary], others.reshape(-1, heads, columns)]),
        totals=torch.cat([totals[plan.boundary], other_totals.where(came > 0.5, -torch.inf)]),
    )


def by_owners(partial: Tensor, parts: Parts, plan: HaloPlan) -> Tensor:
    """The owned nodes' attention over all their edges: [n, heads, columns]."""
    joining, transposed = plan.joining
    joined = join_attention(joining.indptr, joining.indices, parts.answers, parts.totals, transposed=transposed)
    return partial[: plan.num_owned].index_copy(0, plan.boundary, joined)


def by_mirrors(partial: Tensor, totals: Tensor, parts: Parts, wire: Wire, layer: int) -> Tensor:
    """The mirrors' attention over all edges of their nodes: their own answers, and those of all others, which owners
    join and send: [h, heads, columns]. Differentiable."""
    plan, owned = wire.plan, wire.plan.num_owned
    heads, columns = partial.shape[1:]
    siblings, transposed = plan.siblings
    others, other_totals = partial_attention(
        siblings.indptr,
        siblings.indices,
        parts.answers,
        parts.totals,
        parts.totals.new_zeros(sum(plan.sent), heads),
        negative_slope=1.0,
        transposed=transposed,
    )
    came = partials.scattered(torch.cat([others.flatten(1), other_totals], dim=1), wire.exchange, layer)
    flat, other_totals = came.split_with_sizes([heads * columns, heads], dim=1)
    own = torch.arange(plan.num_halo, dtype=torch.int32, device=partial.device)
    return join_attention(  # of each mirror two: its own answer, and what came
        torch.arange(0, 2 * len(own) + 1, 2, device=partial.device),
        torch.stack([own, own + len(own)], dim=1).flatten(),
        torch.cat([partial[owned:], flat.reshape(-1, heads, columns)]),
        torch.cat([totals[owned:], other_totals]),
    )

"""Chances of candidates to be drawn, so that about a budget of them is: the formula of layer-wise sampling.

Zou, Hu, Wang, Jiang, Sun, Gu, "Layer-dependent importance sampling for training deep and large graph convolutional
networks" (LADIES), NeurIPS 2019: a candidate u is drawn with a chance that grows with w_u, the sum over edges u -> v
into the frontier of 1 / d_v^2, d_v the in-edges of v: the squared norm of u's column in the matrix of means over
neighbours. Balin, Catalyurek, "Layer-neighbor sampling", NeurIPS 2023, draw each by a coin of its own (PLADIES), with
the chance min(1, c w_u), c such that the chances add up to the budget.

Sums of floats depend on their order, and the order on who holds which edges. So w_u is a sum of whole numbers, 2^40 /
d_v^2 rounded, at least 1: exact in any order. Rounding makes a chance other than the formula's by 2e-10 of it at 20
in-edges and by 2e-6 at 2,000, and nodes with more than a million count as if they had a million; estimates divide by
the chances that nodes are drawn with, so that none is off. The numbers of one node's in-edges add up to 2^40 at most,
and so those of fewer than 2^22 (4,194,304) nodes fit 63 bits. An edge that the graph has twice counts twice.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from framework.errors import InputError
from framework.kernels.csr import offsets, transpose

ONE = 1 << 40
"""What 1 is as one of these numbers."""
MOST = 1 << 22
"""Nodes in a frontier, over all workers, from which on sums might not fit."""


def edge_numbers(degree: Tensor) -> Tensor:
    """What an edge to a node of so many in-edges adds to its source: int64 [n] -> int64 [n]."""
    return (ONE / degree.clamp(min=1).double().square()).round().clamp(min=1).long()


def summed(places: Tensor, numbers: Tensor, size: int) -> Tensor:
    """The sum of the numbers (int64 [n]) of each place (index [n], below `size`): int64 [size]."""
    ends = torch.tensor([0, len(places)])
    by_place = transpose(ends, places, size)
    return offsets(numbers[by_place.edges])[by_place.indptr].diff()


def chances(numbers: Tensor, frontier: int, budget: int, added: Callable[[Tensor], Tensor]) -> Tensor:
    """The chance of each of this worker's candidates: float64 [n], 1 for all where they are no more than `budget`.

    `numbers`: int64 [n], positive; `frontier`: how many nodes of the frontier this worker owns; `added`: sums of int64
    [m] over all workers, which all call this together, each of them as often. Those that come to 1 are taken out, and
    the others share what is left, so that more may; this ends for at the latest all of the budget is taken out, and
    mostly after 2 to 7 sums. Raises InputError, on all workers, for a frontier of 2^22 nodes or more."""
    facts = torch.stack([torch.tensor(frontier), torch.tensor(len(numbers)), numbers.sum()])
    nodes, candidates, left = added(facts).tolist()
    if nodes >= MOST:
        raise InputError(
            f"a hop begins at {nodes} nodes, and drawing neighbours for all of them together is exact for fewer than "
            f"{MOST}; take a smaller --batch-size or smaller budgets, or --sampler labor."
        )
    if candidates <= budget:
        return torch.ones(len(numbers), dtype=torch.float64)
    taken = 0
    while True:
        certain = numbers >= -(-left // (budget - taken))  # c times it is at least 1
        now, rest = added(torch.stack([certain.sum(), numbers[~certain].sum()])).tolist()
        if now == taken:
            c: float = (budget - taken) / left
            return (numbers.double() * c).clamp(max=1).masked_fill(certain, 1)
        taken, left = now, rest

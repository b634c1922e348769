"""A halo's rows behind the owned ones, and their gradients back: whatever way the gradient's rows lie in memory."""

import torch
from halo_plans import OWNED, opened, step
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.exact import Exact
from framework.comm.halo.passes import fill


def gradients(group: Group) -> list[list[list[float]]]:
    """Of the owned rows, where the gradient of the filled rows lies row by row and column by column."""
    plan, exchange = opened(Exact(), group)
    found = []
    for by_columns in (False, True):
        exchange.begin(step(0))
        owned = torch.arange(OWNED * 3, dtype=torch.float64).view(OWNED, 3).requires_grad_()
        filled = fill(owned, plan, exchange, 1)
        weight = torch.arange(filled.numel(), dtype=torch.float64).view(filled.shape) * (group.rank + 1)
        filled.backward(weight.t().contiguous().t() if by_columns else weight)
        assert owned.grad is not None
        found.append(owned.grad.tolist())
    return found


def test_the_gradient_of_filled_rows_may_lie_by_columns() -> None:
    first, second = together(2, gradients)
    for by_rows, by_columns in (first, second):
        assert by_rows == by_columns
    # Worker 1 has in its halo, in order, the places p of worker 0 for which p + 1 is not divisible by 3.
    places = [place for place in range(OWNED) if (place + 1) % 3]
    expected = torch.arange(OWNED * 3, dtype=torch.float64).view(OWNED, 3)
    for number, place in enumerate(places):
        expected[place] += 2 * (torch.arange(3) + 3 * (OWNED + number))
    assert first[0] == expected.tolist()

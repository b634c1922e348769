"""PowerSGD against its paper's algorithm written down for all workers at once, and its limit."""

import pytest
import torch
from torch import Tensor, nn
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.group import Group

ROWS, COLUMNS, RANK, STEPS, RATE = 12, 9, 2, 5, 0.1


def inputs(worker: int, step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Samples [rank, COLUMNS] and what the outputs are multiplied with [rank, ROWS]: the gradient is their product."""
    draws = torch.Generator().manual_seed(100 * worker + step)
    return (
        torch.randn(rank, COLUMNS, generator=draws, dtype=torch.float64),
        torch.randn(rank, ROWS, generator=draws, dtype=torch.float64),
    )


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(COLUMNS, ROWS).double()


def stepped(group: Group, gradient: Compressed | AllReduce, samples: int) -> dict[str, list[float]]:
    """Weights after some steps of plain descent, the errors at the end, and the bytes of a step."""
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    with gradient.open(network, optimizer, group) as synchronizer:
        for step in range(STEPS):
            synchronizer.module.zero_grad(set_to_none=True)
            x, factor = inputs(group.rank, step, samples)
            (synchronizer.module(x) * factor).sum().backward()
            synchronizer.step()
        state = synchronizer.state()
    return {
        "weight": network.weight.detach().flatten().tolist(),
        "bias": network.bias.detach().tolist(),
        "error": state.get("error.0", torch.zeros(0)).flatten().tolist(),
        "bytes": [group.sent["gradient"] / STEPS],
    }


def test_a_sum_of_low_rank_is_exact() -> None:
    # One sample a worker, two workers: the sum of their gradients has rank two.
    low = together(2, stepped, Compressed(method="powersgd", rank=2), 1)
    exact = together(2, stepped, AllReduce(), 1)
    assert low[0]["weight"] == low[1]["weight"]
    for name in ("weight", "bias"):
        # As exact as the power iteration is conditioned, which begins where the one before ended.
        assert low[0][name] == pytest.approx(exact[0][name], rel=1e-8, abs=1e-9)
    thin, vector, used = 8 * 2 * (ROWS + COLUMNS), 8 * ROWS, 4 * 2
    assert low[0]["bytes"] == [thin + vector + used]


def test_nothing_is_lost_and_the_sent_part_is_of_low_rank() -> None:
    answers = together(3, stepped, Compressed(method="powersgd", rank=RANK), 4)
    start = model().weight.detach()
    moved = (start - torch.tensor(answers[0]["weight"], dtype=torch.float64).view(ROWS, COLUMNS)) / RATE
    whole = sum(
        factor.t() @ x for worker in range(3) for step in range(STEPS) for x, factor in [inputs(worker, step, 4)]
    )
    errors = [torch.tensor(answer["error"], dtype=torch.float64).view(ROWS, COLUMNS) for answer in answers]
    assert all(float(error.norm()) > 1 for error in errors)
    torch.testing.assert_close(moved + sum(errors), whole, rtol=1e-10, atol=1e-10)


def test_a_gradient_is_approximated_as_the_algorithm_says() -> None:
    answers = together(2, one_step, Compressed(method="powersgd", rank=RANK))
    x, factor = zip(*(inputs(worker, 0, 4) for worker in range(2)), strict=True)
    whole = factor[0].t() @ x[0] + factor[1].t() @ x[1]
    query = torch.tensor(answers[0]["query before"], dtype=torch.float64).view(COLUMNS, RANK)
    left = torch.linalg.qr(whole @ query).Q
    expected = left @ (left.t() @ whole)
    found = torch.tensor(answers[0]["gradient"], dtype=torch.float64).view(ROWS, COLUMNS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.linalg.matrix_rank(found) == RANK


def one_step(group: Group, gradient: Compressed) -> dict[str, list[float]]:
    network = model()
    with gradient.open(network, torch.optim.SGD(network.parameters(), lr=RATE), group) as synchronizer:
        before = synchronizer.state()["query.0"].clone()
        x, factor = inputs(group.rank, 0, 4)
        (synchronizer.module(x) * factor).sum().backward()
        synchronizer.step()
    assert network.weight.grad is not None
    return {"query before": before.flatten().tolist(), "gradient": network.weight.grad.flatten().tolist()}

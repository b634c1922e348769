"""What no whole run shows: layers that some workers use and some do not, exact short numbers, refused models."""

from typing import Any

import pytest
import torch
from test_all_reduce import Net
from torch import Tensor, nn
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.corrected import Corrected
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.comm.group import Group
from framework.engine.optimize import SGD, Adam
from framework.engine.state import optimizer_state
from framework.errors import InputError

SAMPLES = 7


def sometimes(group: Group, gradients: list[Any]) -> list[list[float]]:
    """Weights after some steps of a model of which only the first worker uses one layer, and nobody another."""
    answers = []
    for gradient in gradients:
        torch.manual_seed(5)
        model = Net().double()
        rows, targets = torch.randn(SAMPLES, 5, dtype=torch.float64), torch.randn(SAMPLES, 3, dtype=torch.float64)
        mine = torch.arange(SAMPLES)[torch.arange(SAMPLES) % (group.size - 1) == group.rank]  # none for the last one
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with gradient.open(model, optimizer, group) as synchronizer:
            for _ in range(3):
                synchronizer.module.zero_grad(set_to_none=True)
                (((synchronizer.module(rows[mine], mine) - targets[mine]) ** 2).sum() / SAMPLES).backward()
                synchronizer.step()
            with synchronizer.whole() as whole:
                answers.append(torch.cat([weight.detach().flatten() for weight in whole.parameters()]).tolist())
    return answers


def test_workers_may_use_different_layers_and_have_no_samples() -> None:
    exact = [
        AllReduce(),
        Sharded(stage="zero1"),
        Sharded(stage="fsdp"),
        LocalSteps(every=1),
        Compressed(method="powersgd", start=9),
    ]
    for answer in together(3, sometimes, exact):
        for other in answer[1:]:
            assert other == pytest.approx(answer[0], rel=1e-12, abs=1e-14)


def averaged(group: Group, gradients: list[Any]) -> list[list[float]]:
    """Weights and moments after a meeting, of which one layer's only the first worker ever had a gradient for."""
    answers = []
    for gradient, optimizer_of in gradients:
        torch.manual_seed(5)
        model = Net().double()
        optimizer = optimizer_of.build(model.parameters())
        with gradient.open(model, optimizer, group) as synchronizer:
            for step in range(MEETING + 1):
                if step == MEETING and isinstance(gradient, LocalSteps):
                    break
                rows = torch.full((1, 5), 0.3 * step + group.rank, dtype=torch.float64)
                synchronizer.module.zero_grad(set_to_none=True)
                synchronizer.module(rows, torch.tensor([group.rank])).square().sum().backward()
                synchronizer.step()
            assert synchronizer.shared
        moments = optimizer_state(optimizer)[1]
        assert any(name.startswith("6.") for name in moments), "of the layer that only the first worker used"
        answers.append([*moments, *map(Tensor.tolist, [*model.parameters(), *moments.values()])])
    return answers


MEETING = 2  # steps until workers meet


def test_what_is_shared_is_the_same_on_every_worker() -> None:
    sgd, adam = SGD(lr=0.05, momentum=0.9), Adam(lr=0.01)
    gradients = [(LocalSteps(every=MEETING, moments="averaged"), optimizer) for optimizer in (sgd, adam)]
    gradients += [(Corrected(local_steps=MEETING, global_steps=1), optimizer) for optimizer in (sgd, adam)]
    first, second = together(2, averaged, gradients)
    assert first == second


def decayed(group: Group, gradient: Any) -> bool:
    """Whether a layer that nobody uses is left alone, where the optimiser would shrink every weight."""
    torch.manual_seed(5)
    model = Net()
    before = model.unused.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    with gradient.open(model, optimizer, group) as synchronizer:
        synchronizer.module(torch.ones(1, 5), torch.tensor([1])).sum().backward()
        synchronizer.step()
        with synchronizer.whole() as whole:
            return torch.equal(whole.unused.weight, before)


@pytest.mark.parametrize("gradient", [Sharded(stage="zero1"), Sharded(stage="fsdp"), Compressed(method="powersgd")])
def test_a_layer_that_nobody_uses_is_left_alone(gradient: Any) -> None:
    assert together(2, decayed, gradient) == [True, True]


def whole_numbers(group: Group, gradients: list[Any]) -> list[list[float]]:
    """The gradients of whole numbers below a hundred."""
    answers = []
    for gradient in gradients:
        model = nn.Linear(4, 3)
        x = torch.arange(8.0).view(2, 4) + group.rank
        with gradient.open(model, torch.optim.SGD(model.parameters(), lr=0.1), group) as synchronizer:
            (synchronizer.module(x) * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
        answers.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]).tolist())
    return answers


def test_gradients_that_are_short_numbers_lose_nothing() -> None:
    for exact, fp16, bf16 in together(
        2, whole_numbers, [AllReduce(), Compressed(method="fp16"), Compressed(method="bf16")]
    ):
        assert fp16 == bf16 == exact


def scalar(group: Group) -> str:
    model = nn.Linear(4, 3)
    model.temperature = nn.Parameter(torch.tensor(1.0))
    with (
        pytest.raises(InputError) as caught,
        Sharded(stage="fsdp").open(model, torch.optim.SGD(model.parameters(), lr=0.1), group),
    ):
        pass
    return str(caught.value)


def test_a_weight_without_rows_cannot_be_sharded() -> None:
    for said in together(2, scalar):
        assert "torch cannot shard this model" in said
        assert said.endswith("Take --gradient.stage zero1.")


def refused(group: Group, gradients: list[Any]) -> list[str]:
    said = []
    for gradient in gradients:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        try:
            with gradient.open(model, torch.optim.SGD(model.parameters(), lr=0.1), group):
                said.append("")
        except InputError as error:
            said.append(str(error))
    return said


def test_statistics_of_a_worker_s_own_are_refused_by_all() -> None:
    gradients = [LocalSteps(), DiLoCo(), Compressed(), Compressed(method="powersgd"), Sharded()]
    for said in together(2, refused, gradients):
        assert all("layer '1' is a BatchNorm1d" in one for one in said)

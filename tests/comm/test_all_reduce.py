"""The all-reduce strategy: the gradients of one process on the whole batch, whatever the number of workers."""

import os
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from worker_processes import together

from framework.comm.gradient import all_reduce
from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.config import decode, encode
from framework.errors import InputError, LostWorkerError

SAMPLES, STEPS = 7, 3


class Net(nn.Module):
    """Two layers that are used, one that is not, one that only the first sample's worker uses, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 40), nn.Linear(40, 3)
        self.unused, self.sometimes = nn.Linear(2, 2), nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.second(torch.tanh(self.first(rows)))
        return torch.where((ids == 0).unsqueeze(1), self.sometimes(out), out) if 0 in ids.tolist() else out


def trained(group: Group) -> dict[str, list[float]]:
    """The weights after some steps on this worker's share of the samples; the last worker's share is empty."""
    torch.manual_seed(5)
    model = Net().double()
    rows, targets = torch.randn(SAMPLES, 5, dtype=torch.float64), torch.randn(SAMPLES, 3, dtype=torch.float64)
    ids = torch.arange(SAMPLES)
    if group.size > 1:
        ids = ids[torch.arange(SAMPLES) % (group.size - 1) == group.rank]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    before = group.snapshot()
    with AllReduce().open(model, optimizer, group) as synchronizer:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            (((synchronizer.module(rows[ids], ids) - targets[ids]) ** 2).sum() / SAMPLES).backward()
            synchronizer.step()
    if group.size > 1:
        parameters = list(model.parameters())
        step = sum(2 * (group.size - 1) * payload // group.size for payload in sizes(parameters))
        assert group.since(before) == {"gradient": STEPS * step}
        assert float(model.calls) == STEPS, "buffers stay a worker's own"
    sent = group.snapshot()
    model(rows[ids], ids).sum().backward()
    assert group.snapshot() == sent, "the hooks are off again"
    model.zero_grad()
    return {name: weight.detach().flatten().tolist() for name, weight in model.named_parameters()}


def sizes(parameters: list[nn.Parameter]) -> list[int]:
    """Bytes of each all-reduce of a step: the gradients in one bucket, and a number a parameter."""
    return [8 * sum(weight.numel() for weight in parameters), 4 * len(parameters)]


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_workers_takes_the_steps_of_one(size: int) -> None:
    alone = trained(Group.alone())
    answers = together(size, trained)
    assert all(answer == answers[0] for answer in answers), "the same bits on every worker"
    for name, values in alone.items():
        torch.testing.assert_close(
            torch.tensor(answers[0][name], dtype=torch.float64),
            torch.tensor(values, dtype=torch.float64),
            rtol=1e-12,
            atol=1e-14,
        )


def wrapped_often(group: Group, splits: list[int]) -> list[float]:
    """Weights after eight steps, wrapped anew before the steps `splits`, in many small buckets."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(24)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = torch.randn(8, 16, 128, generator=torch.Generator().manual_seed(group.rank))
    for part in torch.tensor_split(batches, splits):
        with AllReduce(bucket_megabytes=1).open(model, optimizer, group) as synchronizer:
            for batch in part:
                optimizer.zero_grad(set_to_none=True)
                synchronizer.module(batch).square().mean().backward()
                synchronizer.step()
    weights: list[float] = torch.cat([weight.detach().flatten() for weight in model.parameters()]).tolist()
    return weights


def test_wrapping_anew_in_the_middle_changes_no_bit() -> None:
    straight, resumed = together(3, wrapped_often, []), together(3, wrapped_often, [3])
    assert straight[0] == resumed[0]


def absent(group: Group) -> list[bool]:
    """Which parameters have a gradient after one step: those that some worker has used."""
    model = Net()
    ids = torch.tensor([0]) if group.rank == 1 else torch.tensor([1])
    with AllReduce().open(model, torch.optim.SGD(model.parameters()), group) as synchronizer:
        synchronizer.module(torch.ones(1, 5), ids).sum().backward()
    return [weight.grad is not None for weight in model.parameters()]


def test_a_parameter_nobody_used_has_no_gradient() -> None:
    for answer in together(2, absent):
        assert answer == [True, True, True, True, False, False, True, True]


def abandoned(group: Group) -> str | None:
    model = Net()
    try:
        with AllReduce().open(model, torch.optim.SGD(model.parameters()), group) as synchronizer:
            for step in range(5):
                if group.rank == 1 and step == 2:
                    os.kill(os.getpid(), 9)
                synchronizer.module(torch.ones(1, 5), torch.tensor([1])).sum().backward()
    except LostWorkerError as error:
        return str(error)
    return None


def test_a_lost_worker_is_named_in_the_backward_pass() -> None:
    first, second = together(2, abandoned)
    assert second is None
    assert first is not None
    assert "worker 0 of 2 lost the others (gradient)" in first


def abandoned_late(group: Group) -> str | None:
    """The other worker dies when gradients have been summed, and before which of them were used is."""
    model = nn.Linear(3, 3)
    if group.rank == 1:
        all_reduce._Reduction.hook = summed_and_gone
    try:
        with AllReduce().open(model, torch.optim.SGD(model.parameters()), group) as synchronizer:
            synchronizer.module(torch.ones(1, 3)).sum().backward()
    except LostWorkerError as error:
        return str(error)
    return None


def summed_and_gone(self: Any, state: None, bucket: GradBucket) -> Future[Tensor]:
    dist.all_reduce(bucket.buffer())
    time.sleep(0.5)  # until the other worker has the sum
    os.kill(os.getpid(), 9)


def test_a_worker_that_is_lost_after_the_sum_is_named_too() -> None:
    first, second = together(2, abandoned_late)
    assert second is None
    assert first is not None
    assert "worker 0 of 2 lost the others (gradient)" in first


def failing(group: Group) -> str:
    model = Net()
    with (
        pytest.raises(RuntimeError, match="the model's own") as caught,
        AllReduce().open(model, torch.optim.SGD(model.parameters()), group),
    ):
        raise RuntimeError("the model's own")
    return type(caught.value).__name__


def test_an_error_of_the_model_stays_what_it_is() -> None:
    assert together(2, failing) == ["RuntimeError", "RuntimeError"]


def wrapped(group: Group, layers: list[nn.Module]) -> list[str]:
    """What wrapping a model with each of some layers says; nothing where it may be trained."""
    said = []
    for layer in layers:
        model = nn.Sequential(nn.Linear(4, 4), layer)
        try:
            with AllReduce().open(model, torch.optim.SGD(model.parameters(), lr=0.1), group):
                said.append("")
        except InputError as error:
            said.append(str(error))
    return said


def test_statistics_that_a_worker_would_keep_to_itself_are_refused() -> None:
    layers = [
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, track_running_stats=False),  # normalises by a worker's share, kept or not
        nn.InstanceNorm1d(4, track_running_stats=True),
        nn.InstanceNorm1d(4),
        nn.GroupNorm(2, 4),
    ]
    (*refused, instance, group), _ = together(2, wrapped, layers)
    names = ("BatchNorm1d", "BatchNorm1d", "InstanceNorm1d")
    for name, said in zip(names, refused, strict=True):
        assert f"layer '1' is a {name}" in said
        assert "between the 2 workers; take GroupNorm" in said
    assert (instance, group) == ("", "")
    assert wrapped(Group.alone(), layers) == [""] * 5


def test_the_strategy_is_a_value() -> None:
    assert isinstance(AllReduce(), GradientStrategy)
    assert encode(AllReduce()) == {"plugin": "gradient:all-reduce", "bucket_megabytes": 25}
    assert decode(encode(AllReduce(bucket_megabytes=1))) == AllReduce(bucket_megabytes=1)

"""What workers keep for themselves, on two hosts with a folder each: found again wherever a worker comes back."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from line_workload import Line, LineTask
from safetensors.torch import load, save
from torch import Tensor
from worker_processes import together

from framework.comm.group import Group
from framework.engine import checkpoint as checkpoints
from framework.engine.run import Prepared, Run, Worker
from framework.engine.state import load_optimizer_state, optimizer_state
from framework.engine.train import train
from framework.errors import ShardyardError


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remembering(Line):
    """A line of which every worker but the first remembers the losses it has had, and learns from them."""

    def open(self, run: Run, worker: Worker) -> "RememberingTask":
        return RememberingTask(self, run, worker)


class RememberingTask(LineTask):
    def __init__(self, workload: Line, run: Run, worker: Worker) -> None:
        super().__init__(workload, run, worker)
        self.memory = torch.zeros((), dtype=torch.float64)

    def loss(self, model: Any, batch: Any) -> Tensor:
        loss = super().loss(model, batch) * (1 + self.memory)
        if self.worker.group.rank > 0:
            self.memory = 0.5 * self.memory + 0.01 * loss.detach()
        return loss

    def state(self) -> dict[str, Tensor]:
        return {"memory": self.memory} if self.worker.group.rank > 0 else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.memory = state.get("memory", self.memory)


def learn(group: Group, folder: str, stop_at: int | None, hosts: str, shared: bool) -> Any:
    """Trains as a worker of host `hosts[rank]`, in the host's folder, or in one that all see."""
    group.hosts = tuple(hosts)
    steps = 0

    def watch(event: dict[str, Any]) -> None:
        nonlocal steps
        steps += event["event"] == "step"
        if stop_at is not None and steps == stop_at:
            raise StoppedError

    out = f"{folder}/all" if shared else f"{folder}/{hosts[group.rank]}"
    run = Run(workload=Remembering(), epochs=3, checkpoint_every=1, dtype="float64", out=out)
    prepared = Prepared(path=Path(), data_digest="line", seconds=0.0, facts={})
    try:
        return train(run, Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=watch))
    except StoppedError:
        return None
    except ShardyardError as error:
        return str(error)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Never stopped; two workers on a host, one on another."""
    return together(3, learn, str(tmp_path_factory.mktemp("whole")), None, "aab", False)[0]


def last(folder: Path) -> checkpoints.Checkpoint:
    return checkpoints.read(folder / checkpoints.places(folder)[-1])


def test_a_host_keeps_its_own_workers_files(tmp_path: Path, whole: Any) -> None:
    assert together(3, learn, str(tmp_path), 7, "aab", False) == [None] * 3
    first, second = last(tmp_path / "a" / "checkpoints"), last(tmp_path / "b" / "checkpoints")
    assert first.own == second.own == {1: ["task"], 2: ["task"]}
    assert [name for name in first.tensors if name.startswith("worker")] == ["worker-1"]
    assert [name for name in second.tensors if name.startswith("worker")] == ["worker-2"]
    # The workers come back in another order: two of them find their files on the other host.
    resumed = together(3, learn, str(tmp_path), None, "baa", False)
    assert {one["weights_digest"] for one in resumed} == {whole["weights_digest"]}
    assert resumed[0]["loss"] == whole["loss"]


@pytest.mark.slow
def test_the_checkpoint_before_is_taken_where_a_host_missed_the_last(tmp_path: Path, whole: Any) -> None:
    together(3, learn, str(tmp_path), 7, "aab", False)
    missed = tmp_path / "b" / "checkpoints"
    shutil.rmtree(missed / checkpoints.places(missed)[-1])  # killed after the other host had published
    resumed = together(3, learn, str(tmp_path), None, "aab", False)
    assert (resumed[0]["weights_digest"], resumed[0]["loss"]) == (whole["weights_digest"], whole["loss"])


def test_a_host_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    together(3, learn, str(tmp_path), 7, "aab", False)
    shutil.rmtree(tmp_path / "b")
    for said in together(3, learn, str(tmp_path), None, "aab", False):
        assert "lacks worker-2.safetensors: a host that kept them is not here" in said


@pytest.mark.slow
def test_hosts_that_see_one_disk_keep_one_checkpoint(tmp_path: Path, whole: Any) -> None:
    together(3, learn, str(tmp_path), 7, "aab", True)
    found = last(tmp_path / "all" / "checkpoints")
    assert [name for name in found.tensors if name.startswith("worker")] == ["worker-1", "worker-2"]
    resumed = together(3, learn, str(tmp_path), None, "aab", True)
    assert (resumed[0]["weights_digest"], resumed[0]["loss"]) == (whole["weights_digest"], whole["loss"])


class Counting(torch.optim.Optimizer):
    """Counts the steps of every weight in a plain number."""

    def __init__(self, weights: Any) -> None:
        super().__init__(weights, {})

    def step(self, closure: Any = None) -> None:
        for weight in self.param_groups[0]["params"]:
            if weight.grad is not None:
                state = self.state[weight]
                state |= {"steps": state.get("steps", 0) + 1, "last": weight.grad.clone()}


def counted(*steps: int) -> Counting:
    """After so many steps of each weight."""
    optimizer = Counting([torch.nn.Parameter(torch.ones(2)) for _ in steps])
    for step in range(max(steps)):
        for weight, most in zip(optimizer.param_groups[0]["params"], steps, strict=True):
            weight.grad = torch.full((2,), float(step)) if step < most else None
        optimizer.step()
    return optimizer


def test_numbers_that_an_optimizer_keeps_are_a_workers_own() -> None:
    first, mine, again = counted(2, 0, 3), counted(1, 3, 0), counted(0, 0, 0)
    plain, _ = optimizer_state(first, own=True)  # every worker reads the first one's
    _, tensors = optimizer_state(mine, own=True)
    load_optimizer_state(again, plain, load(save(tensors)))
    found, expected = again.state_dict()["state"], mine.state_dict()["state"]
    assert {index: state["steps"] for index, state in found.items()} == {0: 1, 1: 3}
    assert all(torch.equal(found[index]["last"], state["last"]) for index, state in expected.items())


@pytest.mark.slow
def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    together(3, learn, str(tmp_path), 7, "aaa", False)
    for said in together(2, learn, str(tmp_path), None, "aa", False):
        assert "what each of 3 workers keeps for itself (test_own_state:Remembering)" in said
        assert "resume with --workers 3" in said

"""ZeRO's stages 2 and 3 by DeepSpeed, where it is installed: all-reduce's steps in float32, resumed to the bit."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_runs import Case, made
from safetensors.torch import load_file
from torch import nn
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.sharded import Sharded
from framework.comm.group import Group
from framework.engine.optimize import Adam
from framework.errors import InputError, LostWorkerError

INSTALLED = importlib.util.find_spec("deepspeed") is not None


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra deepspeed")
def test_the_stages_are_all_reduce_and_resume_to_the_bit(tmp_path: Path) -> None:
    optimizer, single = Adam(lr=0.01), {"dtype": "float32"}
    cases = {"all-reduce": Case(gradient=AllReduce(), optimizer=optimizer, fields=single)}
    stages: dict[str, Any] = {stage: Sharded(stage=stage) for stage in ("zero2", "zero3")}
    for stage, gradient in stages.items():
        cases[stage] = Case(gradient=gradient, optimizer=optimizer, fields=single)
        cases[f"{stage} cut"] = Case(gradient=gradient, optimizer=optimizer, fields=single, stop_at=6)
    first, second = together(2, made, str(tmp_path), cases)
    expected = load_file(tmp_path / "all-reduce" / "model.safetensors")
    for stage in stages:
        found = load_file(tmp_path / stage / "model.safetensors")
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)
        assert first[stage]["weights_digest"] == second[stage]["weights_digest"]
        assert first[stage]["evaluated"]["metrics"] == first[stage]["metrics"]
        assert first[f"{stage} cut"]["weights_digest"] == first[stage]["weights_digest"]
        assert first[f"{stage} cut"]["loss"] == first[stage]["loss"]
        # At least the ring of an all-reduce of 25 numbers in 12 steps, of two workers together.
        assert 12 * 2 * 100 <= first[stage]["bytes"]["gradient"] <= 2 * 12 * 2 * 100, stage


def abandoned(group: Group, stage: Any) -> str | None:
    """The other worker dies before the second step."""
    model = nn.Linear(3, 3)
    try:
        with Sharded(stage=stage).open(model, torch.optim.SGD(model.parameters(), lr=0.1), group) as synchronizer:
            for step in range(2):
                if group.rank == 1 and step == 1:
                    os.kill(os.getpid(), 9)
                synchronizer.module(torch.ones(1, 3)).sum().backward()
                synchronizer.step()
    except LostWorkerError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra deepspeed")
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_lost_worker_is_named(stage: str) -> None:
    first, second = together(2, abandoned, stage)
    assert second is None
    assert first is not None
    assert "worker 0 of 2 lost the others (gradient)" in first


def without(group: Group) -> str:
    model = nn.Linear(2, 2)
    try:
        with Sharded(stage="zero2").open(model, torch.optim.SGD(model.parameters(), lr=0.1), group):
            return ""
    except InputError as error:
        return str(error)


@pytest.mark.skipif(INSTALLED, reason="the extra deepspeed is there")
def test_the_extra_is_named_where_it_is_not_installed() -> None:
    for said in together(2, without):
        assert said == "--gradient.stage zero2 needs DeepSpeed: pip install 'shardyard[deepspeed]'."

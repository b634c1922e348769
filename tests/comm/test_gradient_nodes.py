"""Gradient strategies on a graph: at their limits a node run with dropout is all-reduce's, sampled by each worker."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from node_runs import small_run
from safetensors.torch import load_file

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.engine.optimize import SGD
from launch.start import start

EXACT = [
    Sharded(stage="fsdp"),
    Sharded(stage="zero1"),
    LocalSteps(every=1),
    DiLoCo(inner_steps=1, outer_lr=1.0, outer_momentum=0.0),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of all-reduce, and its report."""
    out = tmp_path_factory.mktemp("nodes") / "all-reduce"
    run = small_run(out, workers=2, epochs=2, optimizer=SGD(lr=0.1), gradient=AllReduce())
    return run, start(run, lambda event: None)


@pytest.mark.parametrize("gradient", [EXACT[0], *(pytest.param(one, marks=pytest.mark.slow) for one in EXACT[1:])])
def test_a_node_run_is_that_of_all_reduce(tmp_path: Path, expected: Any, gradient: Any) -> None:
    run, report = expected
    found = start(dataclasses.replace(run, gradient=gradient, out=str(tmp_path)), lambda event: None)
    assert found["loss"] == pytest.approx(report["loss"], rel=1e-12)
    assert found["metrics"] == report["metrics"]
    weights = load_file(tmp_path / "model.safetensors")
    for name, weight in load_file(Path(run.out) / "model.safetensors").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-11, atol=1e-12)

"""Clipped gradients: torch's own clipping in one process, and the same whoever holds which piece of them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_runs import Case, made
from safetensors.torch import load_file
from torch import Tensor, nn
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.clip import Clip
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.engine.optimize import SGD, Adam, Clipped
from framework.errors import InputError

NORM = 0.05
"""Less than what gradients of the line are long."""
INNER = SGD(lr=0.3, momentum=0.9)
WAYS: dict[str, Any] = {
    "all-reduce": AllReduce(),
    "zero1": Sharded(stage="zero1"),
    "fsdp": Sharded(stage="fsdp"),
    "powersgd, started late": Compressed(method="powersgd", rank=1, start=100),
}
INSTALLED = importlib.util.find_spec("deepspeed") is not None


def weights(folder: Path, name: str) -> Tensor:
    found = load_file(folder / name / "model.safetensors")
    return torch.cat([found[key].flatten() for key in sorted(found)])


@pytest.mark.parametrize("length", [0.5, 100.0])
def test_steps_are_those_of_torchs_clipping(length: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 2)).double()
    other = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 2)).double()
    other.load_state_dict(network.state_dict())
    for each in (network, other):
        each[3].requires_grad_(False)  # without a gradient
    ours = Clipped(inner=Adam(lr=0.1), norm=length).build(network.parameters())
    theirs = torch.optim.Adam(other.parameters(), lr=0.1)
    for _ in range(5):
        rows = 30 * torch.randn(4, 5, dtype=torch.float64)
        for each, optimizer in ((network, ours), (other, theirs)):
            each.zero_grad()
            each(rows).square().sum().backward()
            if each is other:
                torch.nn.utils.clip_grad_norm_(other.parameters(), length)
            optimizer.step()
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_exact_strategy_clips_the_whole_gradient(tmp_path: Path, workers: int) -> None:
    clipped = Clipped(inner=INNER, norm=NORM)
    cases = {name: Case(gradient=gradient, optimizer=clipped) for name, gradient in WAYS.items()}
    cases["cut"] = Case(gradient=WAYS["zero1"], optimizer=clipped, stop_at=6)
    cases["free"] = Case(gradient=AllReduce(), optimizer=INNER)
    cases["loose"] = Case(gradient=WAYS["fsdp"], optimizer=Clipped(inner=INNER, norm=1e9))
    answers = together(workers, made, str(tmp_path / "several"), cases)
    alone = {"one": Case(gradient=AllReduce(), optimizer=clipped)}
    (one,) = together(1, made, str(tmp_path / "one"), alone)
    expected = weights(tmp_path / "one", "one")
    for name in (*WAYS, "cut"):
        assert {answer[name]["weights_digest"] for answer in answers} == {answers[0][name]["weights_digest"]}
        torch.testing.assert_close(weights(tmp_path / "several", name), expected, rtol=1e-10, atol=1e-12)
        assert answers[0][name]["loss"] == pytest.approx(one["one"]["loss"], rel=1e-10)
    assert answers[0]["cut"]["weights_digest"] == answers[0]["zero1"]["weights_digest"]
    free = weights(tmp_path / "several", "free")
    assert float((free - expected).abs().max()) > 0.01
    torch.testing.assert_close(weights(tmp_path / "several", "loose"), free, rtol=1e-10, atol=1e-12)


def test_local_steps_clip_what_a_worker_steps_on(tmp_path: Path) -> None:
    """The workers' own gradients: with one step between two averages, the mean of the clipped steps."""
    inner = SGD(lr=0.3, momentum=0.0)
    ways = {
        "local": LocalSteps(every=1),
        "diloco": DiLoCo(inner_steps=1, outer_lr=1.0, outer_momentum=0.0),
    }
    cases = {
        f"{name}, {norm:g}": Case(gradient=way, optimizer=Clipped(inner=inner, norm=norm))
        for name, way in ways.items()
        for norm in (NORM, 1e9)
    }
    cases["all-reduce"] = Case(gradient=AllReduce(), optimizer=inner)
    together(2, made, str(tmp_path), cases)
    for name in ways:
        loose, tight = weights(tmp_path, f"{name}, 1e+09"), weights(tmp_path, f"{name}, {NORM:g}")
        torch.testing.assert_close(loose, weights(tmp_path, "all-reduce"), rtol=1e-10, atol=1e-12)
        assert float((loose - tight).abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra deepspeed")
def test_deep_speed_clips_to_the_same_norm(tmp_path: Path) -> None:
    clipped, single = Clipped(inner=Adam(lr=0.01), norm=NORM), {"dtype": "float32"}
    cases = {
        name: Case(gradient=gradient, optimizer=clipped, fields=single)
        for name, gradient in {
            "all-reduce": AllReduce(),
            "zero2": Sharded(stage="zero2"),
            "zero3": Sharded(stage="zero3"),
        }.items()
    }
    together(2, made, str(tmp_path), cases)
    for name in ("zero2", "zero3"):
        torch.testing.assert_close(weights(tmp_path, name), weights(tmp_path, "all-reduce"), rtol=1e-4, atol=1e-5)


def test_a_clip_that_is_none_is_refused() -> None:
    for norm in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"--optimizer\.norm is"):
            Clipped(norm=norm)
    with pytest.raises(InputError, match="clipped already"):
        Clipped(inner=Clipped())
    assert Clip.of(Adam().build([nn.Parameter(torch.zeros(1))])) is None

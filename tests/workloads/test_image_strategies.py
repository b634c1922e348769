"""Gradient strategies on images: weights that lie as images do, in pieces; what nobody used rests; refusals."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from halo_runs import ignore, reports
from safetensors.torch import load_file
from small_images import image_run

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.deep_speed import _Called
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.engine.optimize import SGD, Constant
from framework.engine.run import Run, Worker
from framework.errors import InputError
from framework.models.cnn.boosted import BoostedResNet

INSTALLED = importlib.util.find_spec("deepspeed") is not None
BOOSTED = BoostedResNet(depth=8, width=4, auxiliary=2, hidden=3, pretraining=2)
KINDS: dict[str, dict[str, Any]] = {
    "everything": {"epochs": 3},
    # So much decay that a frozen weight, with what momentum is left, would drift.
    "boosted": {"model": BOOSTED, "epochs": 4, "optimizer": SGD(lr=0.05, nesterov=True, weight_decay=0.1)},
}
EXACT: dict[str, GradientStrategy] = {
    "all-reduce": AllReduce(),
    "zero1": Sharded(stage="zero1"),
    "fsdp": Sharded(stage="fsdp"),
    "averaged every step": LocalSteps(every=1),
    "outer step of one step": DiLoCo(inner_steps=1, outer_lr=1.0, outer_momentum=0.0),
    "started late": Compressed(method="powersgd", rank=1, start=1000),
}


def run_of(folder: Path, kind: str, name: str, gradient: GradientStrategy, **fields: Any) -> Run:
    return image_run(folder / f"{kind}-{name}", workers=2, gradient=gradient, ema=0.0, **{**KINDS[kind], **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_every_exact_strategy_learns_what_all_reduce_learns(tmp_path: Path, kind: str) -> None:
    runs = [run_of(tmp_path, kind, name, gradient) for name, gradient in EXACT.items()]
    whole, *others = reports(tmp_path, 2, runs)
    expected = load_file(tmp_path / f"{kind}-all-reduce" / "model.safetensors")
    for name, told in zip(list(EXACT)[1:], others, strict=True):
        assert told["loss"] == pytest.approx(whole["loss"], rel=1e-9), name
        assert told["metrics"] == pytest.approx(whole["metrics"], rel=1e-8), name
        found = load_file(tmp_path / f"{kind}-{name}" / "model.safetensors")
        for weight, values in expected.items():
            torch.testing.assert_close(found[weight], values, rtol=1e-7, atol=1e-10, msg=f"{name}: {weight}")


def test_what_rests_stays_under_momentum_of_outer_steps(tmp_path: Path) -> None:
    gradient, settings = DiLoCo(inner_steps=2), {"schedule": Constant()}  # two epochs of pretraining before
    runs = [run_of(tmp_path, "boosted", f"{epochs}", gradient, **settings, epochs=epochs) for epochs in (3, 5)]
    reports(tmp_path, 2, runs)
    earlier, later = (load_file(tmp_path / f"boosted-{epochs}" / "model.safetensors") for epochs in (3, 5))
    rests = [name for name in earlier if name.startswith("auto_encoder")]
    assert rests
    for name in rests:
        torch.testing.assert_close(later[name], earlier[name], rtol=0, atol=0)
    assert any(not torch.equal(later[name], earlier[name]) for name in earlier)


def test_compressed_gradients_of_convolutions(tmp_path: Path) -> None:
    gradients = {"whole": AllReduce(), "enough": Compressed(method="powersgd", rank=64, start=0)}
    runs = [run_of(tmp_path, "everything", name, one) for name, one in gradients.items()]
    whole, told = reports(tmp_path, 2, runs)
    assert told["loss"] == pytest.approx(whole["loss"], rel=1e-8)


def test_in_pieces_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    names = ("zero1", "fsdp")
    settings: dict[str, Any] = {"schedule": Constant()}
    whole = [run_of(tmp_path / "whole", "boosted", name, EXACT[name], **settings) for name in names]
    stopped = [run_of(tmp_path / "cut", "boosted", name, EXACT[name], **{**settings, "epochs": 1}) for name in names]
    resumed = [run_of(tmp_path / "cut", "boosted", name, EXACT[name], **settings) for name in names]
    told = reports(tmp_path, 2, [*whole, *stopped, *resumed])
    for first, second in zip(told[:2], told[4:], strict=True):
        assert len(second["loss"]) == 4
        assert (second["loss"], second["weights_digest"]) == (first["loss"], first["weights_digest"])


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the extra deepspeed")
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deep_speed_learns_it_in_float32(tmp_path: Path, stage: Any) -> None:
    gradients: dict[str, GradientStrategy] = {"all-reduce": AllReduce(), stage: Sharded(stage=stage)}
    runs = [run_of(tmp_path, "everything", name, one, dtype="float32") for name, one in gradients.items()]
    whole, told = reports(tmp_path, 2, runs)
    assert told["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_the_engine_of_deep_speed_is_told_what_to_reconstruct() -> None:
    torch.manual_seed(0)
    network, images = BOOSTED.build(2, 3), torch.rand(2, 2, 8, 8)
    decoded = _Called(network, 2)(images, reconstruct=True)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, network(images, reconstruct=True))
    decoded.sum().backward()
    found = [weight.grad for weight in network.auto_encoder.parameters()]  # type: ignore[union-attr]
    network.zero_grad()
    network(images, reconstruct=True).sum().backward()
    for doubled, weight in zip(found, network.auto_encoder.parameters(), strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(doubled, 2 * weight.grad)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_what_rests_while_other_weights_are_learned_is_not_deep_speeds(tmp_path: Path, stage: Any) -> None:
    run = run_of(tmp_path, "boosted", stage, Sharded(stage=stage))
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    worker = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=ignore)
    with pytest.raises(InputError, match=rf"--gradient.stage {stage} .* take zero1 or fsdp"):
        run.workload.open(run, worker)

"""Every gradient strategy on a line of points: its exact limit, its bytes, and resumed equals never stopped."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_runs import Case, made
from safetensors.torch import load_file
from torch import Tensor
from worker_processes import together

from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.config import decode, encode
from framework.engine import checkpoint as checkpoints
from framework.engine.optimize import SGD, Adam
from framework.errors import InputError

EXACT: dict[str, Any] = {
    "averaged every step": LocalSteps(every=1),
    "outer step of one step": DiLoCo(inner_steps=1, outer_lr=1.0, outer_momentum=0.0),
    "zero1": Sharded(stage="zero1"),
    "fsdp": Sharded(stage="fsdp"),
    "started late": Compressed(method="powersgd", rank=1, start=100),
}
OTHERS: dict[str, Any] = {
    "local": LocalSteps(every=3),
    "local, averaged moments": LocalSteps(every=3, moments="averaged"),
    "diloco": DiLoCo(inner_steps=3),
    "fp16": Compressed(),
    "powersgd": Compressed(method="powersgd", rank=1, start=2),
    "zero1": Sharded(stage="zero1"),
    "fsdp": Sharded(stage="fsdp"),
}
WEIGHTS, STEPS = 25, 12
"""Numbers of the line's model, in four parameters; steps of a run."""


def weights(folder: Path, name: str) -> Tensor:
    """What a case learned, as one row."""
    found = load_file(folder / name / "model.safetensors")
    return torch.cat([found[key].flatten() for key in sorted(found)])


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_at_its_limit_every_strategy_is_all_reduce(tmp_path: Path, workers: int) -> None:
    momentum, adam = SGD(lr=0.02, momentum=0.9, weight_decay=0.01), Adam(lr=0.01)
    cases = {"all-reduce": Case(gradient=AllReduce(), optimizer=momentum)}
    cases |= {name: Case(gradient=gradient, optimizer=momentum) for name, gradient in EXACT.items()}
    sharded = {name: EXACT[name] for name in ("zero1", "fsdp")}
    cases |= {f"adam, {name}": Case(gradient=gradient, optimizer=adam) for name, gradient in sharded.items()}
    cases["adam"] = Case(gradient=AllReduce(), optimizer=adam)
    answers = together(workers, made, str(tmp_path), cases)
    for name in cases:
        expected = "adam" if name.startswith("adam") else "all-reduce"
        assert {one[name]["weights_digest"] for one in answers} == {answers[0][name]["weights_digest"]}
        torch.testing.assert_close(weights(tmp_path, name), weights(tmp_path, expected), rtol=1e-12, atol=1e-14)
        assert answers[0][name]["loss"] == pytest.approx(answers[0][expected]["loss"], rel=1e-12)
        assert answers[0][name]["evaluated"]["metrics"] == answers[0][name]["metrics"]


@pytest.mark.slow
def test_resumed_equals_never_stopped(tmp_path: Path) -> None:
    # Stopped in the sixth step: two since the last meeting, one since PowerSGD began to compress.
    whole = {name: Case(gradient=gradient, optimizer=Adam(lr=0.01)) for name, gradient in OTHERS.items()}
    cut = {
        f"{name}, cut": Case(gradient=gradient, optimizer=Adam(lr=0.01), stop_at=6) for name, gradient in OTHERS.items()
    }
    answers = together(2, made, str(tmp_path), {**whole, **cut})[0]
    for name in OTHERS:
        first, second = answers[name], answers[f"{name}, cut"]
        assert (first["weights_digest"], first["loss"]) == (second["weights_digest"], second["loss"]), name
        assert first["metrics"] == second["metrics"] == second["evaluated"]["metrics"], name
        assert first["epochs"] == 3


def test_bytes_are_those_of_the_method(tmp_path: Path) -> None:
    gradients = {
        "all-reduce": AllReduce(),
        "fp16": Compressed(),
        "bf16": Compressed(method="bf16"),
        "local": LocalSteps(every=4),
        "diloco": DiLoCo(inner_steps=6),
        "zero1": Sharded(stage="zero1"),
    }
    cases = {name: Case(gradient=gradient, fields={"dtype": "float32"}) for name, gradient in gradients.items()}
    answers = together(2, made, str(tmp_path), cases)[0]
    sent = {name: answers[name]["bytes"]["gradient"] for name in cases}
    # A ring of two moves a tensor once in each direction. One int32 a parameter says which were used.
    once, used = 2 * 4 * WEIGHTS, 2 * 4 * 4
    assert sent["all-reduce"] == STEPS * (once + used)
    assert sent["fp16"] == sent["bf16"] == STEPS * (once // 2 + used)
    assert sent["local"] == STEPS * once // 4
    assert sent["diloco"] == STEPS // 6 * (once + used)  # which weights any worker has moved
    assert sent["zero1"] == STEPS * (once + 2 * 4 + used)  # 25 numbers in two ranges are 26


@pytest.mark.slow
def test_the_best_weights_are_those_of_all_workers(tmp_path: Path) -> None:
    # Two epochs of four steps: the second evaluation is between two meetings.
    settings = {"keep": "best", "patience": 3, "epochs": 5}
    cases = {name: Case(gradient=gradient, fields=settings) for name, gradient in OTHERS.items()}
    first, second = together(2, made, str(tmp_path), cases)
    for name in OTHERS:
        assert first[name]["weights_digest"] == second[name]["weights_digest"]
        assert first[name]["evaluated"]["weights_digest"] == first[name]["weights_digest"]
        assert first[name]["evaluated"]["metrics"] == first[name]["metrics"] == second[name]["metrics"]


def resumed_on_three(tmp_path: Path, gradient: Any) -> Any:
    together(2, made, str(tmp_path), {"run": Case(gradient=gradient, fields={"epochs": 2})})
    return together(3, made, str(tmp_path), {"run": Case(gradient=gradient)})


def test_what_one_worker_had_whole_two_refuse_to_begin_with(tmp_path: Path) -> None:
    strategies = {
        "sharded": Case(gradient=Sharded(), optimizer=Adam(), fields={"epochs": 2}),
        "compressed": Case(gradient=Compressed(method="powersgd", rank=1), fields={"epochs": 2}),
    }
    made(Group.alone(), str(tmp_path), strategies)
    longer = {name: dataclasses.replace(case, fields={}) for name, case in strategies.items()}
    for answer in together(2, made, str(tmp_path), longer):
        for name in strategies:
            assert f"gradient:{name}), which 2 cannot share out; resume with --workers 1" in answer[name]["error"]


@pytest.mark.slow
def test_what_a_worker_keeps_is_not_shared_out_anew(tmp_path: Path) -> None:
    for answer in resumed_on_three(tmp_path, LocalSteps(every=3)):
        assert answer["run"]["kind"] == "InputError"
        assert "what each of 2 workers keeps for itself (gradient:local-steps)" in answer["run"]["error"]
        assert "resume with --workers 2" in answer["run"]["error"]
    place = tmp_path / "run" / "checkpoints"
    found = checkpoints.read(place / checkpoints.places(place)[-1])
    assert found.own == {0: ["gradient"], 1: ["gradient"]}
    assert found.tensors["worker-0"]["gradient.weight.0"].shape == (8, 1)


@pytest.mark.slow
def test_after_an_average_of_everything_any_number_goes_on(tmp_path: Path) -> None:
    # Two epochs are eight steps, two meetings of four.
    for answer in resumed_on_three(tmp_path, LocalSteps(every=4, moments="averaged")):
        assert answer["run"]["epochs"] == 3


@pytest.mark.parametrize("gradient", [*EXACT.values(), *OTHERS.values()])
def test_a_strategy_is_a_value(gradient: Any) -> None:
    assert isinstance(gradient, GradientStrategy)
    assert decode(encode(gradient)) == gradient


@pytest.mark.parametrize(
    ("plugin", "field", "value"),
    [
        (AllReduce, "bucket_megabytes", -1),
        (Compressed, "bucket_megabytes", -1),
        (LocalSteps, "every", 0),
        (LocalSteps, "moments", "none"),
        (DiLoCo, "inner_steps", 0),
        (DiLoCo, "outer_lr", 0.0),
        (DiLoCo, "outer_momentum", 1.0),
        (Compressed, "method", "zip"),
        (Compressed, "rank", 0),
        (Compressed, "start", -1),
        (Sharded, "stage", "zero4"),
    ],
)
def test_a_setting_without_a_meaning_is_named(plugin: Any, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--gradient.{field.replace('_', '-')} is"):
        plugin(**{field: value})

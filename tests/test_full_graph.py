"""Full-graph training: one process equals PyG with the same weights and dropout; any placement equals one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from node_runs import same_metrics
from pyg_reference import LAYERS, MODELS, first_gradients, full_run, reference

from framework.registry import PARTITIONERS
from launch.start import start
from partitioners.dbh import DegreeBasedHashing
from partitioners.metis import Metis
from partitioners.random import Random
from partitioners.spinner import Spinner


def ignore(event: Any) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("full")


@pytest.fixture(scope="module", params=list(MODELS))
def alone(request: pytest.FixtureRequest, folder: Path) -> tuple[str, dict[str, Any]]:
    """One worker, one part."""
    kind: str = request.param
    return kind, start(full_run(folder / kind, kind, parts=1), ignore)


def test_one_process_equals_pyg(folder: Path, alone: tuple[str, dict[str, Any]]) -> None:
    kind, report = alone
    assert report["loss"] == pytest.approx(reference(full_run(folder / kind, kind), kind).losses, rel=1e-8)
    assert report["loss"][-1] < report["loss"][0]


def test_first_gradients_equal_those_of_pyg(folder: Path) -> None:
    run = full_run(folder / "gradients", "gat", workers=2, epochs=1)
    expected, found = reference(run, "gat").gradients, start(run, ignore, first_gradients)
    for name, gradient in expected.items():
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float64), gradient, rtol=1e-10, atol=1e-13)


PLACEMENTS = [
    {"workers": 1, "parts": 3, "partitioner": Random()},
    {"workers": 2, "parts": 4, "partitioner": Metis()},
    {"workers": 3, "parts": 3, "partitioner": Spinner()},
    {"workers": 2, "parts": 5, "partitioner": DegreeBasedHashing()},
]


def name_of(placement: dict[str, Any]) -> str:
    """`2-5-dbh`."""
    return f"{placement['workers']}-{placement['parts']}-{PARTITIONERS.name_of(type(placement['partitioner']))}"


@pytest.mark.parametrize("placement", PLACEMENTS, ids=name_of)
def test_any_placement_equals_one_process(
    folder: Path, alone: tuple[str, dict[str, Any]], placement: dict[str, Any]
) -> None:
    kind, report = alone
    out = folder / f"{kind}-{name_of(placement)}"
    placed = start(full_run(out, kind, **placement), ignore)
    assert placed["loss"] == pytest.approx(report["loss"], rel=1e-8)
    assert same_metrics(placed["metrics"], report["metrics"])
    if placement["workers"] > 1:
        assert placed["bytes"]["halo"] > 0


def test_bytes_of_the_exact_exchange_are_the_least(folder: Path) -> None:
    """Every boundary row of every layer above the first, there and back, and nothing else."""
    run = full_run(folder / "bytes", "sage", workers=3, parts=3, partitioner=Metis(), epochs=2)
    report = start(run, ignore)
    epochs, width, size = 2, 8, 8
    least = report["quality"]["communication_volume"] * width * size * epochs
    lanes = {lane: sent for lane, sent in report["bytes_by_lane"].items() if lane.startswith("halo/")}
    assert lanes == {f"halo/{layer}/{way}": least for layer in range(1, LAYERS) for way in ("forward", "backward")}

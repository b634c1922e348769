"""The whole promise of exact full-graph training: every partitioner, 1 to 4 workers, Cora and 20 thousand nodes.

`pytest -m slow tests/test_full_graph_exact.py`; Cora's file is $SHARDYARD_CORA.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pyg_reference import MODELS, Answer, first_gradients, full_run, reference

from framework.data.cora import VARIABLE as CORA
from framework.data.generators import Planted
from framework.data.npz import Npz
from framework.registry import PARTITIONERS
from launch.start import start

GRAPHS: dict[str, Any] = {
    "cora": Npz(path=os.environ.get(CORA, "cora.npz")),
    "planted": Planted(nodes=20_000, edges=200_000, blocks=40, classes=8, features=16),
}
BUILT_IN = ("dbh", "fennel", "hdrf", "ldg", "metis", "random", "range", "spinner")
PLACEMENTS = [(1 + number % 4, name) for number, name in enumerate(BUILT_IN)] + [(4, "dbh"), (3, "spinner")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], Answer]:
    """What PyG said, by graph and model; asked once."""
    return {}


def ignore(event: Any) -> None:
    """Nobody watches."""


def test_every_built_in_partitioner_is_placed() -> None:
    names = [entry.name for entry in PARTITIONERS.entries() if entry.module.startswith("partitioners.")]
    assert {name for _, name in PLACEMENTS} == set(names)
    assert {workers for workers, _ in PLACEMENTS} == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize(("workers", "partitioner"), PLACEMENTS)
def test_losses_and_first_gradients_equal_those_of_pyg(
    folder: Path, answers: dict[tuple[str, str], Answer], graph: str, model: str, workers: int, partitioner: str
) -> None:
    if graph == "cora" and not Path(GRAPHS["cora"].path).exists():
        pytest.skip(f"{GRAPHS['cora'].path} is not there; ${CORA} says where Cora's file is.")
    out = folder / f"{graph}-{model}-{workers}-{partitioner}"
    placed = {"partitioner": PARTITIONERS.get(partitioner)(), "parts": workers, "workers": workers}
    run = full_run(out, model, data=GRAPHS[graph], **placed)
    if (graph, model) not in answers:
        answers[graph, model] = reference(run, model)
    expected = answers[graph, model]
    assert start(run, ignore)["loss"] == pytest.approx(expected.losses, rel=1e-8)
    found = start(full_run(out / "gradients", model, data=GRAPHS[graph], **placed), ignore, first_gradients)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float64), gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_single_precision_stays_near(folder: Path, model: str) -> None:
    run = full_run(folder / f"double-{model}", model, data=GRAPHS["planted"])
    single = full_run(folder / f"single-{model}", model, data=GRAPHS["planted"], workers=2, dtype="float32")
    assert start(single, ignore)["loss"] == pytest.approx(start(run, ignore)["loss"], rel=1e-3)

"""The whole promise of exact full-graph training: every partitioner on 1 to 4 workers, Cora and 20 thousand nodes.

`pytest -m slow tests/test_full_graph_exact.py`; Cora's file is $SHARDYARD_CORA.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pyg_reference import MODELS, Answer, full_run, gradients_and_losses, reference
from worker_processes import together

from framework.comm.group import Group
from framework.data.cora import VARIABLE as CORA
from framework.data.generators import Planted
from framework.data.npz import Npz
from framework.engine.run import Run, Worker
from framework.registry import PARTITIONERS
from launch.start import start

GRAPHS: dict[str, Any] = {
    "cora": Npz(path=os.environ.get(CORA, "cora.npz")),
    "planted": Planted(nodes=20_000, edges=200_000, blocks=40, classes=8, features=16),
}
BUILT_IN = ("dbh", "fennel", "hdrf", "ldg", "metis", "random", "range", "spinner")
WORKERS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], Answer]:
    """What PyG said, by graph and model; asked once."""
    return {}


def ignore(event: Any) -> None:
    """Nobody watches."""


def learned(group: Group, run: Run) -> Any:
    """The first gradients and all losses of one worker; its store is there."""
    prepared = run.workload.prepare(Path(run.store), map, ignore)
    worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=ignore)
    return gradients_and_losses(run, worker)


def test_every_built_in_partitioner_is_placed() -> None:
    names = [entry.name for entry in PARTITIONERS.entries() if entry.module.startswith("partitioners.")]
    assert set(BUILT_IN) == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("partitioner", BUILT_IN)
def test_losses_and_first_gradients_equal_those_of_pyg(
    folder: Path, answers: dict[tuple[str, str], Answer], graph: str, model: str, partitioner: str, workers: int
) -> None:
    if graph == "cora" and not Path(GRAPHS["cora"].path).exists():
        pytest.skip(f"{GRAPHS['cora'].path} is not there; ${CORA} says where Cora's file is.")
    placed = {"partitioner": PARTITIONERS.get(partitioner)(), "parts": workers, "workers": workers}
    run = full_run(folder / f"{graph}-{model}-{workers}-{partitioner}", model, data=GRAPHS[graph], **placed)
    if (graph, model) not in answers:
        answers[graph, model] = reference(run, model)
    run.workload.prepare(Path(run.store), map, ignore)
    expected, found = answers[graph, model], together(workers, learned, run)[0]
    assert found["loss"] == pytest.approx(expected.losses, rel=1e-8)
    for name, gradient in expected.gradients.items():
        given = torch.tensor(found["gradients"][name], dtype=torch.float64)
        torch.testing.assert_close(given, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_single_precision_stays_near(folder: Path, model: str) -> None:
    run = full_run(folder / f"double-{model}", model, data=GRAPHS["planted"])
    single = full_run(folder / f"single-{model}", model, data=GRAPHS["planted"], workers=2, dtype="float32")
    assert start(single, ignore)["loss"] == pytest.approx(start(run, ignore)["loss"], rel=1e-3)

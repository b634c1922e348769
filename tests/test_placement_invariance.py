"""A run's result does not depend on where it was computed: workers, parts, partitioner, reach, launcher."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from node_runs import GRAPH, blocks_and_report, same_metrics, small_run

from framework.engine.evaluate import predict
from framework.errors import InputError
from framework.models.nodes import GAT, GCN, SAGE
from framework.registry import LAUNCHERS, PARTITIONERS
from framework.sample.labor import Labor
from framework.sample.ladies import Ladies
from launch.local import Local
from launch.ray import Ray
from launch.start import start
from partitioners.hdrf import HighDegreeReplicatedFirst
from partitioners.metis import Metis
from partitioners.random import Random
from partitioners.spinner import Spinner

EPOCHS = 10


def ignore(event: Any) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """One worker, one part."""
    return start(small_run(folder / "alone", epochs=EPOCHS, parts=1), ignore, blocks_and_report)


# Every value of every axis is met by several of the others; the slow test walks the whole product.
PLACEMENTS = [
    {"workers": 1, "parts": 4, "partitioner": Metis()},
    {"workers": 1, "parts": 8, "partitioner": Spinner()},
    {"workers": 2, "parts": 1, "partitioner": Random()},
    {"workers": 2, "parts": 4, "partitioner": Spinner(), "reach": "owned"},
    {"workers": 4, "parts": 8, "partitioner": Metis(), "reach": "owned"},
]
TOGETHER: list[dict[str, Any]] = [
    {"workers": 1, "parts": 1},
    {"workers": 2, "parts": 4, "partitioner": Metis(), "reach": "owned", "topology_reach": "all"},
    {"workers": 4, "parts": 8, "partitioner": Spinner(), "reach": "owned"},
]
PRODUCT = [
    {"workers": workers, "parts": parts, "partitioner": partitioner, "launcher": launcher, "reach": "owned"}
    for workers in (1, 2, 4)
    for parts in (1, 4, 8)
    for partitioner in (Random(), Metis(), Spinner())
    for launcher in (Local(), Ray())
]


def name_of(placement: dict[str, Any]) -> str:
    """`2-4-metis-owned-local`."""
    partitioner = PARTITIONERS.name_of(type(placement["partitioner"]))
    launcher = LAUNCHERS.name_of(type(placement.get("launcher", Local())))
    return f"{placement['workers']}-{placement['parts']}-{partitioner}-{placement.get('reach', 'host')}-{launcher}"


def assert_same(folder: Path, alone: dict[str, Any], placement: dict[str, Any]) -> None:
    """Same blocks, same losses, same metrics."""
    run = small_run(folder / name_of(placement), epochs=EPOCHS, **placement)
    report = start(run, ignore, blocks_and_report)
    assert report["blocks"] == alone["blocks"]
    assert report["loss"] == pytest.approx(alone["loss"], rel=1e-9)
    assert len(report["loss"]) == EPOCHS
    assert same_metrics(report["metrics"], alone["metrics"])
    assert report["run_digest"] == alone["run_digest"]


@pytest.mark.parametrize("placement", PLACEMENTS, ids=name_of)
def test_loss_and_blocks_are_the_same_anywhere(folder: Path, alone: dict[str, Any], placement: dict[str, Any]) -> None:
    assert_same(folder, alone, placement)


@pytest.mark.slow
@pytest.mark.parametrize("placement", PRODUCT, ids=name_of)
def test_loss_and_blocks_are_the_same_over_the_whole_product(
    folder: Path, alone: dict[str, Any], placement: dict[str, Any]
) -> None:
    assert_same(folder, alone, placement)


@pytest.mark.parametrize(
    "model", [GCN(hidden=16), GAT(hidden=4, heads=4, input_dropout=0.3, attention_dropout=0.3)], ids=["gcn", "gat"]
)
def test_other_models_are_as_indifferent(folder: Path, model: Any) -> None:
    losses = [
        start(small_run(folder / f"{type(model).__name__}-{workers}", model=model, workers=workers, epochs=3), ignore)
        for workers in (1, 2)
    ]
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=1e-9)


@pytest.mark.parametrize("layer_dependent", [False, True])
def test_draws_that_nodes_share_are_as_indifferent(folder: Path, layer_dependent: bool) -> None:
    sampler = Labor(fanouts=(4, 3), layer_dependent=layer_dependent)
    name = f"labor-{layer_dependent}"
    one, three = (
        start(
            small_run(folder / f"{name}-{workers}", sampler=sampler, workers=workers, reach="owned", epochs=3),
            ignore,
            blocks_and_report,
        )
        for workers in (1, 3)
    )
    assert three["blocks"] == one["blocks"]
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-9)


@pytest.mark.parametrize("model", [SAGE(hidden=16), GAT(hidden=4, heads=2)], ids=["sage", "gat"])
def test_draws_for_all_workers_together_are_as_indifferent(folder: Path, model: Any) -> None:
    settings = {"sampler": Ladies(budgets=(300, 200)), "model": model, "epochs": 3}
    name = f"ladies-{type(model).__name__}"
    one, *others = (
        start(small_run(folder / f"{name}-{number}", **settings, **placement), ignore, blocks_and_report)
        for number, placement in enumerate(TOGETHER)
    )
    for other in others:
        assert other["blocks"] == one["blocks"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)
        assert same_metrics(other["metrics"], one["metrics"])


def test_float32_agrees_over_the_first_epoch(folder: Path) -> None:
    settings = {"dtype": "float32", "epochs": 1}
    one = start(small_run(folder / "one", **settings), ignore)
    other = start(small_run(folder / "other", partitioner=Metis(), parts=8, **settings), ignore)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_vertex_cut_is_refused_with_its_reason(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'hdrf' is a vertex-cut.*Choose an edge-cut: .*metis"):
        start(small_run(folder / "cut", partitioner=HighDegreeReplicatedFirst()), ignore)


def test_predictions_cover_every_node_once_whoever_makes_them(folder: Path, alone: dict[str, Any]) -> None:
    tables = []
    for workers, parts in ((1, 1), (2, 4)):
        run = small_run(folder / "alone", epochs=EPOCHS, parts=parts, workers=workers, reach="owned")
        answer = start(run, ignore, predict)
        tables.append(parquet.read_table(answer["path"]))
    one, two = tables
    assert one["id"].to_pylist() == two["id"].to_pylist() == list(range(GRAPH.nodes))
    assert one["class"] == two["class"]
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), rel=1e-9)

"""geo-GCN and its baselines in runs: one worker and two learn the same; what was stopped goes on as if it was not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from shapes import Shapes, shape_run, told_by_workers

from framework.engine.run import Run
from framework.graph.coarsen import Voxel
from framework.models.geo_gcn import GeoGCN, GraphGCN, PosGCN

KINDS: dict[str, dict[str, Any]] = {
    "geo-gcn": {"model": GeoGCN(hidden=6, filters=4, layers=2)},
    "geo-gcn of voxels": {
        "model": GeoGCN(hidden=6, filters=4, layers=2, pooling=Voxel(size=0.4)),
        "data": Shapes(targets=2, dimensions=3, weighted=True),
        "monitor": "validation_standard_rmse",
    },
    "graph-gcn": {"model": GraphGCN(hidden=6, layers=2)},
    "pos-gcn": {"model": PosGCN(hidden=6, layers=2)},
}


def runs_of(folder: Path, workers: int) -> dict[str, Run]:
    """A run of every kind; one that is stopped; the same, to its end."""
    kinds = {kind: shape_run(folder / kind, **settings, epochs=3, workers=workers) for kind, settings in KINDS.items()}
    stopped = shape_run(folder / "stopped", **KINDS["geo-gcn"], epochs=1, workers=workers)
    return {**kinds, "stopped": stopped, "resumed": dataclasses.replace(stopped, epochs=3)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, Any]]]:
    """What they report, by the number of workers."""
    return told_by_workers(tmp_path_factory, runs_of)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_do_not_show(told: dict[int, dict[str, dict[str, Any]]], kind: str) -> None:
    """Dropout, pooling and every augmentation on."""
    alone, both = told[1][kind], told[2][kind]
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-9)
    assert both["metrics"] == pytest.approx(alone["metrics"], rel=1e-9)
    assert len(set(alone["loss"])) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_stopped_goes_on(told: dict[int, dict[str, dict[str, Any]]], workers: int) -> None:
    resumed, straight = told[workers]["resumed"], told[workers]["geo-gcn"]
    assert resumed["loss"][-2:] == straight["loss"][-2:]
    assert resumed["metrics"] == straight["metrics"]

"""Runs by layout: the losses of every epoch are those of the owner's layout; what does not go together is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from node_runs import same_metrics, small_run

from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.layout.grid_2d import Grid2D
from framework.comm.layout.owner import Owner
from framework.comm.layout.recompute import Recompute
from framework.comm.layout.rows_1d import Rows1D
from framework.comm.layout.rows_15d import Rows15D
from framework.comm.layout.strategy import Layout
from framework.comm.layout.tensor_parallel import TensorParallel
from framework.engine.run import Run, Worker
from framework.engine.train import train
from framework.errors import InputError
from framework.models.nodes import GAT, GCN, SAGE
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification
from launch import cli
from launch.arguments import parse_run
from launch.start import start
from partitioners.dbh import DegreeBasedHashing
from partitioners.metis import Metis

LAYOUTS: dict[str, Layout] = {
    "owner": Owner(),
    "tensor-parallel": TensorParallel(),
    "rows-1d": Rows1D(),
    "rows-1d-sparse": Rows1D(sparse=True),
    "rows-15d": Rows15D(),
    "grid-2d": Grid2D(),
    "recompute": Recompute(dependencies="compute"),
    "recompute-some": Recompute(width=8, flops=1e7, bandwidth=8e6),
}
MODELS = {"gcn": GCN(hidden=8, dropout=0.5), "sage": SAGE(hidden=8), "gat": GAT(hidden=4, heads=2, dropout=0.3)}
EPOCHS = 5


def full_run(out: Path, model: str, **fields: Any) -> Run:
    """A run on the whole graph, three layers."""
    settings = {
        "epochs": EPOCHS,
        "evaluate_every": 0,
        "reach": "owned",
        "batch_size": 0,
        "partitioner": Metis(),
        **fields,
    }
    return small_run(out, model=MODELS[model], sampler=Full(layers=3), **settings)


def ignore(event: Any) -> None:
    """Nobody watches."""


def with_every_layout(run: Run, worker: Worker) -> dict[str, Any]:
    """The reports of the run with each layout, and of another that was stopped and resumed, in one launch."""
    reports = {}
    for name, layout in LAYOUTS.items():
        assert isinstance(run.workload, NodeClassification)
        workload = dataclasses.replace(run.workload, layout=layout)
        laid = dataclasses.replace(run, workload=workload, out=f"{run.out}-{name}")
        reports[name] = train(laid, worker)
        if name != "owner":
            stopped = dataclasses.replace(laid, out=f"{laid.out}-stopped")
            train(dataclasses.replace(stopped, epochs=2), worker)
            reports[f"{name}, resumed"] = train(stopped, worker)
    return reports


@pytest.mark.parametrize(
    ("model", "workers"),
    [
        ("gcn", 2),
        pytest.param("sage", 2, marks=pytest.mark.slow),
        pytest.param("gat", 2, marks=pytest.mark.slow),
        pytest.param("gcn", 4, marks=pytest.mark.slow),
        pytest.param("gat", 4, marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_the_owners_layout(tmp_path: Path, model: str, workers: int) -> None:
    reports = start(full_run(tmp_path / "out", model, workers=workers), ignore, with_every_layout)
    owner = reports["owner"]
    for name in LAYOUTS:
        assert reports[name]["loss"] == pytest.approx(owner["loss"], rel=1e-10), name
        assert same_metrics(reports[name]["metrics"], owner["metrics"]), name
        resumed = reports.get(f"{name}, resumed", reports[name])
        assert resumed["weights_digest"] == reports[name]["weights_digest"], name
        assert reports[name]["run_digest"] == owner["run_digest"], "a layout is where a run goes, not what it learns"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Of a command that has none."""


@pytest.mark.parametrize(
    ("flags", "layout"),
    [
        (["--layout", "tensor-parallel"], TensorParallel()),
        (["--layout", "rows-1d", "--layout.sparse"], Rows1D(sparse=True)),
        (["--layout", "rows-15d", "--layout.replication", "4"], Rows15D(replication=4)),
        (["--layout", "grid-2d", "--layout.columns", "3"], Grid2D(columns=3)),
        (["--layout", "recompute", "--layout.dependencies", "fetch"], Recompute(dependencies="fetch")),
        (["--layout", "recompute", "--layout.bandwidth", "1e8"], Recompute(bandwidth=1e8)),
    ],
)
def test_a_layout_is_chosen_by_flags(tmp_path: Path, flags: list[str], layout: Layout) -> None:
    run = parse_run(full_run(tmp_path, "gcn"), flags, NoOptions, command="train", example="", about="")[0]
    assert isinstance(run.workload, NodeClassification)
    assert run.workload.layout == layout


def test_layouts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "layouts"]) == 0
    shown = capsys.readouterr().out
    for name in ("owner", "tensor-parallel", "rows-1d", "rows-15d", "grid-2d", "recompute"):
        assert name in shown.split()


def test_a_halo_strategy_is_the_owners_layouts_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--layout rows-1d is exact; it takes no --halo boundary-sampled"):
        full_run(tmp_path, "gcn", layout=Rows1D(), halo=BoundarySampled(p=0.5))


def test_sampled_runs_have_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--layout grid-2d is for training on the whole graph"):
        small_run(tmp_path, layout=Grid2D())


@pytest.mark.parametrize("layout", [layout for name, layout in LAYOUTS.items() if name != "owner"], ids=str)
def test_a_vertex_cut_is_refused(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(InputError, match="needs all in-edges of a node at its owner; .* is of a vertex-cut"):
        start(full_run(tmp_path / "out", "gcn", layout=layout, partitioner=DegreeBasedHashing(), parts=2), ignore)


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (Rows15D(replication=2), "--layout.replication is 2, which does not divide --workers 1; expected one of 1"),
        (Grid2D(columns=3), "--layout.columns is 3, which does not divide --workers 1"),
    ],
)
def test_a_grid_has_whole_rows(tmp_path: Path, layout: Layout, match: str) -> None:
    with pytest.raises(InputError, match=match):
        start(full_run(tmp_path / "out", "gcn", layout=layout), ignore)


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        (Rows15D, {"replication": 0}),
        (Grid2D, {"columns": -1}),
        (Recompute, {"bandwidth": 0}),
        (Recompute, {"flops": -1}),
        (Recompute, {"width": 0}),
        (Recompute, {"memory": -1}),
    ],
)
def test_settings_without_a_meaning_are_refused(layout: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--layout.{next(iter(fields))} is "):
        layout(**fields)

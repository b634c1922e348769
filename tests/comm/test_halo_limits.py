"""Whole runs by halo strategies: at its exact limit each equals the exact one, and resumed equals never stopped."""

from pathlib import Path
from typing import Any

import pytest
from halo_runs import ATTENTION, SHORT, STOP, SUMS, halo_run, reports

from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.exact import Exact
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.strategy import HaloStrategy
from framework.models.node_model import NodeModel

MODELS: dict[str, NodeModel] = {"sums": SUMS, "heads": ATTENTION}
LIMITS: dict[str, HaloStrategy] = {
    "boundary-sampled": BoundarySampled(p=1.0),
    "pipelined": Pipelined(staleness=0),
    "bounded-epochs": Bounded(gap=0),
    "bounded-variation": Bounded(bound="variation", variation=0.0),
}
KEEPING: dict[str, HaloStrategy] = {
    "pipelined": Pipelined(staleness=2, smoothing=0.5),
    "bounded-epochs": Bounded(gap=2),
    "bounded-variation": Bounded(bound="variation", variation=0.9),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every run reports, all in the same two workers."""
    folder: Path = tmp_path_factory.mktemp("limits")
    runs = {}
    for kind, model in MODELS.items():
        for name, strategy in {"exact": Exact(), **LIMITS}.items():
            runs[f"{name}/{kind}"] = halo_run(folder / f"{name}-{kind}", strategy, model, epochs=SHORT)
    for name, strategy in KEEPING.items():
        runs[f"{name}/whole"] = halo_run(folder / f"{name}-whole", strategy)
        runs[f"{name}/cut"] = halo_run(folder / f"{name}-cut", strategy, epochs=STOP)
        runs[f"{name}/resumed"] = halo_run(folder / f"{name}-cut", strategy)
    return dict(zip(runs, reports(folder, 2, list(runs.values())), strict=True))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("strategy", LIMITS)
def test_the_limit_is_exact(told: dict[str, dict[str, Any]], strategy: str, kind: str) -> None:
    assert told[f"{strategy}/{kind}"]["loss"] == pytest.approx(told[f"exact/{kind}"]["loss"], rel=1e-12)


@pytest.mark.parametrize("strategy", KEEPING)
def test_resumed_equals_never_stopped(told: dict[str, dict[str, Any]], strategy: str) -> None:
    whole, resumed = told[f"{strategy}/whole"], told[f"{strategy}/resumed"]
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["loss"] == whole["loss"]
    assert whole["loss"][:SHORT] != told["exact/sums"]["loss"], "the strategy is away from its limit"

"""Halo strategies on a vertex-cut: at its exact limit each equals the exact one; away from it rows stay finite."""

import math
from pathlib import Path
from typing import Any

import pytest
from halo_runs import ATTENTION, STOP, SUMS, halo_run, reports

from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.exact import Exact
from framework.comm.halo.never import Never
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.quantized import Quantized
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.halo.variable_rate import VariableRate
from framework.models.node_model import NodeModel
from partitioners.hdrf import HighDegreeReplicatedFirst

MODELS: dict[str, NodeModel] = {"sums": SUMS, "heads": ATTENTION}
LIMITS: dict[str, HaloStrategy] = {
    "boundary-sampled": BoundarySampled(p=1.0),
    "pipelined": Pipelined(staleness=0),
    "bounded": Bounded(gap=0),
    "quantized": Quantized(bits=32),
    "variable-rate": VariableRate(first=1.0, last=1.0),
}
AWAY: dict[str, HaloStrategy] = {
    "boundary-sampled": BoundarySampled(p=0.5),
    "never": Never(),
    "pipelined": Pipelined(staleness=1),
    "bounded": Bounded(gap=2),
    "quantized": Quantized(bits=8),
}
CUT = {"partitioner": HighDegreeReplicatedFirst(), "parts": 3, "epochs": STOP}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every run reports, all in the same two workers."""
    folder: Path = tmp_path_factory.mktemp("cut")
    runs = {}
    for kind, model in MODELS.items():
        for name, strategy in {"exact": Exact(), **LIMITS}.items():
            runs[f"{name}/{kind}"] = halo_run(folder / f"{name}-{kind}", strategy, model, **CUT)
        for name, strategy in AWAY.items():
            runs[f"{name}/{kind}/away"] = halo_run(folder / f"{name}-{kind}-away", strategy, model, **CUT)
    return dict(zip(runs, reports(folder, 2, list(runs.values())), strict=True))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("strategy", LIMITS)
def test_the_limit_is_exact(told: dict[str, dict[str, Any]], strategy: str, kind: str) -> None:
    assert told[f"{strategy}/{kind}"]["loss"] == pytest.approx(told[f"exact/{kind}"]["loss"], rel=1e-12)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("strategy", AWAY)
def test_away_from_it_losses_are_other_numbers(told: dict[str, dict[str, Any]], strategy: str, kind: str) -> None:
    losses = told[f"{strategy}/{kind}/away"]["loss"]
    assert all(map(math.isfinite, losses))
    assert losses != pytest.approx(told[f"exact/{kind}"]["loss"], rel=1e-9)

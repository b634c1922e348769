"""Whole runs by halo strategies: each equals the exact one at its limit, a reference away from it, itself resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from halo_runs import ATTENTION, SHORT, STOP, SUMS, halo_run, reports
from late_reference import Used, late_losses, newest
from torch import Tensor

from framework.comm.halo.boundary_sampled import SAMPLING, BoundarySampled, drawn
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.corrected import Corrected
from framework.comm.halo.exact import Exact
from framework.comm.halo.never import Never
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.strategy import HaloStrategy
from framework.models.node_model import NodeModel
from framework.random import Key
from partitioners.random import hashed_parts

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


def averaged(sent: list[Tensor]) -> Tensor:
    """What a pipeline of two steps uses, half of it what it used before."""
    average = sent[0]
    for rows in sent[1 : len(sent) - 2]:
        average = (average + rows) / 2
    return average


def sampled(between: Tensor, key: Key) -> Tensor:
    """What an edge counts for where 0.4 of the nodes that a part has for another are drawn."""
    part, weights = torch.from_numpy(hashed_parts(len(between), 2, Key.root(0))), torch.zeros(between.shape).double()
    for owner, peer in ((0, 1), (1, 0)):
        boundary = (between & (part == peer)[:, None] & (part == owner)).any(0).nonzero().squeeze(1)
        weights[:, boundary[drawn(0.4, boundary, key.fold(SAMPLING).fold(owner, peer))]] = 1 / 0.4
    return weights


USED: dict[str, Used] = {
    "exact": newest,
    "pipelined": averaged,
    "bounded-epochs": lambda sent: sent[(len(sent) - 1) // 3 * 3],
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
    runs["boundary-sampled/whole"] = halo_run(folder / "sampled", BoundarySampled(p=0.4))
    return dict(zip(runs, reports(folder, 2, list(runs.values())), strict=True))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("strategy", LIMITS)
def test_the_limit_is_exact(told: dict[str, dict[str, Any]], strategy: str, kind: str) -> None:
    assert told[f"{strategy}/{kind}"]["loss"] == pytest.approx(told[f"exact/{kind}"]["loss"], rel=1e-12)


def test_a_worker_alone_is_exact(tmp_path: Path) -> None:
    alone: dict[str, HaloStrategy] = {"exact": Exact(), "sampled": BoundarySampled(), "never": Never(), **KEEPING}
    alone["corrected"] = Corrected()
    runs = [halo_run(tmp_path / name, strategy, epochs=SHORT) for name, strategy in alone.items()]
    exact, *others = reports(tmp_path, 1, runs)
    for other in others:
        assert other["loss"] == pytest.approx(exact["loss"], rel=1e-12)


@pytest.mark.parametrize("strategy", KEEPING)
def test_resumed_equals_never_stopped(told: dict[str, dict[str, Any]], strategy: str) -> None:
    whole, resumed = told[f"{strategy}/whole"], told[f"{strategy}/resumed"]
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["loss"] == whole["loss"]
    assert whole["loss"][:SHORT] != told["exact/sums"]["loss"], "the strategy is away from its limit"


def test_the_staleness_seen_is_reported(told: dict[str, dict[str, Any]]) -> None:
    late = told["pipelined/whole"]["staleness"]
    assert set(late.values()) == {KEEPING["pipelined"].staleness}  # type: ignore[attr-defined]
    assert told["exact/sums"]["staleness"] == {}
    assert set(told["exact/sums"]["busy"]) == {"computing", "waiting", "packing"}


@pytest.mark.parametrize("strategy", USED)
def test_what_is_late_is_what_the_reference_has(told: dict[str, dict[str, Any]], strategy: str, tmp_path: Path) -> None:
    losses = told["exact/sums" if strategy == "exact" else f"{strategy}/whole"]["loss"]
    run = halo_run(tmp_path, Exact(), epochs=len(losses))
    assert losses == pytest.approx(late_losses(run, 2, USED[strategy]), rel=1e-10)


def test_what_is_left_out_is_what_the_reference_leaves_out(told: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    losses = told["boundary-sampled/whole"]["loss"]
    assert losses == pytest.approx(late_losses(halo_run(tmp_path, Exact()), 2, weights=sampled), rel=1e-10)

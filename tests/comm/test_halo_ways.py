"""Whole runs by strategies that change the way rows take: as exact, and under links that compress."""

import dataclasses
from typing import Any

import pytest
from halo_runs import ATTENTION, EPOCHS, SHORT, STOP, SUMS, halo_run, reports

from framework.comm.halo.exact import Exact
from framework.comm.halo.hierarchical import Hierarchical
from framework.comm.halo.link import Link
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.planned import Planned
from framework.comm.halo.quantized import Quantized
from framework.comm.halo.rematerialized import Rematerialized
from framework.comm.halo.strategy import HaloExchange, HaloStrategy
from framework.models.node_model import NodeModel
from partitioners.dbh import DegreeBasedHashing


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnHosts:
    """A strategy that is told of other hosts than there are."""

    inner: HaloStrategy

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        hosts = plan.group.hosts
        plan.group.hosts = ("a", "b", "b")
        exchange = self.inner.open(plan, link)
        plan.group.hosts = hosts
        return exchange


WAYS: dict[str, HaloStrategy] = {
    "rematerialized": Rematerialized(),
    "hierarchical": OnHosts(inner=Hierarchical()),
    "planned": OnHosts(inner=Planned()),
}
MODELS: dict[str, NodeModel] = {"sums": SUMS, "heads": ATTENTION}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every run reports, all in the same three workers."""
    folder, runs = tmp_path_factory.mktemp("ways"), {}

    def add(name: str, strategy: HaloStrategy, out: str = "", **fields: Any) -> None:
        runs[name] = halo_run(folder / (out or name), strategy, **{"parts": 3, **fields})

    for way, strategy in {"exact": Exact(), **WAYS}.items():
        for kind, model in MODELS.items():
            add(f"{way}-{kind}", strategy, model=model, epochs=SHORT)
            add(f"{way}-{kind}-vertex-cut", strategy, model=model, epochs=SHORT, partitioner=DegreeBasedHashing())
    for way, strategy in WAYS.items():
        rounded = Quantized(bits=8, error_feedback=True, inner=strategy)
        add(f"{way}-rounded", rounded, model=ATTENTION)
        add(f"{way}-rounded-cut", rounded, model=ATTENTION, epochs=STOP)
        add(f"{way}-rounded-resumed", rounded, f"{way}-rounded-cut", model=ATTENTION)
    return dict(zip(runs, reports(folder, 3, list(runs.values())), strict=True))


@pytest.mark.parametrize("cut", ["", "-vertex-cut"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_exact(told: dict[str, dict[str, Any]], way: str, kind: str, cut: str) -> None:
    found, exact = told[f"{way}-{kind}{cut}"], told[f"exact-{kind}{cut}"]
    assert found["loss"] == pytest.approx(exact["loss"], rel=1e-12)
    assert sum(found["sent"].values()) > 0


@pytest.mark.parametrize("way", WAYS)
def test_compressed_rows_take_every_way(told: dict[str, dict[str, Any]], way: str) -> None:
    rounded, resumed, exact = told[f"{way}-rounded"], told[f"{way}-rounded-resumed"], told["exact-heads"]
    assert len(rounded["loss"]) == EPOCHS
    assert rounded["loss"][:SHORT] == pytest.approx(exact["loss"], rel=0.02)
    assert rounded["loss"][:SHORT] != exact["loss"]
    assert resumed["loss"] == rounded["loss"]
    assert resumed["weights_digest"] == rounded["weights_digest"]


def test_bytes_between_hosts_are_counted_apart(told: dict[str, dict[str, Any]]) -> None:
    sent = told["hierarchical-sums"]["sent"]
    assert sent["halo/1/forward/between"] > 0
    assert sent["halo/1/backward/between"] > 0

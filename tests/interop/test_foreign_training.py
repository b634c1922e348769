"""Networks of PyG and DGL layers trained by the engine: they learn, and the partition does not show."""

from pathlib import Path
from typing import Any

import pytest

from framework.data.generators import Planted
from framework.engine.optimize import Adam
from framework.engine.run import Run
from framework.errors import InputError
from framework.models.node_model import Module
from framework.sample.full import Full
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler
from framework.workloads.nodes import NodeClassification
from launch.start import start
from partitioners.random import Random

EPOCHS = 5


def trained(network: str, sampler: Sampler, parts: int, folder: Path) -> dict[str, Any]:
    """The report of a short run in float64, dropout on."""
    workload = NodeClassification(
        data=Planted(nodes=400, edges=4000, blocks=8, inside=0.9, classes=4, features=12),
        model=Module(network=f"foreign_networks:{network}"),
        sampler=sampler,
        batch_size=64,
        partitioner=Random(),
        parts=parts,
    )
    out = folder / f"run-{parts}"
    run = Run(
        workload=workload,
        epochs=EPOCHS,
        dtype="float64",
        optimizer=Adam(lr=0.03),
        out=str(out),
        store=str(folder / "stores"),
    )
    return start(run, lambda event: None)


@pytest.mark.parametrize("sampler", [Neighbor(fanouts=(4, 3)), Full(layers=2)], ids=["sampled", "full"])
@pytest.mark.parametrize("network", ["pyg_gcn", "pyg_gat", "dgl_sage"])
def test_a_foreign_network_learns_the_same_on_any_partition(network: str, sampler: Sampler, tmp_path: Path) -> None:
    try:
        __import__(f"framework.interop.{network.partition('_')[0]}")
    except InputError as error:
        pytest.skip(str(error))
    one, several = trained(network, sampler, 1, tmp_path), trained(network, sampler, 5, tmp_path)
    assert one["loss"][-1] < 0.9 * one["loss"][0]
    assert several["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert several["metrics"] == pytest.approx(one["metrics"], rel=1e-9)

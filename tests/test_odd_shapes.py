"""Graphs of odd shapes on workers without nodes, edges or training nodes: every exact way to train is one worker's."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from halo_runs import reports
from node_runs import same_metrics, small_run

from framework import config
from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.corrected import Corrected
from framework.comm.halo.delayed import Delayed
from framework.comm.halo.hierarchical import Hierarchical
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.planned import Planned
from framework.comm.halo.rematerialized import Rematerialized
from framework.comm.layout.grid_2d import Grid2D
from framework.comm.layout.recompute import Recompute
from framework.comm.layout.rows_1d import Rows1D
from framework.comm.layout.rows_15d import Rows15D
from framework.comm.layout.tensor_parallel import TensorParallel
from framework.data.dataset import TEST, TRAIN, ArrayRows, RawGraph
from framework.engine.run import Run
from framework.graph.edges import ArrayEdges, EdgeStream
from framework.models.nodes import GAT, SAGE
from framework.partition import NodeParts
from framework.sample.full import Full
from framework.sample.neighbor import Neighbor
from partitioners.hdrf import HighDegreeReplicatedFirst


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few:
    """A handful of nodes."""

    nodes: int
    edges: tuple[tuple[int, int], ...]
    train: tuple[int, ...]
    columns: int = 1
    classes: int = 1

    def fingerprint(self) -> str:
        return config.digest(dataclasses.asdict(self))

    def open(self) -> RawGraph:
        source, target = np.array(self.edges, np.int64).reshape(-1, 2).T.copy()
        rows = np.random.default_rng(0).normal(size=(self.nodes, self.columns)).astype(np.float32)
        return RawGraph(
            edges=ArrayEdges(source=source, target=target, num_nodes=self.nodes),
            features=ArrayRows(array=rows),
            labels=np.arange(self.nodes) % self.classes,
            num_classes=self.classes,
            split=np.where(np.isin(np.arange(self.nodes), self.train), TRAIN, TEST).astype(np.uint8),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Parts that are told."""

    owner: tuple[int, ...]

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        return np.array(self.owner, np.int32)


RING = tuple((node, (node + step) % 5) for node in range(5) for step in (1, 2, 4))
DOUBLED = (*RING, (0, 0), (0, 0), (3, 3), (1, 0), (1, 0), (5, 5))  # node 5 has a loop alone, node 6 nothing
# A graph, the part of each node, parts, workers.
SHAPES: dict[str, tuple[Few, tuple[int, ...], int, int]] = {
    "a part without nodes": (
        Few(nodes=7, edges=DOUBLED, train=(0, 2, 4, 6), columns=3, classes=2), (0, 2, 0, 2, 2, 0, 2), 3, 3
    ),
    "a part without edges or training nodes": (
        Few(nodes=7, edges=RING, train=(0, 2, 3), columns=3, classes=2), (0, 1, 0, 0, 1, 2, 2), 3, 3
    ),
    "more workers than nodes, one column, one class": (Few(nodes=2, edges=((0, 1), (1, 0)), train=(0,)), (0, 2), 3, 4),
    "no edge": (Few(nodes=5, edges=(), train=(0, 1), classes=3), (0, 1, 0, 1, 1), 2, 2),
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "boundary-sampled": {"halo": BoundarySampled(p=1.0)},
    "pipelined": {"halo": Pipelined(staleness=0)},
    "bounded": {"halo": Bounded(bound="variation", variation=0.0)},
    "corrected": {"halo": Corrected(local_steps=0)},
    "hierarchical": {"halo": Hierarchical()},
    "planned": {"halo": Planned(stages=3, heaps=2)},
    "rematerialized": {"halo": Rematerialized(ahead=1)},
    "tensor-parallel": {"layout": TensorParallel()},
    "rows-1d": {"layout": Rows1D()},
    "rows-15d": {"layout": Rows15D(replication=1)},
    "grid-2d": {"layout": Grid2D()},
    "recompute": {"layout": Recompute(dependencies="compute")},
    "vertex-cut": {"partitioner": HighDegreeReplicatedFirst()},
    "delayed": {"partitioner": HighDegreeReplicatedFirst(), "halo": Delayed(r=0)},
    "sampled": {"sampler": Neighbor(fanouts=(2, 1))},
}
MODELS = {"sage": SAGE(hidden=3, dropout=0.3), "gat": GAT(hidden=2, heads=2, dropout=0.3, attention_dropout=0.3)}


FIRST, *OTHERS = SHAPES


@pytest.mark.parametrize("shape", [FIRST, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_every_exact_way_is_that_of_one_worker(tmp_path: Path, shape: str) -> None:
    graph, owner, parts, workers = SHAPES[shape]

    def run(name: str, **fields: Any) -> Run:
        settings = {"data": graph, "sampler": Full(layers=2), "batch_size": 0, "reach": "owned", "epochs": 2, **fields}
        return small_run(tmp_path / name, **settings)

    alone, spread = {}, {}
    for kind, model in MODELS.items():
        one = {"model": model, "parts": 1, "partitioner": Given(owner=(0,) * graph.nodes)}
        alone |= {kind: run(kind, **one), f"{kind} sampled": run(f"{kind}-sampled", **one, **WAYS["sampled"])}
        several = {"model": model, "parts": parts, "partitioner": Given(owner=owner)}
        spread |= {(kind, way): run(f"{kind} by {way}", **{**several, **how}) for way, how in WAYS.items()}
    expected = dict(zip(alone, reports(tmp_path, 1, list(alone.values())), strict=True))
    found = dict(zip(spread, reports(tmp_path, workers, list(spread.values())), strict=True))
    for (kind, way), report in found.items():
        wanted = expected[f"{kind} sampled" if way == "sampled" else kind]
        assert report["loss"] == pytest.approx(wanted["loss"], rel=1e-9, abs=1e-12), (kind, way)
        assert same_metrics(report["metrics"], wanted["metrics"]), (kind, way)

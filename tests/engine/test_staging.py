"""A run on hosts that hold the shards of their own workers alone."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_runs import GRAPH, small_run
from worker_processes import together

from framework.comm.group import CPU, Group
from framework.data.dataset import RawGraph
from framework.engine.run import Prepared, Worker
from framework.engine.staging import with_data
from framework.engine.train import train
from framework.models.spagan import SPAGAN
from framework.sample.full import Full
from framework.workloads.nodes import NodeTask
from framework.workloads.paths import PathSearch

PARTS, WORKERS = 2, 3  # one worker owns no part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """The small graph, whose nodes have names."""

    def fingerprint(self) -> str:
        """Of the graph without them."""
        return GRAPH.fingerprint()

    def open(self) -> RawGraph:
        """Text for the number of each node."""
        return dataclasses.replace(GRAPH.open(), ids=np.array([f"node {number}" for number in range(GRAPH.nodes)]))


def apart(group: Group, root: Path, store: str, data_digest: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Trains as if every worker were on a host of its own, the store being on the first."""
    group.hosts = tuple(f"host{rank}/0" for rank in range(group.size))
    mine = root / f"host{group.rank}" / "stores"
    run = small_run(mine.parent / f"run-{group.size}", parts=PARTS, epochs=2, workers=group.size, **fields)
    prepared = Prepared(path=mine / store, data_digest=data_digest, seconds=0.0, facts={})
    worker = Worker(group=group, prepared=prepared, device=CPU, watch=lambda event: None)
    report = train(run, worker)
    held = {file.relative_to(prepared.path).as_posix() for file in prepared.path.rglob("*.arrow")}
    task = run.workload.open(run, with_data(run, worker))
    assert isinstance(task, NodeTask)
    names = task.predict(task.model().double(), embeddings=False)["id"]
    return {"loss": report["loss"], "held": held, "names": names.to_pylist(), "type": str(names.type)}


def prepared_on(host: str, root: Path, fields: dict[str, Any]) -> tuple[str, str]:
    """The name of the store that is prepared there, and what it is of."""
    workload = small_run(root / "run", parts=PARTS, **fields).workload
    prepared = workload.prepare(root / host / "stores", map, lambda event: None)
    return prepared.path.name, prepared.data_digest


@pytest.mark.parametrize("sampler", [{}, {"sampler": Full(layers=2), "batch_size": 0}], ids=["sampled", "whole"])
def test_a_host_holds_what_its_workers_read(tmp_path: Path, sampler: dict[str, Any]) -> None:
    fields = {**sampler, "data": Named()}
    store = prepared_on("host0", tmp_path, fields)
    answers = together(WORKERS, apart, tmp_path, *store, fields)
    assert answers[0]["loss"] == pytest.approx(together(1, apart, tmp_path, *store, fields)[0]["loss"], rel=1e-9)
    whole = answers[0]["held"]
    by_part = [{name for name in whole if name.startswith(f"part-{part:05d}/")} for part in range(PARTS)]
    assert whole == by_part[0] | by_part[1]
    owned = [worker for worker in answers if worker["names"]]
    assert len(owned) == PARTS
    assert [worker["held"] for worker in answers if not worker["names"]] == [
        {"part-00000/ids.arrow", "part-00000/original.arrow"}
    ]
    assert owned[1]["held"] == by_part[1]
    assert sorted(answers[0]["names"] + answers[1]["names"] + answers[2]["names"]) == sorted(
        f"node {number}" for number in range(GRAPH.nodes)
    )
    assert {worker["type"] for worker in answers} == {"string"}
    # Where some parts lie alone, the store is prepared again, and not refused.
    assert prepared_on("host1", tmp_path, fields) == store
    here, there = (tmp_path / host / "stores" / store[0] for host in ("host0", "host1"))
    assert {file.relative_to(there).as_posix() for file in there.rglob("*.arrow")} == whole
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in whole)


def test_edges_are_given_without_features(tmp_path: Path) -> None:
    fields = {"topology_reach": "all"}
    store = prepared_on("host0", tmp_path, fields)
    answers = together(2, apart, tmp_path, *store, fields)
    lacking = {name.partition("/")[2] for name in answers[0]["held"] - answers[1]["held"]}
    assert lacking == {"features.arrow", "labels.arrow", "split.arrow"}
    assert answers[0]["loss"] == pytest.approx(together(1, apart, tmp_path, *store, fields)[0]["loss"], rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"topology_reach": "all"}, "indices"), ({"reach": "all"}, "features"), ({}, "labels")],
    ids=["edges", "rows", "own"],
)
def test_a_byte_that_a_disk_has_changed_is_not_learned_from(tmp_path: Path, fields: dict[str, Any], name: str) -> None:
    """In a host's copy of another host's part, too."""
    store = prepared_on("host0", tmp_path, fields)
    together(2, apart, tmp_path, *store, fields)
    part = 1 if name == "labels" else 0
    file = tmp_path / "host1" / "stores" / store[0] / f"part-{part:05d}/{name}.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError, match=f"host1.*part-{part:05d}/{name}.arrow' was altered"):
        together(2, apart, tmp_path, *store, {**fields, "data": Named()})


def test_all_is_given_where_all_is_read(tmp_path: Path) -> None:
    paths = {"model": SPAGAN(hidden=4, heads=2), "paths": PathSearch(refreshes=1)}
    for name, fields in {"reach": {"reach": "all"}, "paths": paths}.items():
        answers = together(2, apart, tmp_path / name, *prepared_on("host0", tmp_path / name, fields), fields)
        assert answers[0]["held"] == answers[1]["held"]

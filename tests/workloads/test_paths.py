"""Attention along searched paths: any number of workers as one, sampled as full-graph, resumed as never stopped."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from spagan_runs import SEARCH, spagan_run
from worker_processes import together

from framework.comm.group import Group
from framework.data.generators import Planted
from framework.engine.evaluate import evaluate
from framework.engine.run import Event, Run, Worker
from framework.engine.train import train
from framework.errors import InputError, LostWorkerError
from framework.graph.path_block import PathBlock
from framework.graph.paths import PathTable
from framework.models.nodes import GAT
from framework.sample.ladies import Ladies
from framework.sample.neighbor import Neighbor
from framework.workloads import node_inference
from framework.workloads import paths as path_search
from framework.workloads.nodes import NodeTask
from framework.workloads.paths import PathSearch
from partitioners.dbh import DegreeBasedHashing
from partitioners.metis import Metis

SPARSE = Planted(nodes=1500, edges=3000, blocks=12, classes=6, features=16)  # so that halos are a part of the graph


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


def trained(group: Group, run: Run, stop: int = -1) -> dict[str, Any]:
    """The report of a run whose store is there; `stop`: the epoch after which it is cut."""

    def watch(event: Event) -> None:
        if event["event"] == "epoch" and event["epoch"] == stop:
            raise StoppedError

    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=watch)
    try:
        report = train(run, worker)
    except StoppedError:
        return {}
    return {**report, "evaluated": evaluate(run, worker)["metrics"]}


def alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
    for mine, theirs in zip(one["stages"], other["stages"], strict=True):
        assert mine["epochs"] == theirs["epochs"]
        assert mine["is"]["recomputed"] == theirs["is"]["recomputed"]
    assert one["evaluated"] == pytest.approx(one["metrics"], rel=1e-9)


def of_table(run: Run, report: dict[str, Any]) -> list[set[tuple[int, ...]]]:
    """The paths of the last table, in original ids, by length."""
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    worker = Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=lambda event: None)
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    original = torch.cat([task.shards.store.shard(part).original for part in range(task.shards.store.parts)])
    table = PathTable.open(Path(run.store) / "paths" / report["stages"][-1]["is"]["table"])
    found = []
    for paths in table.between(0, table.num_nodes).lengths:
        centres = torch.repeat_interleave(torch.arange(table.num_nodes), paths.offsets.diff())
        rows = original[torch.cat([centres[:, None], paths.nodes.long()], dim=1)]
        found.append({tuple(row) for row in rows.tolist()})
    return found


def test_any_number_of_workers_and_parts_is_as_one(tmp_path: Path) -> None:
    run = spagan_run(tmp_path / "one")
    one = trained(Group.alone(), run)
    assert len(one["stages"]) == 2
    assert 0 < one["stages"][1]["is"]["recomputed"] <= 1500
    for workers, parts in ((2, 4), (3, 5)):
        several = spagan_run(tmp_path / f"{workers}", parts=parts)
        report = together(workers, trained, several)[0]
        alike(report, one)
        assert of_table(several, report) == of_table(run, one)


def test_sampled_from_whole_neighbourhoods_is_as_full_graph(tmp_path: Path) -> None:
    one = trained(Group.alone(), spagan_run(tmp_path / "full"))
    sampled = spagan_run(tmp_path / "sampled", sampler=Neighbor(fanouts=(-1, -1)))
    alike(together(2, trained, sampled)[0], one)


def test_sampled_from_whole_neighbourhoods_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = spagan_run(tmp_path / "one", sampler=Neighbor(fanouts=(-1, -1)), epochs=12)
    one = trained(Group.alone(), run)
    monkeypatch.setattr(node_inference, "LAYER_BATCH", 400)
    alike(trained(Group.alone(), dataclasses.replace(run, out=str(tmp_path / "pieces"))), one)


@pytest.mark.parametrize("sampler", [Neighbor(fanouts=(4, 4)), Ladies(budgets=(400, 300))], ids=["neighbor", "ladies"])
def test_sampled_batches(sampler: Neighbor | Ladies, tmp_path: Path) -> None:
    settings = {"sampler": sampler, "batch_size": 512, "parts": 2, "epochs": 8}
    one = trained(Group.alone(), spagan_run(tmp_path / "one", **settings))
    alike(together(2, trained, spagan_run(tmp_path / "two", **settings))[0], one)


def test_stopped_after_every_search_and_resumed(tmp_path: Path) -> None:
    whole = trained(Group.alone(), spagan_run(tmp_path / "whole"))
    for number, ended in enumerate(whole["stages"]):
        cut = spagan_run(tmp_path / f"cut{number}")
        assert trained(Group.alone(), cut, stop=ended["epochs"] + 1) == {}
        resumed = trained(Group.alone(), cut)
        assert resumed["weights_digest"] == whole["weights_digest"]
        assert resumed["loss"] == whole["loss"]


def test_training_goes_on_for_as_long_as_stated_while_paths_are_searched(tmp_path: Path) -> None:
    late = {"paths": dataclasses.replace(SEARCH, staleness=2)}
    waited, one = (
        trained(Group.alone(), spagan_run(tmp_path / "no")),
        trained(Group.alone(), spagan_run(tmp_path / "yes", **late)),
    )
    first, stale = waited["stages"][0], one["stages"][0]
    assert stale["epochs"] == first["epochs"] + 2
    assert stale["is"]["table"] == first["is"]["table"]  # of the attention two epochs before
    assert one["loss"][: first["epochs"]] == waited["loss"][: first["epochs"]]
    assert [stage["is"]["staleness"] for stage in one["stages"]] == [2, 2]
    alike(together(2, trained, spagan_run(tmp_path / "two", parts=3, **late))[0], one)
    for number, stage in enumerate(one["stages"]):
        cut = spagan_run(tmp_path / f"cut{number}", **late)
        assert trained(Group.alone(), cut, stop=stage["epochs"] - 1) == {}
        resumed = trained(Group.alone(), cut)
        assert (resumed["weights_digest"], resumed["loss"]) == (one["weights_digest"], one["loss"])


def test_resumed_with_other_parts(tmp_path: Path) -> None:
    """While the first search is under way nothing depends on them yet; its paths have them in their numbers."""
    late = {"paths": dataclasses.replace(SEARCH, staleness=2)}
    one = trained(Group.alone(), spagan_run(tmp_path / "one", **late))
    entered = one["stages"][0]["epochs"]
    for stop in (entered - 1, entered):
        assert trained(Group.alone(), spagan_run(tmp_path / f"cut{stop}", **late), stop=stop) == {}
    alike(together(2, trained, spagan_run(tmp_path / f"cut{entered - 1}", parts=3, **late))[0], one)
    with pytest.raises(InputError, match="resume it with the --partitioner and --parts that it had"):
        trained(Group.alone(), spagan_run(tmp_path / f"cut{entered}", parts=3, **late))


def test_a_search_that_fails_or_stands_still_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **fields: Any) -> Any:
        raise InputError("the disk is full")

    run = spagan_run(tmp_path / "run", paths=dataclasses.replace(SEARCH, staleness=1))
    monkeypatch.setattr(path_search, "search_paths", full)
    with pytest.raises(InputError, match="the disk is full"):
        trained(Group.alone(), run)
    monkeypatch.setattr(path_search, "search_paths", lambda *arguments, **fields: time.sleep(20))
    with pytest.raises(LostWorkerError, match="got no further for 0.5 s"):
        trained(Group.alone(), dataclasses.replace(run, out=str(tmp_path / "still"), deadline=0.5))


def test_without_searches_it_is_a_graph_attention_network(tmp_path: Path) -> None:
    report = trained(Group.alone(), spagan_run(tmp_path / "none", paths=PathSearch(refreshes=0)))
    assert "stages" not in report
    first = trained(Group.alone(), spagan_run(tmp_path / "some"))["stages"][0]
    assert report["epochs"] == first["epochs"]
    assert report["metrics"] == first["metrics"]


def test_other_networks_have_no_paths(tmp_path: Path) -> None:
    report = trained(Group.alone(), spagan_run(tmp_path / "gat", model=GAT(hidden=4, heads=2)))
    assert "stages" not in report


def test_paths_lead_over_other_workers_nodes(tmp_path: Path) -> None:
    run = spagan_run(tmp_path / "run", partitioner=Metis(), parts=2, data=SPARSE)
    table = trained(Group.alone(), run)["stages"][0]["is"]["table"]
    assert all(0 < beyond < rows for beyond, rows in together(2, outside, run, table))


def outside(group: Group, run: Run, table: str) -> tuple[int, int]:
    """How many rows of other workers' nodes the paths of this one need beyond those of the halo; and all rows."""
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=lambda event: None)
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    task.model()
    assert task.paths is not None
    task.enter({"table": table, "store": task.shards.store.digest, "refresh": 1})
    (batch,) = task.batches(0, 0)
    block = batch.blocks[0]
    assert isinstance(block, PathBlock)
    halo = task.topology.local.block.sources.ids
    return int((~torch.isin(block.sources.ids, halo)).sum()), len(block.sources)


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vertex-cut"):
        trained(Group.alone(), spagan_run(tmp_path / "cut", partitioner=DegreeBasedHashing()))
    for fields, said in (
        ({"refreshes": -1}, "refreshes is -1; expected"),
        ({"degree_ratio": -1.0}, "degree-ratio is -1.0; expected a number of at least 0"),
        ({"degree_ratio": float("inf")}, "degree-ratio is inf; expected"),
        ({"path_ratio": 1.5}, "path-ratio is 1.5; expected a number from 0 to 1"),
        ({"tolerance": float("nan")}, "tolerance is nan; expected"),
    ):
        with pytest.raises(InputError, match=f"--paths.{said}"):
            dataclasses.replace(SEARCH, **fields)

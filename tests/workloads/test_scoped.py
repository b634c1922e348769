"""Runs on ego-nets: the same wherever they are computed, evaluated on nets, too, and rows of many nets fetched once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from node_runs import VARIANTS, same_metrics, sampled_blocks, small_run
from worker_processes import together

from framework.comm.group import CPU, Group
from framework.comm.reach import Shards
from framework.data.generators import Planted
from framework.engine.evaluate import embed, evaluate, predict
from framework.engine.run import Event, Prepared, Run, Worker
from framework.engine.train import train
from framework.errors import InputError
from framework.graph.store import ShardStore
from framework.models.node_model import Module
from framework.models.nodes import GAT, GCN
from framework.models.spagan import SPAGAN
from framework.partition import EdgeCut
from framework.random import Key
from framework.sample.shadow import Shadow
from framework.workloads.node_inference import WHOLE_BATCH
from framework.workloads.nodes import NodeTask
from framework.workloads.paths import PathSearch
from framework.workloads.samples import EVALUATING
from partitioners.metis import Metis
from partitioners.random import Random

GRAPH = Planted(nodes=150, edges=900, blocks=4, classes=3, features=5)
SAMPLER = Shadow(fanouts=(4, 3), layers=3)
EPOCHS, BATCH = 2, 40
ROW = 8 + 4 * GRAPH.features  # bytes of an id and of its features


def scoped_run(out: Path, **fields: Any) -> Run:
    """A few steps on a small graph, by workers that read their own shards alone."""
    settings = {"data": GRAPH, "model": GCN(hidden=6), "sampler": SAMPLER, "batch_size": BATCH, "reach": "owned"}
    return small_run(out, **{**settings, "epochs": EPOCHS, "evaluate_every": 0, **fields})


def ignore(event: Event) -> None:
    """Nobody watches."""


def told(group: Group, tasks: Sequence[tuple[Any, Run, Prepared]]) -> list[dict[str, Any]]:
    """What each main says of its run, one after the other in the same workers."""
    answers = []
    for main, run, prepared in tasks:
        worker = Worker(group=group, prepared=prepared, device=CPU, watch=ignore)
        group.sent.clear()
        answers.append({**main(run, worker), "sent": dict(group.sent)})
    return answers


def by(workers: int, folder: Path, mains: Sequence[tuple[Any, Run]]) -> list[dict[str, Any]]:
    """The same in a group of `workers`: what the first of them is told."""
    tasks = [(main, run, run.workload.prepare(folder / "stores", map, ignore)) for main, run in mains]
    if workers == 1:
        return told(Group.alone(), tasks)
    answers: list[dict[str, Any]] = together(workers, told, tasks, deadline=60.0)[0]
    return answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """One worker, one part: its nets and its report; its folder is asked by others."""
    run = scoped_run(folder / "alone", parts=1)
    blocks, report = by(1, folder, [(sampled_blocks, run), (train, run)])
    return {**report, "blocks": blocks}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("partitioner", [Random(), Metis()], ids=["random", "metis"])
def test_nets_losses_and_metrics_are_the_same_anywhere(
    folder: Path, alone: dict[str, Any], workers: int, partitioner: EdgeCut
) -> None:
    """With one part, all workers but the first are without nodes, and have seeds that they ask everything for."""
    name = f"{workers}-{type(partitioner).__name__}"
    runs = [scoped_run(folder / f"{name}-{parts}", parts=parts, partitioner=partitioner) for parts in (1, 4, 8)]
    blocks, *reports = by(workers, folder, [(sampled_blocks, runs[-1]), *((train, run) for run in runs)])
    assert {**blocks, "sent": {}} == {**alone["blocks"], "sent": {}}
    for report in reports:
        assert report["loss"] == pytest.approx(alone["loss"], rel=1e-9)
        assert same_metrics(report["metrics"], alone["metrics"])
        assert report["run_digest"] == alone["run_digest"]
    assert alone["metrics"]["test_accuracy"] > 0


def test_a_trained_run_is_asked_the_same_by_any_workers(folder: Path, alone: dict[str, Any]) -> None:
    tables = []
    for workers in (1, 2, 4):
        run = scoped_run(folder / "alone", parts=4)
        evaluated, predicted, embedded = by(workers, folder, [(evaluate, run), (predict, run), (embed, run)])
        assert same_metrics(evaluated["metrics"], alone["metrics"])
        tables.append([parquet.read_table(answer["path"]).to_pandas() for answer in (predicted, embedded)])
    for others in tables[1:]:
        for one, other in zip(tables[0], others, strict=True):
            assert one["id"].tolist() == other["id"].tolist() == list(range(GRAPH.nodes))
            for name in set(one) - {"id", "class_name"}:
                found, expected = (np.array(table[name].tolist(), dtype=np.float64) for table in (other, one))
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def opened(folder: Path, **fields: Any) -> NodeTask:
    """A task of one worker over four parts."""
    run = scoped_run(folder / "opened", **fields)
    prepared = run.workload.prepare(folder / "stores", map, ignore)
    return NodeTask(run.workload, run, Worker(group=Group.alone(), prepared=prepared, device=CPU, watch=ignore))


@pytest.mark.parametrize("model", [GCN(hidden=6), GAT(hidden=3, heads=2)], ids=["gcn", "gat"])
@pytest.mark.parametrize("batch_size", [7, 0])
def test_evaluation_is_on_nets(folder: Path, model: Any, batch_size: int) -> None:
    """All nodes at once, by hand, equals batches of them: scores, and what goes into the last layer."""
    task = opened(folder, model=model, batch_size=batch_size)
    network, owned = task.model().double().eval(), task.topology.owned
    assert len(owned) < WHOLE_BATCH
    blocks = SAMPLER.sample(task.topology, owned, Key.root(0).fold(EVALUATING))
    blocks = [dataclasses.replace(block, key=None) for block in blocks]
    features = task.rows.of(owned)
    x = features[torch.searchsorted(owned.ids, blocks[0].sources.ids)]
    with torch.no_grad():
        scores = network(blocks, x)
        for depth, block in enumerate(blocks[:-1]):
            x = network.forward_layer(depth, block, x)
    torch.testing.assert_close(task.inference.scores(network), scores, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(task.inference.embeddings(network), x[: len(owned)], rtol=1e-12, atol=1e-12)
    assert torch.equal(task.inference.scores(network), task.inference.scores(network))


def test_embeddings_of_one_layer_are_the_features(folder: Path) -> None:
    task = opened(folder, sampler=Shadow(fanouts=(2,), layers=1))
    assert torch.equal(task.inference.embeddings(task.model().double()), task.rows.of(task.topology.owned))


def test_a_network_without_layers_is_evaluated_on_nets(folder: Path) -> None:
    scores = []
    for model in (GCN(hidden=6, dropout=0.5), Module(network="test_scoped:Closed")):
        task = opened(folder, model=model)
        torch.manual_seed(0)
        scores.append(task.inference.scores(task.model().double()))
    assert torch.equal(scores[0], scores[1])
    with pytest.raises(InputError, match=r"Closed has no forward_layer\(\)"):
        task.inference.embeddings(task.model().double())


class Closed(torch.nn.Module):
    """A GCN that cannot be asked for its layers."""

    def __init__(self, columns: int, classes: int, depth: int) -> None:
        super().__init__()
        self.inner = GCN(hidden=6).build(columns, classes, depth)

    def forward(self, blocks: Any, x: Any) -> Any:
        return self.inner(blocks, x)


def test_a_row_that_many_nets_have_is_sent_once(folder: Path) -> None:
    """What two workers send in an epoch is what they use of each other's rows in its steps, each row once a step."""
    run = scoped_run(folder / "bytes", ahead=1)
    (counted,) = by(2, folder, [(rows_sent, run)])
    assert counted["sent_bytes"] == counted["far"] * ROW > 0
    assert counted["pairs"] > 2 * counted["far"]


def rows_sent(run: Run, worker: Worker) -> dict[str, Any]:
    """Bytes that both workers send for features in an epoch, and the far rows of its steps: as nodes, and as pairs."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    outlook, far, pairs = task.outlook(0), 0, 0
    for seeds, key in outlook.batches(0):
        ids = SAMPLER.sample(task.topology, seeds, key)[0].sources.ids
        ids = ids[outlook.far(ids)]
        far, pairs = far + len(ids.unique()), pairs + len(ids)
    worker.group.sent.clear()
    for batch in task.batches(0, 0):
        sources = batch.blocks[0].sources
        rows = read_from_the_store(task.shards, sources.ids)
        assert torch.equal(batch.x, rows.to(batch.x.dtype)), "each pair has its node's row"
    told = worker.group.gather_json([worker.group.sent["features"], far, pairs])
    return dict(zip(("sent_bytes", "far", "pairs"), map(sum, zip(*told, strict=True)), strict=True))


def read_from_the_store(shards: Shards, ids: torch.Tensor) -> torch.Tensor:
    """Rows of any nodes, past reach and messages."""
    store: ShardStore = shards.store
    return torch.cat([store.shard(part).features for part in range(store.parts)])[ids]


def test_how_rows_are_had_does_not_show(folder: Path) -> None:
    names = ["plain", "all ahead", "edges everywhere", "degree", "presampled", "analytic"]
    runs = [scoped_run(folder / f"had-{name}", epochs=2, **VARIANTS[name]) for name in names]
    plain, *others = by(2, folder, [(train, run) for run in runs])
    for name, other in zip(names[1:], others, strict=True):
        assert other["weights_digest"] == plain["weights_digest"], name
        assert other["metrics"] == plain["metrics"], name
    for name, other in zip(names[3:], others[2:], strict=True):
        assert other["bytes"]["features"] < plain["bytes"]["features"], name
    assert others[1]["bytes"]["frontier"] < plain["bytes"]["frontier"] / 10, "with edges everywhere, only numbers"


class StoppedError(Exception):
    """In the middle of an epoch."""


def stopped(run: Run, worker: Worker) -> dict[str, Any]:
    """Trains until the third step of the second epoch; the checkpoint is that of the step before."""

    def watch(event: Event) -> None:
        if (event.get("epoch"), event.get("step")) == (2, 3):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(run, dataclasses.replace(worker, watch=watch))
    return {}


@pytest.mark.parametrize("workers", [1, 2])
def test_it_goes_on_in_the_middle_of_an_epoch_to_the_bit(folder: Path, workers: int) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "checkpoint_every": 1, "ahead": 2, "epochs": 3}
    whole, cut = (scoped_run(folder / f"{name}-{workers}", **settings) for name in ("whole", "cut"))
    expected, _, found = by(workers, folder, [(train, whole), (stopped, cut), (train, cut)])
    assert found["weights_digest"] == expected["weights_digest"]
    assert found["loss"] == expected["loss"]
    assert found["metrics"] == expected["metrics"]


def test_a_worker_without_seeds_answers_others(folder: Path) -> None:
    """A batch of one node leaves every worker but one with nothing to learn from."""
    losses = [
        by(workers, folder, [(train, scoped_run(folder / f"single-{workers}", batch_size=1, epochs=1))])[0]["loss"]
        for workers in (1, 3)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


def test_paths_are_refused(folder: Path) -> None:
    two = Shadow(fanouts=(3,), layers=2)
    with pytest.raises(InputError, match=r"--sampler shadow gives every seed a graph.*--paths\.refreshes 0"):
        opened(folder, model=SPAGAN(), sampler=two).model()
    task = opened(folder, model=SPAGAN(), sampler=two, paths=PathSearch(refreshes=0))
    assert task.inference.scores(task.model().double()).shape == (GRAPH.nodes, GRAPH.classes)

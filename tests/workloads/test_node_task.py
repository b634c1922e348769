"""Node classification as one worker does it: what it refuses, what it keeps in memory, and evaluation by batches."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from node_runs import GRAPH, same_metrics, small_run
from torch import Tensor, nn

from framework.comm.group import CPU, Group
from framework.engine.run import Worker
from framework.errors import InputError, StoreError
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.sample.full import Full
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler
from framework.workloads import node_inference
from framework.workloads.nodes import NodeTask
from launch.start import start

SAMPLED, WHOLE = Neighbor(fanouts=(3, 3)), Full(layers=2)


def opened(folder: Path, model: NodeModel, sampler: Sampler) -> NodeTask:
    """A task of one worker over four parts."""
    run = small_run(folder / "run", model=model, sampler=sampler)
    prepared = run.workload.prepare(folder / "stores", map, lambda event: None)
    return NodeTask(run.workload, run, Worker(group=Group.alone(), prepared=prepared, device=CPU, watch=print))


@pytest.mark.parametrize("model", [SAGE(hidden=8), GCN(hidden=8), GAT(hidden=4, heads=2)], ids=["sage", "gcn", "gat"])
def test_a_first_layer_in_batches_is_that_of_the_full_graph(
    model: NodeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sampled = opened(tmp_path, model, WHOLE), opened(tmp_path, model, SAMPLED)
    network = whole.model().double()
    expected = whole.predict(network, embeddings=True)["embedding"]
    monkeypatch.setattr(node_inference, "LAYER_BATCH", 400)
    found = sampled.predict(network, embeddings=True)["embedding"]
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    metrics = whole.evaluate(network)
    assert metrics["test_accuracy"] > 0
    assert sorted(metrics) == sorted(whole.measures)
    assert same_metrics(sampled.evaluate(network), metrics, rel=1e-12)


def test_embeddings_of_one_layer_are_the_features(tmp_path: Path) -> None:
    task = opened(tmp_path, SAGE(), Neighbor(fanouts=(3,)))
    found = task.predict(task.model().double(), embeddings=True)["embedding"]
    assert torch.equal(torch.from_numpy(found), task.rows.of(task.topology.owned))


def test_a_sampled_run_joins_no_shards_to_train_and_keeps_no_features(tmp_path: Path) -> None:
    task = opened(tmp_path, SAGE(hidden=8), SAMPLED)
    assert sum(len(batch.labels) for batch in task.batches(0, 0)) == len(task.seeds)
    assert "local" not in vars(task.topology)
    task.evaluate(task.model().double())
    assert task.rows.kept == []
    assert torch.equal(task.topology.owned.ids, task.topology.local.owned.ids)


class Careless(nn.Module):
    """Its first layer doubles the rows that it is given, in their place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, blocks: Any, x: Tensor) -> Tensor:
        rows: Tensor = self.network(blocks, x.mul_(2))
        return rows


def test_a_network_that_changes_kept_rows_in_place_is_told(tmp_path: Path) -> None:
    task = opened(tmp_path, SAGE(hidden=8), WHOLE)
    network = Careless(task.model().double())
    task.loss(network, next(task.batches(0, 0)))
    with pytest.raises(InputError, match="changes the rows that it is given in place"):
        next(task.batches(1, 0))


def test_a_negative_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch-size is -1; expected a number of nodes, or 0 for all"):
        small_run(tmp_path, batch_size=-1)


def test_a_flipped_byte_of_a_shard_is_not_learned_from(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", epochs=1, parts=2)
    start(run, lambda event: None)
    (features,) = (tmp_path / "stores").glob("*/part-00001/features.arrow")
    data = bytearray(features.read_bytes())
    data[len(data) // 2] ^= 1
    features.write_bytes(data)
    with pytest.raises(StoreError, match=r"part-00001/features.arrow' was altered"):
        start(dataclasses.replace(run, out=str(tmp_path / "again")), lambda event: None)


def test_more_parts_than_nodes_train(tmp_path: Path) -> None:
    data = dataclasses.replace(GRAPH, nodes=60, edges=300, blocks=6)
    losses = [
        start(small_run(tmp_path / str(parts), epochs=2, parts=parts, data=data), lambda event: None)["loss"]
        for parts in (1, 100)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)

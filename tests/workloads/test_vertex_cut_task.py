"""Node classification on a vertex-cut, in one worker over several parts: it answers as on an edge-cut."""

from pathlib import Path

import pytest
import torch
from node_runs import same_metrics, small_run
from torch import Tensor, nn

from framework.comm.group import CPU, Group
from framework.engine.run import Worker
from framework.graph.block import GraphBlock
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.partition import EdgeCut, VertexCut
from framework.sample.full import Full
from framework.workloads.nodes import NodeTask
from partitioners.hdrf import HighDegreeReplicatedFirst
from partitioners.random import Random


def opened(folder: Path, model: NodeModel, partitioner: EdgeCut | VertexCut) -> NodeTask:
    """A task of one worker over four parts."""
    run = small_run(folder / "run", model=model, sampler=Full(layers=2), partitioner=partitioner)
    prepared = run.workload.prepare(folder / "stores", map, lambda event: None)
    return NodeTask(run.workload, run, Worker(group=Group.alone(), prepared=prepared, device=CPU, watch=print))


class Unlayered(nn.Module):
    """A network without `forward_layer`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, blocks: list[GraphBlock], x: Tensor) -> Tensor:
        """That of the network within."""
        out: Tensor = self.network(blocks, x)
        return out


@pytest.mark.parametrize("model", [SAGE(hidden=8), GCN(hidden=8), GAT(hidden=4, heads=2)], ids=["sage", "gcn", "gat"])
def test_metrics_classes_and_embeddings_are_the_same(model: NodeModel, tmp_path: Path) -> None:
    cut, whole = opened(tmp_path, model, HighDegreeReplicatedFirst()), opened(tmp_path, model, Random())
    network = whole.model().double()
    expected = whole.evaluate(network)
    for task, asked in ((cut, network), (cut, Unlayered(network)), (whole, Unlayered(network))):
        assert same_metrics(task.evaluate(asked), expected, rel=1e-12)
    for embeddings, column in ((False, "score"), (True, "embedding")):
        found, expected = (
            dict(zip(answer["id"].to_pylist(), answer[column], strict=True))
            for answer in (cut.predict(network, embeddings), whole.predict(network, embeddings))
        )
        rows = [torch.tensor([rows[key].tolist() for key in sorted(rows)]) for rows in (found, expected)]
        torch.testing.assert_close(rows[0], rows[1], rtol=1e-10, atol=1e-12)

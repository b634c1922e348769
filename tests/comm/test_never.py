"""Never: every worker trains on the graph between its own nodes, and nothing of a node crosses the wire."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from halo_runs import ATTENTION, GRAPH, SUMS, halo_run, reports
from whole_graph import WholeGraph, looped_graph

from framework.comm.halo.exact import Exact
from framework.comm.halo.never import Never
from framework.config import digest
from framework.data.dataset import RawGraph
from framework.graph.block import Block
from framework.graph.edges import ArrayEdges
from framework.graph.split import between_targets
from framework.models.node_model import NodeModel
from framework.models.nodes import GCN
from framework.random import Key
from partitioners.random import hashed_parts

HALF = 20


def split_in_two(graph: WholeGraph) -> Block:
    """The block of the worker that owns the first half of the nodes; its sources are all of them."""
    last = int(graph.csr.indptr[HALF])
    return Block(
        sources=graph.nodes, num_targets=HALF, indptr=graph.csr.indptr[: HALF + 1], indices=graph.csr.indices[:last]
    )


def test_what_is_left_is_the_graph_between_the_targets() -> None:
    graph = looped_graph(2 * HALF, 300)
    inside = (graph.source < HALF) & (graph.target < HALF)
    alone = WholeGraph(source=graph.source[inside], target=graph.target[inside], num_nodes=HALF)
    block = between_targets(split_in_two(graph))
    assert torch.equal(block.indptr, alone.csr.indptr)
    assert torch.equal(block.indices, alone.csr.indices)
    assert torch.equal(block.targets.degree, alone.nodes.degree)
    assert len(block.sources) == 2 * HALF
    assert not block.sources.degree[HALF:].any()


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutCutEdges:
    """The runs' graph without the edges that the random partitioner cuts: a data set."""

    parts: int
    """Into so many parts."""

    def fingerprint(self) -> str:
        return digest(self)

    def open(self) -> RawGraph:
        raw = GRAPH.open()
        ends = [(np.array(source), np.array(target)) for source, target in raw.edges]
        source, target = (np.concatenate(column) for column in zip(*ends, strict=True))
        part = hashed_parts(GRAPH.nodes, self.parts, Key.root(0))
        kept = part[source] == part[target]
        assert 0 < kept.sum() < len(kept)
        edges = ArrayEdges(source=source[kept], target=target[kept], num_nodes=GRAPH.nodes)
        return dataclasses.replace(raw, edges=edges)


def test_training_is_that_on_the_graph_without_cut_edges(tmp_path: Path) -> None:
    parted = WithoutCutEdges(parts=2)
    models: dict[str, NodeModel] = {"sage": SUMS, "gat": ATTENTION, "gcn": GCN(hidden=6, dropout=0.5)}
    runs = [halo_run(tmp_path / "limit", Never(), SUMS, data=parted, epochs=2)]
    for name, model in models.items():
        runs += [
            halo_run(tmp_path / f"{name}-exact", Exact(), model, data=parted, epochs=2),
            halo_run(tmp_path / f"{name}-never", Never(), model, epochs=2),
        ]
    limit, *told = reports(tmp_path, 2, runs)
    assert limit["loss"] == told[0]["loss"]
    for exact, never in zip(told[::2], told[1::2], strict=True):
        assert never["loss"] == pytest.approx(exact["loss"], rel=1e-12)
        assert never["bytes"]["halo"] == 0
        assert never["sent"]["evaluation/1/forward"] > exact["sent"]["evaluation/1/forward"], "that has all edges"

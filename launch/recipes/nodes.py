"""Recipes of node classification: GraphSAGE, GCN and GAT on the Debian package graph, GraphSAGE on Cora."""

import os

from framework.data.debian import Debian
from framework.data.npz import Npz
from framework.engine.optimize import Adam, Cosine
from framework.engine.run import Run
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.registry import RECIPES
from framework.sample.neighbor import Neighbor
from framework.workloads.nodes import NodeClassification
from partitioners.metis import Metis

CORA = "SHARDYARD_CORA"
"""The environment variable that says where Cora's file is; otherwise it is looked for in the current directory."""


@RECIPES.register("sage-debian")
def sage_debian() -> Run:
    """GraphSAGE, 2 layers of 256, on the Debian package graph."""
    return _debian(SAGE(hidden=256, dropout=0.5))


@RECIPES.register("gcn-debian")
def gcn_debian() -> Run:
    """GCN, 2 layers of 256, on the Debian package graph."""
    return _debian(GCN(hidden=256, dropout=0.5))


@RECIPES.register("gat-debian")
def gat_debian() -> Run:
    """GAT, 2 layers of 8 heads of 32, on the Debian package graph."""
    return _debian(GAT(hidden=32, heads=8, dropout=0.5))


@RECIPES.register("sage-cora")
def sage_cora() -> Run:
    """GraphSAGE on Cora with the Planetoid split; its file is `--data.path`, $SHARDYARD_CORA or ./cora.npz."""
    workload = NodeClassification(
        data=Npz(path=os.environ.get(CORA, "cora.npz")),
        model=SAGE(hidden=64, dropout=0.5, input_dropout=0.5),
        sampler=Neighbor(fanouts=(10, 10)),
        batch_size=140,
        partitioner=Metis(),
    )
    return Run(workload=workload, epochs=50, optimizer=Adam(lr=0.01, weight_decay=5e-4), keep="best")


def _debian(model: NodeModel) -> Run:
    workload = NodeClassification(
        data=Debian(columns=128),
        model=model,
        sampler=Neighbor(fanouts=(10, 10)),
        batch_size=1024,
        partitioner=Metis(),
    )
    return Run(workload=workload, epochs=20, optimizer=Adam(lr=0.01), schedule=Cosine())

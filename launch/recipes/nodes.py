"""Recipes of node classification on the Debian package graph and on Cora: sampled, and `-full` for full-graph."""

import dataclasses

from framework.data.cora import Cora
from framework.data.debian import Debian
from framework.engine.optimize import Adam, Cosine
from framework.engine.run import Run
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.models.spagan import SPAGAN
from framework.registry import RECIPES
from framework.sample.full import Full
from framework.sample.neighbor import Neighbor
from framework.workloads.nodes import NodeClassification
from partitioners.metis import Metis


@RECIPES.register("sage-debian")
def sage_debian() -> Run:
    """GraphSAGE, 2 layers of 512, on the Debian package graph."""
    return _debian(SAGE(hidden=512, dropout=0.5))


@RECIPES.register("gcn-debian")
def gcn_debian() -> Run:
    """GCN, 2 layers of 256, on the Debian package graph."""
    return _debian(GCN(hidden=256, dropout=0.5))


@RECIPES.register("gat-debian")
def gat_debian() -> Run:
    """GAT, 2 layers of 8 heads of 32, on the Debian package graph."""
    return _debian(GAT(hidden=32, heads=8, dropout=0.5))


@RECIPES.register("gcn-debian-full")
def gcn_debian_full() -> Run:
    """GCN on the whole Debian package graph in every step."""
    return _whole(gcn_debian(), layers=2)


@RECIPES.register("gat-debian-full")
def gat_debian_full() -> Run:
    """GAT on the whole Debian package graph in every step."""
    return _whole(gat_debian(), layers=2)


@RECIPES.register("sage-cora")
def sage_cora() -> Run:
    """GraphSAGE on Cora with the Planetoid split; its file is `--data.path`, $SHARDYARD_CORA or ./cora.npz."""
    return _cora(SAGE(hidden=64, dropout=0.5, input_dropout=0.5))


@RECIPES.register("gcn-cora-full")
def gcn_cora_full() -> Run:
    """GCN, 2 layers of 64, on the whole of Cora in every step; its file as for `sage-cora`."""
    return _whole(_cora(GCN(hidden=64, dropout=0.5, input_dropout=0.5)), layers=2)


@RECIPES.register("spagan-cora")
def spagan_cora() -> Run:
    """SPAGAN with the settings of its authors, full-graph, on the Planetoid split of Cora."""
    workload = NodeClassification(
        data=Cora(row_normalized=True), model=SPAGAN(), sampler=Full(), batch_size=0, partitioner=Metis()
    )
    return Run(
        workload=workload,
        epochs=10_000,
        min_epochs=500,
        patience=50,
        monitor="validation_loss",
        keep="best",
        optimizer=Adam(lr=0.005, weight_decay=5e-4),
        save_every=100,
    )


@RECIPES.register("spagan-debian")
def spagan_debian() -> Run:
    """SPAGAN on the Debian package graph, full-graph."""
    workload = NodeClassification(
        data=Debian(columns=128),
        model=SPAGAN(hidden=32, dropout=0.2, attention_dropout=0.0),
        sampler=Full(),
        batch_size=0,
        partitioner=Metis(),
    )
    return Run(
        workload=workload,
        epochs=1500,
        patience=5,
        evaluate_every=10,
        save_every=10,
        keep="best",
        optimizer=Adam(lr=0.01),
    )


def _cora(model: NodeModel) -> Run:
    workload = NodeClassification(
        data=Cora(),
        model=model,
        sampler=Neighbor(fanouts=(10, 10)),
        batch_size=140,
        partitioner=Metis(),
    )
    return Run(workload=workload, epochs=50, optimizer=Adam(lr=0.01, weight_decay=5e-4), keep="best")


def _whole(run: Run, layers: int) -> Run:
    """The same run, full-graph: an epoch is one step, so there are more of them."""
    assert isinstance(run.workload, NodeClassification)
    workload = dataclasses.replace(run.workload, sampler=Full(layers=layers), batch_size=0)
    return dataclasses.replace(run, workload=workload, epochs=200, evaluate_every=10, save_every=10)


def _debian(model: NodeModel) -> Run:
    workload = NodeClassification(
        data=Debian(columns=128),
        model=model,
        sampler=Neighbor(fanouts=(10, 10)),
        batch_size=1024,
        partitioner=Metis(),
    )
    return Run(workload=workload, epochs=20, optimizer=Adam(lr=0.01), schedule=Cosine())

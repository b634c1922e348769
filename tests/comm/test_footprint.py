"""The formula of a worker's memory against the tensors that really live in the worst moment of a step."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worker_processes import together

from benchmarks.memory import extent_of
from framework.comm.footprint import footprint
from framework.comm.group import Group
from framework.data.generators import Planted
from framework.engine.run import Run, Worker
from framework.models.nodes import GCN
from framework.registry import HALOS
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification, NodeTask
from partitioners.metis import Metis

COLUMNS, CLASSES = 100, 8


class Living(TorchDispatchMode):
    """Bytes of the tensors made within that live now, and the most that ever did."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:  # else it is a view
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.remove, storage._cdata, storage.nbytes())

    def remove(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


def lived(group: Group, root: Path, hidden: int, halo: str, inside: float = 0.6) -> tuple[int, dict[str, int], int]:
    """The most bytes of a step's own tensors on this worker, what the formula says, and one lane's rows in bytes."""
    run = run_of(root, hidden, halo, inside)
    prepared = run.workload.prepare(root, map, lambda event: None)
    worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=lambda event: None)
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    model = task.model()
    for epoch in range(3):  # what is kept for all steps is made in the first two
        with Living() as living:
            for batch in task.batches(epoch, 0):
                task.loss(model, batch).backward()
        model.zero_grad()
    extent = extent_of(task)
    return living.most, footprint(extent, [COLUMNS, hidden, hidden, CLASSES]), 4 * hidden * (extent.halo + extent.sent)


def run_of(root: Path, hidden: int, halo: str, inside: float) -> Run:
    """`inside`: share of edges inside one of the graph's blocks."""
    workload = NodeClassification(
        data=Planted(nodes=6000, edges=60_000, blocks=12, inside=inside, features=COLUMNS, classes=CLASSES),
        model=GCN(hidden=hidden, dropout=0.5),
        sampler=Full(layers=3),
        batch_size=0,
        halo=HALOS.get(halo)(),
        partitioner=Metis(),
        parts=3,
        reach="owned",
    )
    return Run(workload=workload, out=str(root / "out"), store=str(root))


@pytest.mark.parametrize("hidden", [128, 64])  # the first layer sums features, and is given products of them
def test_what_lives_in_a_step_is_what_the_formula_says(tmp_path: Path, hidden: int) -> None:
    most, predicted, _ = lived(Group.alone(), tmp_path, hidden, "exact")
    assert predicted["rows of the halo"] == 0
    assert most == pytest.approx(predicted["rows of owned nodes"], rel=0.06)


@pytest.mark.parametrize("halo", ["exact", "rematerialized"])
@pytest.mark.parametrize("inside", [0.6, 0.99])  # at .6 more than half the nodes have neighbours on other workers
def test_the_halo_has_its_part_of_what_lives(tmp_path: Path, halo: str, inside: float) -> None:
    run_of(tmp_path, 128, halo, inside).workload.prepare(tmp_path, map, lambda event: None)
    found = together(3, lived, tmp_path, 128, halo, inside)
    for most, predicted, lane in found:
        rows = predicted["rows of owned nodes"] + predicted["rows of the halo"]
        # When the transport lets go of the rows of a message that has arrived is its own affair.
        assert 0.9 * rows <= most <= 1.1 * rows + lane

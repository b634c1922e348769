"""Full-graph runs with a halo strategy each, one after the other in the same workers: a start costs more than a run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from node_runs import small_run
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.strategy import HaloStrategy
from framework.data.generators import Planted
from framework.engine.run import Event, Prepared, Run, Worker
from framework.engine.train import train
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, SAGE
from framework.sample.full import Full

LAYERS = 3
STOP, SHORT, EPOCHS = 2, 3, 6
GRAPH = Planted(nodes=150, edges=1200, blocks=4, classes=3, features=5)
SUMS = SAGE(hidden=6, dropout=0.5)
ATTENTION = GAT(hidden=4, heads=2, dropout=0.3)


def halo_run(out: Path, halo: HaloStrategy, model: NodeModel = SUMS, **fields: Any) -> Run:
    """A few steps on a small graph."""
    settings = {"epochs": EPOCHS, "evaluate_every": 0, "reach": "owned", "parts": 2, "data": GRAPH, **fields}
    return small_run(out, model=model, sampler=Full(layers=LAYERS), batch_size=0, halo=halo, **settings)


def reports(folder: Path, workers: int, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What each run reports, in a group of `workers`; a run of an earlier one's folder goes on with it."""
    tasks = [(run, run.workload.prepare(folder / "stores", map, ignore)) for run in runs]
    if workers == 1:
        return _learned(Group.alone(), tasks)
    answers: list[dict[str, Any]] = together(workers, _learned, tasks, deadline=60.0)[0]
    return answers


def ignore(event: Event) -> None:
    """Nobody watches."""


def _learned(group: Group, tasks: Sequence[tuple[Run, Prepared]]) -> list[dict[str, Any]]:
    told = []
    for run, prepared in tasks:
        worker = Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=ignore)
        before = group.snapshot()
        report = train(run, worker)
        told.append({**report, "sent": Counter(group.since(before))})
    return told

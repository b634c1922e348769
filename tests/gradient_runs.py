"""Many small runs in one group of workers, a gradient strategy each: what the tests of strategies compare."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from line_workload import Line

from framework.comm.group import Group
from framework.engine.evaluate import evaluate
from framework.engine.optimize import SGD, Optimizer
from framework.engine.run import Event, Prepared, Run, Worker
from framework.engine.train import train
from framework.errors import ShardyardError


class StoppedError(Exception):
    """Thrown in the middle of a run, as a kill would be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A run to make."""

    gradient: Any
    optimizer: Optimizer = SGD(lr=0.1, momentum=0.0)
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the run; three epochs of four steps in float64 otherwise."""
    stop_at: int | None = None
    """Stops before it has a checkpoint of this step, counted over all epochs, and is started again."""


def worker(group: Group, stop_at: int | None = None) -> Worker:
    steps = 0

    def watch(event: Event) -> None:
        nonlocal steps
        steps += event["event"] == "step"
        if stop_at is not None and steps == stop_at:
            raise StoppedError

    prepared = Prepared(path=Path(), data_digest="line", seconds=0.0, facts={})
    return Worker(group=group, prepared=prepared, device=torch.device("cpu"), watch=watch)


def run_of(case: Case, out: str) -> Run:
    fields = {"epochs": 3, "dtype": "float64", "optimizer": case.optimizer, **case.fields}
    if case.stop_at is not None:
        fields["checkpoint_every"] = 1
    return Run(workload=Line(), gradient=case.gradient, out=out, **fields)


def made(group: Group, folder: str, cases: dict[str, Case]) -> dict[str, dict[str, Any]]:
    """The report of every case, with what `evaluate` says of it, or its error."""
    answers = {}
    for name, case in cases.items():
        run = run_of(case, os.path.join(folder, name))  # noqa: PTH118
        group.sent.clear()
        try:
            if case.stop_at is not None:
                try:
                    train(run, worker(group, case.stop_at))
                except StoppedError:
                    group.sent.clear()
            report = train(run, worker(group))
            answers[name] = {**report, "evaluated": evaluate(run, worker(group))}
        except ShardyardError as error:
            answers[name] = {"error": str(error), "kind": type(error).__name__}
    return answers

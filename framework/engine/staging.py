"""A run's data on every host that works on it."""

import dataclasses

from framework.comm.stage import stage
from framework.engine.run import Run, Selective, Worker


def with_data(run: Run, worker: Worker) -> Worker:
    """The worker, whose host has what its workers read of the prepared folder. All workers call this together.

    Raises as `stage` does."""
    needs = run.workload.needs(worker.group) if isinstance(run.workload, Selective) else None
    return dataclasses.replace(worker, prepared=stage(worker.group, worker.prepared, needs))

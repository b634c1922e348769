"""A small SPAGAN run: two searches, each as soon as an epoch was no better than the one before."""

from pathlib import Path
from typing import Any

from node_runs import small_run

from framework.engine.run import Run
from framework.models.spagan import SPAGAN
from framework.sample.full import Full
from framework.workloads.paths import PathSearch

SEARCH = PathSearch(refreshes=2, degree_ratio=0.3)
STAGES: dict[str, Any] = {"patience": 1, "monitor": "train_macro_f1", "keep": "best"}


def spagan_run(out: Path, **fields: Any) -> Run:
    """Full-graph on the planted graph of `small_run`; fields of the workload and of the run may be given."""
    fields = {"model": SPAGAN(hidden=4, heads=2), "sampler": Full(), "batch_size": 0, "paths": SEARCH, **fields}
    return small_run(out, **{**STAGES, "epochs": 40, **fields})

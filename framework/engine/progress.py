"""How far a run has come: its place, what it has measured, and the stage that it is in.

Assumption: what of it outlives a process is JSON, or weights; a checkpoint holds both.
"""

import dataclasses
from typing import Any

from torch import Tensor


@dataclasses.dataclass(kw_only=True)
class Progress:
    """How far a run has come. What of it outlives a process is in `facts`."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Steps completed of the epoch after."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """Mean loss of every completed epoch."""
    loss_sum: float | Tensor = 0.0
    """Of the epoch under way: this worker's part of the sum over steps of mean loss times samples, float64."""
    samples: int = 0
    """Of the epoch under way: samples seen."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    """The last evaluation."""
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    """The evaluation with the best monitored metric."""
    since_best: int = 0
    """Evaluations since then."""
    stages: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """The stages that are over: `epochs` completed at their end, the `metrics` of the best, what the next one `is`."""
    due: int | None = None
    """The epoch after which the stage that was begun is entered. None: none was."""
    begun_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The weights it was begun with."""
    exhausted: bool = False
    """Whether the run has ended early."""
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """The weights it was made with, where the run keeps the best."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Training time of every completed epoch; of one that was cut, since its last start."""
    sent: dict[str, int] = dataclasses.field(default_factory=dict)
    """Payload bytes that all workers sent before this start, by purpose."""

    def facts(self) -> dict[str, Any]:
        """Everything but the place, the tensors, and what is summed over workers first; for a checkpoint."""
        kept = ("losses", "samples", "metrics", "best", "since_best", "stages", "due", "exhausted", "seconds")
        return {name: getattr(self, name) for name in kept}

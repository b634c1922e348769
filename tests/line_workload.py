"""A workload without a graph: a line through seeded points. The engine must need nothing more."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.random import Key, shuffled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Points of a noisy line, shared out by their number."""

    points: int = 64
    batch_size: int = 16

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        return Prepared(path=root, data_digest="line", seconds=0.0, facts={"parts": 1, "partitioner": "none"})

    def open(self, run: Run, worker: Worker) -> "LineTask":
        return LineTask(self, run, worker)


class LineTask:
    def __init__(self, workload: Line, run: Run, worker: Worker) -> None:
        self.workload, self.worker, self.dtype, self.key = (
            workload,
            worker,
            getattr(torch, run.dtype),
            Key.root(run.seed),
        )
        self.x = torch.linspace(-1, 1, workload.points, dtype=self.dtype).unsqueeze(1)
        self.y = 3 * self.x + 1 + 0.1 * torch.sin(40 * self.x)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    @property
    def steps(self) -> int:
        return -(-self.workload.points // self.workload.batch_size)

    def batches(self, epoch: int, first_step: int) -> Iterator[Any]:
        group = self.worker.group
        order = shuffled(self.key.fold(epoch), torch.arange(self.workload.points))
        for step, chosen in enumerate(torch.split(order, self.workload.batch_size)):
            if step < first_step:
                continue
            yield LineBatch(mine=chosen[group.rank :: group.size], size=len(chosen))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return ((model(self.x[batch.mine]) - self.y[batch.mine]) ** 2).sum() / batch.size

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"validation_accuracy": -float(((model(self.x) - self.y) ** 2).mean())}

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        mine = torch.arange(self.workload.points)[self.worker.group.rank :: self.worker.group.size]
        with torch.no_grad():
            return {"id": mine.numpy(), "score": model(self.x[mine]).squeeze(1).numpy()}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        assert not state

    def staleness(self) -> dict[str, int]:
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineBatch:
    mine: Tensor
    size: int

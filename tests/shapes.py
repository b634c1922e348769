"""A data set of small random graphs, and a run that learns from it with a network of one layer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from halo_runs import reports
from torch import Tensor, nn

from framework import config
from framework.data.graph_sets import Samples, SmallGraph, drawn_split
from framework.engine.run import Run
from framework.graph.augment import Augmentation
from framework.graph.batch import GraphBatch
from framework.graph.coarsen import mean_of_graphs
from framework.kernels.aggregate import spmm
from framework.kernels.dropout import relu_dropout
from framework.random import Key, uniform
from framework.workloads.graphs import GraphLearning

COLUMNS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Rings with chords: as many corners as the class says, or a target that counts them."""

    samples: int = 60
    dimensions: int = 2
    targets: int = 0
    weighted: bool = False
    broken: int = 0
    seed: int = 0

    def fingerprint(self) -> str:
        return config.digest(dataclasses.asdict(self))

    def open(self) -> Samples:
        numbers = np.arange(self.samples)
        targets = np.stack([self.nodes(numbers) * (column + 1.5) for column in range(self.targets)], axis=1) if (
            self.targets
        ) else None  # fmt: skip
        if targets is not None and self.broken:
            targets[1, 0] = np.nan
        return Samples(
            contents=numbers.tolist(),
            ids=np.array([f"shape {number}" for number in numbers]),
            labels=None if self.targets else numbers % 3,
            num_classes=0 if self.targets else 3,
            class_names=() if self.targets else ("three", "four", "five"),
            targets=targets,
            target_names=tuple(f"size{column}" for column in range(self.targets)),
            split=drawn_split(self.samples, (0.7, 0.15), self.seed),
            facts={"unit of positions": "one"},
        )

    def nodes(self, numbers: Any) -> Any:
        return 3 + numbers % 3 + numbers % 5

    def graph(self, content: int, cache: Path) -> SmallGraph | str:
        if self.broken and content % 7 == self.broken:
            return f"shape {content} is broken"
        nodes = int(self.nodes(content))
        ring = np.arange(nodes)
        ends = np.stack([ring, (ring + 1) % nodes], axis=1)
        pairs = np.unique(np.concatenate([ends, ends[:, ::-1], [[0, 2], [2, 0]]]), axis=0)
        draws = uniform(Key.root(self.seed).fold(content), torch.arange(nodes * (COLUMNS + self.dimensions)))
        features, positions = np.split(draws.numpy().reshape(nodes, -1).astype(np.float32), [COLUMNS], axis=1)
        order = np.random.default_rng(content).permutation(len(pairs))  # a set may give its edges in any order
        return SmallGraph(
            features=features + content % 3,
            positions=positions,
            source=pairs[order, 0],
            target=pairs[order, 1],
            weights=(pairs[order].sum(axis=1) + 0.5).astype(np.float32) if self.weighted else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relative:
    """Sums of neighbours' rows and positions, one layer, the mean, a linear head."""

    hidden: int = 8
    dropout: float = 0.3

    def build(self, columns: int, dimensions: int, outputs: int) -> nn.Module:
        return RelativeNetwork(columns + dimensions, self.hidden, outputs, self.dropout)


class RelativeNetwork(nn.Module):
    def __init__(self, columns: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2 * columns, hidden), nn.Linear(hidden, outputs)
        self.dropout = dropout

    def forward(self, graph: GraphBatch) -> Tensor:
        x = torch.cat([graph.x, graph.positions], dim=1)
        x = self.layer(torch.cat([x, spmm(graph.indptr, graph.indices, x, graph.weight)], dim=1))
        if self.training and graph.key is not None:
            x = relu_dropout(x, self.dropout, graph.key, graph.original)
        else:
            x = torch.relu(x)
        return self.head(mean_of_graphs(graph, x))


def shape_run(out: Path, **fields: Any) -> Run:
    """Float64, dropout and every augmentation on; fields of the workload and of the run may be given."""
    workload = {
        "data": Shapes(),
        "model": Relative(),
        "batch_size": 16,
        "augment": Augmentation(rotation=180, reflection=True, translation=0.5, jitter=0.1),
        "parts": 3,
    }
    workload |= {name: fields.pop(name) for name in list(fields) if name in GraphLearning.__dataclass_fields__}
    return Run(
        workload=GraphLearning(**workload),  # type: ignore[arg-type]
        **{"dtype": "float64", "epochs": 4, "out": str(out), "store": str(out.parent / "stores"), **fields},
    )


def recipe() -> Run:
    """The same for the command line: `shardyard train shapes:recipe`."""
    return shape_run(Path("runs/shapes").absolute())


Told = dict[str, dict[str, Any]]
"""What runs report, by their names."""


def told_by_workers(folders: pytest.TempPathFactory, runs_of: Callable[[Path, int], dict[str, Run]]) -> dict[int, Told]:
    """What runs report on one worker and on two, by the number of workers."""
    answers = {}
    for workers in (1, 2):
        folder = folders.mktemp(f"workers-{workers}")
        runs = runs_of(folder, workers)
        answers[workers] = dict(zip(runs, reports(folder, workers, list(runs.values())), strict=True))
    return answers


def told_by_others(folders: pytest.TempPathFactory, runs_of: Callable[[Path, int], dict[str, Run]]) -> Told:
    """What the run `resumed` reports where others than who were at it when it was `stopped` go on: three after one, and
    one after two; and the run `few` on three workers."""
    answers: Told = {}
    for began, goes_on in ((1, 3), (2, 1)):
        folder = folders.mktemp(f"from-{began}-to-{goes_on}")
        runs = runs_of(folder, began)
        reports(folder, began, [runs["stopped"]])
        later = {f"{goes_on} after {began}": dataclasses.replace(runs["resumed"], workers=goes_on)}
        if goes_on == 3:
            later["few"] = dataclasses.replace(runs["few"], workers=goes_on)
        answers |= zip(later, reports(folder, goes_on, list(later.values())), strict=True)
    return answers

"""What is learned of a sample: its class, or real numbers; how that is scored, measured and told.

Assumptions: samples are the numbers that a collection gives them; targets are standardised by the collection's figures
of its training samples.
"""

from collections.abc import Collection
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.graph.reader import GraphReader
from framework.workloads.samples import Split, of_splits


class Goal(Protocol):
    """What is learned of a sample, and what that is worth."""

    outputs: int
    """Numbers that a network gives for a sample."""

    def loss(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """Sum of the losses of a network's outputs, float [n, outputs], for samples int64 [n]: a scalar."""

    def answers(self, outputs: Tensor) -> Tensor:
        """What outputs say, in a form that is averaged over copies of a graph: [n, outputs]."""

    def sums(self, answers: Tensor, samples: Tensor) -> Tensor:
        """What metrics are made of, to be added up over workers; first how many samples there are. float64 [any]."""

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Metrics of at least one sample, by name."""

    def columns(self, answers: Tensor) -> dict[str, Any]:
        """Answers as columns of a table of predictions."""


def goal_of(reader: GraphReader) -> Goal:
    """What a collection's samples have to be learned: classes, or else targets."""
    collection = reader.collection
    if not collection.num_classes:
        return Regression(reader)
    return Classification(reader.labels(), collection.num_classes, collection.class_names)


def measures_of(goal: Goal, split: Tensor, measured: Collection[Split], *others: str) -> list[str]:
    """The names of a goal's metrics, and of `others`, of splits `measured` that have samples. `split`: uint8 [s]."""
    metrics = goal.metrics(goal.sums(torch.zeros(1, goal.outputs), torch.zeros(1, dtype=torch.int64)))
    held = [name for name in measured if len(of_splits(split, [name]))]
    return [f"{name}_{metric}" for name in held for metric in (*metrics, *others)]


class Classification:
    """Classes: cross-entropy, accuracy."""

    def __init__(self, labels: Tensor, classes: int, names: tuple[str, ...]) -> None:
        """`labels`: the class of every sample, int64 [s]; `names` of the classes, or none."""
        self.labels, self.outputs, self.names = labels, classes, names

    def loss(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """Sum of the cross-entropies of scores [n, classes] of samples int64 [n]."""
        return nn.functional.cross_entropy(outputs, self.labels[samples].to(outputs.device), reduction="sum")

    def answers(self, outputs: Tensor) -> Tensor:
        """Probabilities of the classes: what is averaged over copies of a graph."""
        return outputs.softmax(1)

    def sums(self, answers: Tensor, samples: Tensor) -> Tensor:
        """What metrics are made of, to be added up over workers: how many, how many right. float64 [2]."""
        right = answers.argmax(1) == self.labels[samples]
        return torch.tensor([len(samples), int(right.sum())], dtype=torch.float64)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """`accuracy`."""
        return {"accuracy": float(sums[1] / sums[0])}

    def columns(self, answers: Tensor) -> dict[str, Any]:
        """Class, its probability, and its name where it has one."""
        score, best = answers.max(1)
        columns: dict[str, Any] = {"class": best.numpy(), "score": score.numpy()}
        if self.names:
            columns["class_name"] = pa.array(self.names).take(pa.array(best.numpy()))
        return columns


class Regression:
    """Real numbers for graphs: mean squared error of standardised targets; errors in both units."""

    def __init__(self, reader: GraphReader) -> None:
        collection = reader.collection
        self.names, self.outputs = collection.target_names, len(collection.target_names)
        self.targets = reader.targets()
        figures = (collection.target_means, collection.target_deviations)
        self.means, self.deviations = torch.tensor(figures, dtype=torch.float64)

    def loss(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """Sum over samples of the mean over targets of the squared errors of [n, targets]."""
        return (outputs - self.targets[samples].to(outputs)).square().mean(dim=1).sum()

    def answers(self, outputs: Tensor) -> Tensor:
        """Standardised values: what is averaged over copies of a graph."""
        return outputs

    def sums(self, answers: Tensor, samples: Tensor) -> Tensor:
        """What metrics are made of, to be added up over workers: how many, and each target's sum of squared errors."""
        squares = (answers.double() - self.targets[samples]).square().sum(dim=0)
        return torch.cat([torch.tensor([float(len(samples))], dtype=torch.float64), squares])

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Root mean squared errors: `rmse` in the target's unit (of several targets each by its name, `NAME_rmse`), and
        `standard_rmse`, over all targets, in standard deviations of the training samples."""
        mean = sums[1:] / sums[0]
        raw = (mean.sqrt() * self.deviations).tolist()
        names = ["rmse"] if self.outputs == 1 else [f"{name}_rmse" for name in self.names]
        return {**dict(zip(names, raw, strict=True)), "standard_rmse": float(mean.mean().sqrt())}

    def columns(self, answers: Tensor) -> dict[str, Any]:
        """The values in the targets' units: `value`, or a column for each of several targets."""
        values = (answers.double() * self.deviations + self.means).numpy()
        return {"value": values[:, 0]} if self.outputs == 1 else dict(zip(self.names, values.T, strict=True))

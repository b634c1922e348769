"""A workload, a recipe and plug-ins small enough to see every flag of, for the tests of the command line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from framework.config import placement
from framework.data.dataset import Dataset
from framework.data.generators import Planted
from framework.engine.run import Event, Mapper, Prepared, Run, Task, Worker
from framework.errors import InputError
from framework.graph.edges import EdgeStream
from framework.partition import EdgeCut, NodeParts
from partitioners.random import Random


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
    """A partitioner of somebody else, one of whose settings has no default."""

    share: float
    """Part of the nodes that part 0 gets."""
    seed: int = 0
    """Of nothing."""
    order: Literal["up", "down"] = "up"
    """Which end part 0 is at."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """Part 0 or part 1."""
        return (np.arange(graph.num_nodes) >= self.share * graph.num_nodes).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nested:
    """A partitioner that holds another one."""

    inner: EdgeCut = Random()
    """Who decides first."""
    strict: bool = False
    """Whether to insist."""

    def owners(self, graph: EdgeStream, parts: int) -> NodeParts:
        """The inner one's answer."""
        return self.inner.owners(graph, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """Learns the mean of nothing."""

    data: Dataset = Planted(nodes=100, edges=400, blocks=4)
    """The raw graph."""
    widths: tuple[int, ...] = (8, 4)
    """Of the layers."""
    limit: float | None = None
    """Of the gradient."""
    batch_size: int = 16
    """Samples in a global batch."""
    partitioner: EdgeCut = placement(Random(seed=3))
    """Who owns a node."""
    parts: int = placement(2)
    """Number of shards."""

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Nothing to do."""
        watch({"event": "prepare", "what": "nothing", "done": 1.0})
        return Prepared(path=root, data_digest="0" * 64, seconds=0.0, facts={"parts": self.parts})

    def open(self, run: Run, worker: Worker) -> Task:
        """Cannot be learned."""
        raise InputError("this workload is a stand-in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ambiguous:
    """A workload with a field that a run has too."""

    epochs: int = 3
    """Not the run's."""

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Nothing to do."""
        raise InputError("this workload is a stand-in")

    def open(self, run: Run, worker: Worker) -> Task:
        """Cannot be learned."""
        raise InputError("this workload is a stand-in")


def small() -> Run:
    """The stand-in's run."""
    return Run(workload=Mean(), epochs=2)


def wrong() -> int:
    """No run."""
    return 3


def demanding(size: int) -> Run:
    """A function that is no recipe."""
    return Run(workload=Mean(batch_size=size))


NOT_A_CLASS = 7

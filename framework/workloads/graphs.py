"""Learning from many small graphs: a class, or one or more real numbers, for each.

A global batch is cut from the shuffled training samples by id, the same on every worker, then shared out. What a graph
goes through (dropout, pooling, augmentation) is drawn by its id, and the loss is a sum over the global batch divided by
its size: so workers and parts do not show in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.comm.meeting import verify_together
from framework.config import asked, placement
from framework.data.dataset import TRAIN
from framework.data.graph_sets import GraphSet
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.graph.augment import Augmentation
from framework.graph.batch import GraphBatch
from framework.graph.collection import Collection
from framework.graph.reader import GraphReader
from framework.models.graph_model import GraphModel
from framework.prepare.graphs import prepare_graphs
from framework.random import Key, shuffled
from framework.registry import WORKLOADS
from framework.workloads.goals import goal_of, measures_of
from framework.workloads.samples import (
    SHUFFLING,
    SPLITS,
    STEPPING,
    Split,
    evaluating,
    of_splits,
    row_of_each,
)

AUGMENTING, TURNING = 5, 6  # purposes of the run's key: a sample's augmentation in an epoch, its copies in evaluation


@WORKLOADS.register("graphs")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphLearning:
    """A class, or real numbers, for every one of many small graphs, as the data set has the one or the other."""

    data: GraphSet
    """The raw data set."""
    model: GraphModel
    """The network."""
    batch_size: int = 64
    """Training graphs in a global batch, over all workers. 0: as `batch_nodes` says."""
    batch_nodes: int = 0
    """Nodes of all graphs in a global batch, at most; a graph that has more is a batch of its own. 0: any number."""
    augment: Augmentation = Augmentation()
    """How positions are changed in training."""
    test_rotations: int = asked(0)
    """In evaluation and prediction, average over so many copies of a graph, each turned as in training. 0: as it is."""
    measured: tuple[Split, ...] = asked(("validation", "test"))
    """Splits that an evaluation measures; the training graphs, which are many, only where they are named."""
    evaluation_nodes: int = placement(32768)
    """Nodes evaluated at a time, about."""
    parts: int = placement(4)
    """Number of parts on disk."""

    def __post_init__(self) -> None:
        least_values = {"batch_size": 0, "batch_nodes": 0, "test_rotations": 0, "evaluation_nodes": 1, "parts": 1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}; expected a whole number of at least {least}.")
        if not self.batch_size and not self.batch_nodes:
            raise InputError("--batch-size and --batch-nodes are both 0; expected one that says how much a batch is.")
        if self.test_rotations and not self.augment.rotation:
            raise InputError(
                f"--test-rotations is {self.test_rotations}, but --augment.rotation is 0; say by how much copies turn."
            )

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Makes the graphs and writes them as a collection."""
        done = prepare_graphs(
            self.data,
            self.parts,
            root,
            mapper=mapper,
            progress=lambda what, share: watch({"event": "prepare", "what": what, "done": share}),
        )
        collection = done.collection
        facts = {"graphs": collection.num_graphs, "failures": len(collection.failures), "parts": collection.parts}
        return Prepared(path=collection.path, data_digest=collection.data_digest, seconds=done.seconds, facts=facts)

    def open(self, run: Run, worker: Worker) -> "GraphTask":
        """Maps the collection."""
        return GraphTask(self, run, worker)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShareOfGraphs:
    """One worker's share of a global batch of graphs."""

    graphs: GraphBatch
    """The graphs. For a worker without a share one that does not count, so that no network sees an empty batch."""
    counted: int
    """How many of them, from the first on, are in the loss."""
    size: int
    """Graphs in the global batch."""


class GraphTask:
    """Learning from small graphs as one worker does it."""

    def __init__(self, workload: GraphLearning, run: Run, worker: Worker) -> None:
        self.workload, self.device, self.group = workload, worker.device, worker.group
        self.dtype = getattr(torch, run.dtype)
        self.key = Key.root(run.seed)
        self.collection = Collection.open(worker.prepared.path)
        verify_together(worker.group, self.collection.path, self.collection.files)
        self.reader = GraphReader(self.collection)
        self.goal = goal_of(self.reader)
        self.training = torch.nonzero(self.reader.split == TRAIN).squeeze(1)

    def model(self) -> nn.Module:
        """The network, from the collection's feature columns and dimensions to classes or targets."""
        held = self.collection
        return self.workload.model.build(held.num_features, held.num_dimensions, self.goal.outputs)

    def batches(self, epoch: int, first_step: int) -> Iterator[ShareOfGraphs]:
        """This worker's share of every batch of an epoch."""
        order = self.training[shuffled(self.key.fold(SHUFFLING, epoch), self.training)]
        augmenting = self.key.fold(AUGMENTING, epoch)
        for step, chosen in enumerate(self._cut(order)):
            if step < first_step:
                continue
            chosen = chosen.sort().values
            mine = chosen[self.group.rank :: self.group.size]
            held = mine if len(mine) else chosen[:1]
            graphs = self.reader.batch(held, self.dtype, self.key.fold(STEPPING, epoch, step)).to(self.device)
            yield ShareOfGraphs(
                graphs=self.workload.augment.of(graphs, augmenting), counted=len(mine), size=len(chosen)
            )

    def _cut(self, order: Tensor) -> Iterator[Tensor]:
        """Global batches: samples in the order given, as many as the workload says."""
        most, nodes = self.workload.batch_size or len(order), self.workload.batch_nodes
        sizes = self.reader.nodes[order].tolist() if nodes else [0] * len(order)
        begin, held = 0, 0
        for place, size in enumerate(sizes):
            if place > begin and (place - begin == most or held + size > nodes > 0):
                yield order[begin:place]
                begin, held = place, 0
            held += size
        yield order[begin:]

    def loss(self, model: nn.Module, batch: ShareOfGraphs) -> Tensor:
        """The graphs' loss, summed here and divided by the global batch's size."""
        outputs = self._outputs(model, batch.graphs)[: batch.counted]
        samples = batch.graphs.samples[: batch.counted].cpu()
        return self.goal.loss(outputs, samples) / batch.size

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The goal's metrics on the splits that are measured."""
        mine, answers = self._answers(model, of_splits(self.reader.split, self.workload.measured))
        split = self.reader.split[mine]
        metrics: dict[str, float] = {}
        for name, value in SPLITS:
            chosen = split == value
            sums = self.group.all_reduce(self.goal.sums(answers[chosen], mine[chosen]), "state")
            if sums[0] > 0:
                metrics |= {f"{name}_{metric}": number for metric, number in self.goal.metrics(sums).items()}
        return metrics

    @property
    def measures(self) -> list[str]:
        """The goal's metrics, by their names, of the splits that are measured and have graphs."""
        return measures_of(self.goal, self.reader.split, self.workload.measured)

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """The raw ids of this worker's samples, and the goal's answer for each."""
        if embeddings:
            raise InputError("networks of graphs give no embeddings; predict without --embeddings.")
        mine, answers = self._answers(model, torch.arange(self.collection.num_graphs))
        return {"id": self.collection.raw_ids().take(pa.array(mine.numpy())), **self.goal.columns(answers)}

    def state(self) -> dict[str, Tensor]:
        """Nothing: every draw is keyed."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""
        assert not state

    def staleness(self) -> dict[str, int]:
        """Nothing is late."""
        return {}

    def _answers(self, model: nn.Module, samples: Tensor) -> tuple[Tensor, Tensor]:
        """This worker's share of some samples, and the goal's answers: int64 [n], float [n, outputs] on the host."""
        mine = samples[self.group.rank :: self.group.size]
        answers = [torch.empty(0, self.goal.outputs, dtype=self.dtype)]
        copies = range(self.workload.test_rotations)
        with torch.no_grad(), evaluating(model):
            for chosen in self._pieces(mine):
                graphs = self.reader.batch(chosen, self.dtype).to(self.device)
                turned = [self._turned(graphs, copy) for copy in copies] or [graphs]
                told = [self.goal.answers(self._outputs(model, graph)) for graph in turned]
                answers.append(torch.stack(told).mean(dim=0).cpu())
        return mine, torch.cat(answers)

    def _turned(self, graphs: GraphBatch, copy: int) -> GraphBatch:
        return Augmentation(rotation=self.workload.augment.rotation).of(graphs, self.key.fold(TURNING, copy))

    def _pieces(self, samples: Tensor) -> Iterator[Tensor]:
        """Samples in pieces of about as many nodes as are evaluated at a time."""
        piece_of = self.reader.nodes[samples].cumsum(0) // self.workload.evaluation_nodes
        for piece in sorted(set(piece_of.tolist())):
            yield samples[piece_of == piece]

    def _outputs(self, model: nn.Module, graphs: GraphBatch) -> Tensor:
        """A network's answer. Raises InputError where it is not one row of outputs a graph."""
        return row_of_each(model(graphs), len(graphs), self.goal.outputs, model=self.workload.model, sample="graph")

"""Node classification: a graph, a partition of it, a sampler and a model; the loss is the seeds' cross-entropy.

A global batch is cut from the shuffled training nodes by original id, the same on every worker; a seed then goes to the
worker that owns it, as long as that one has room. Neighbours, dropout and the batch itself depend on original ids
alone, and the loss is a sum over the global batch divided by its size: so neither partition nor workers show in it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.comm.features import Features
from framework.comm.group import CPU
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Step
from framework.comm.halo.strategy import HaloStrategy, Late, Particular
from framework.comm.layout.owner import Owner
from framework.comm.layout.strategy import Layout
from framework.comm.reach import Reach, Shards
from framework.comm.rounds import innermost, require_same_rounds
from framework.comm.rows import all_rows, share_out
from framework.comm.topology import Topology
from framework.config import placement, plugin_name
from framework.data.dataset import NO_LABEL, TRAIN, Dataset
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.graph.block import Block, GraphBlock, Nodes
from framework.graph.store import ShardStore
from framework.memory import RowsOnDisk, return_large_tensors
from framework.models.node_model import LayerwiseNetwork, NodeModel
from framework.partition import EdgeCut, VertexCut
from framework.prepare import prepare
from framework.random import Key, shuffled
from framework.registry import PARTITIONERS, WORKLOADS
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler
from framework.workloads.paths import PathNetwork, Paths, PathSearch
from framework.workloads.samples import SHUFFLING, SPLITS, STEPPING, evaluating, row_of_each
from partitioners.metis import Metis

WHOLE_BATCH = 4096  # nodes evaluated at a time where every layer has to be gathered for them, and no size is given
LAYER_BATCH = 65536  # nodes evaluated at a time where the first layer alone is
MANY = 1 << 17  # nodes of a worker from which on memory counts for more than the time that keeping none of it takes
_REMEDIES = {
    "split": "Draw a split by --data.shares 0.5 0.2, or name its column by --data.split where the data set has one.",
    "labels": "Node classification needs them: y in an .npz file, else a column or file named by --data.label(s).",
}


@WORKLOADS.register("nodes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeClassification:
    """A class for every node, learned from sampled neighbourhoods."""

    data: Dataset
    """The raw graph."""
    model: NodeModel
    """The network."""
    sampler: Sampler = Neighbor()
    """How a batch's neighbourhood is drawn."""
    batch_size: int = 1024
    """Training nodes in a global batch, over all workers. 0: all of them. With `--sampler full` every step computes the
    whole graph, whatever part of its training nodes it learns from."""
    paths: PathSearch = PathSearch()
    """How a network that attends along paths (`--model spagan`) has them searched; others have none."""
    halo: HaloStrategy = Exact()
    """How full-graph training (`--sampler full`) has the rows of other workers' nodes."""
    layout: Layout = placement(Owner())
    """How full-graph training lays a layer out over the workers; halo strategies are for the layout `owner` alone."""
    partitioner: EdgeCut | VertexCut = placement(Metis())
    """Who decides which part owns a node."""
    parts: int = placement(4)
    """Number of shards; more than workers is fine, and lets the number of workers change."""
    reach: Reach = placement("host")
    """What a worker reads by memory: `owned` shards, those of its `host`, or `all` of a shared store."""

    def __post_init__(self) -> None:
        if self.batch_size < 0:
            raise InputError(f"--batch-size is {self.batch_size}; expected a number of nodes, or 0 for all of them.")
        usual = (("halo", self.halo, Exact()), ("layout", self.layout, Owner()))
        given = {word: plugin_name(type(one)).partition(":")[2] for word, one, default in usual if one != default}
        if len(given) == 2:
            raise InputError("--layout {layout} is exact; it takes no --halo {halo}: choose one.".format(**given))
        for word, name in given.items() if not self.sampler.whole else ():
            raise InputError(f"--{word} {name} is for training on the whole graph; choose --sampler full.")
        if isinstance(halo := innermost(self.halo), Particular):
            halo.require("vertex-cut" if isinstance(self.partitioner, VertexCut) else "edge-cut")

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        """Partitions the graph and writes its shards."""
        done = prepare(
            self.data,
            self.partitioner,
            self.parts,
            root,
            mapper=mapper,
            progress=lambda what, share: watch({"event": "prepare", "what": what, "done": share}),
        )
        facts = {
            "parts": self.parts,
            "partitioner": plugin_name(type(self.partitioner)).removeprefix("partitioner:"),
            "quality": done.quality,
        }
        return Prepared(path=done.path, data_digest=done.data_digest, seconds=done.seconds, facts=facts)

    def open(self, run: Run, worker: Worker) -> "NodeTask":
        """Maps the shards and gathers the list of training nodes."""
        require_same_rounds(self.halo, run.gradient)
        return NodeTask(self, run, worker)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NodeBatch:
    """One worker's share of a global batch of nodes."""

    blocks: Sequence[GraphBlock]
    """The seeds' neighbourhood, the input layer's block first."""
    x: Tensor
    """[sources of the first block, columns]."""
    rows: Tensor | None
    """int64 [seeds]: the seeds' places among the last block's targets. None: they are those targets."""
    labels: Tensor
    """int64 [seeds]."""
    size: int
    """Nodes in the global batch."""


class NodeTask:
    """Node classification as one worker does it."""

    measures = tuple(f"{name}_{metric}" for name, _ in SPLITS for metric in ("loss", "accuracy", "macro_f1"))
    """What an evaluation measures of every split that has nodes with labels."""

    def __init__(self, workload: NodeClassification, run: Run, worker: Worker) -> None:
        self.workload, self.run, self.worker, self.device = workload, run, worker, worker.device
        self.dtype = getattr(torch, run.dtype)
        self.key = Key.root(run.seed)
        store = ShardStore.open(worker.prepared.path)
        if workload.sampler.whole and store.num_nodes >= MANY * worker.group.size:
            return_large_tensors()
        if store.kind == "vertex-cut" and not workload.sampler.whole:
            raise _split_neighbourhoods(workload.partitioner)
        self.shards = Shards.open(store, worker.group, workload.reach)
        for part in self.shards.owned:  # once a start: a byte that a disk has changed would be learned from in silence
            store.verify(part)
        self.topology = Topology(self.shards, workload.halo, worker.device, workload.layout, self._let_rest)
        self.features = Features(self.shards, once=workload.sampler.whole)
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.resting: list[RowsOnDisk] = []
        self.paths: Paths | None = None
        self.seeds, self.seed_labels = self._training_nodes()

    def model(self) -> nn.Module:
        """The network, from the store's feature columns to its classes."""
        store, search = self.shards.store, self.workload.paths
        network = self.workload.model.build(store.num_features, store.num_classes, self.workload.sampler.depth)
        if isinstance(network, PathNetwork) and search.refreshes:
            self.paths = Paths(search, network, self.shards, self.run, self.worker)
        return network

    def stages_left(self) -> bool:
        """Whether paths are to be searched once more."""
        return self.paths is not None and self.paths.stages_left()

    @property
    def lag(self) -> int:
        """Epochs that go on while paths are searched."""
        return self.workload.paths.staleness

    def begin(self, model: nn.Module) -> None:
        """Begins to search paths by what the network, which `model` is, attends to."""
        assert self.paths is not None, "there is no other stage"
        with evaluating(model):
            self.paths.begin(self._first_layers())

    def finish(self) -> dict[str, Any]:
        """Enters the stage of the paths that were begun."""
        assert self.paths is not None, "there is no other stage"
        return self.paths.finish()

    def enter(self, stage: dict[str, Any]) -> None:
        """Opens the paths of a stage."""
        assert self.paths is not None, "a network of other stages; the run's digest says that it is the same"
        self.paths.enter(stage)

    def batches(self, epoch: int, first_step: int) -> Iterator[NodeBatch]:
        """This worker's share of every batch of an epoch."""
        size, group = self.workload.batch_size or len(self.seed_labels), self.shards.group
        order = shuffled(self.key.fold(SHUFFLING, epoch), self.seeds.original)
        for step, chosen in enumerate(torch.split(order, size)):
            if step < first_step:
                continue
            chosen = chosen.sort().values
            owner = self.shards.worker_of(self.seeds.ids[chosen])
            mine = chosen[(owner if self.workload.sampler.whole else share_out(owner, group.size)) == group.rank]
            key = self.key.fold(STEPPING, epoch, step)
            if self.workload.sampler.whole:
                self.topology.wire.exchange.begin(Step(epoch=epoch, number=step, key=key))
            yield self._batch(self.seeds[mine], self.seed_labels[mine], len(chosen), key)

    def _batch(self, seeds: Nodes, labels: Tensor, size: int, key: Key) -> NodeBatch:
        blocks = self._first_replaced(self.workload.sampler.sample(self.topology, seeds, key))
        if self.workload.sampler.whole:
            x, rows = self.kept_rows(blocks[0]), torch.searchsorted(blocks[-1].targets.ids, seeds.ids).to(self.device)
        else:
            x, rows = self._rows(blocks[0].sources), None
        placed = [block.to(self.device) if isinstance(block, Block) else block for block in blocks]
        return NodeBatch(blocks=placed, x=x, rows=rows, labels=labels.to(self.device), size=size)

    def _first_replaced(self, blocks: Sequence[GraphBlock]) -> Sequence[Any]:
        """The layers, the first of them along paths where the network attends along some."""
        if self.paths is None:
            return blocks
        return [self.paths.block(blocks[0], whole=self.workload.sampler.whole), *blocks[1:]]

    def _first_layers(self) -> Iterator[tuple[Any, Tensor]]:
        """The first layer of all owned nodes, every neighbour counted, with its rows: as a whole, or piece by piece.

        Features of all nodes may not fit in memory where none are kept."""
        if self.workload.sampler.whole:
            (first,) = self._first_replaced(self.topology.layers([None], self.topology.exact))
            yield first, self.kept_rows(first)
        else:
            yield from ((block, rows) for (block,), rows in self._gathered(1, LAYER_BATCH))

    def loss(self, model: nn.Module, batch: NodeBatch) -> Tensor:
        """The seeds' cross-entropy, summed here and divided by the global batch's size."""
        scores = self._checked(model(batch.blocks, batch.x), batch.blocks[-1].num_targets)
        self._let_rest()
        if batch.rows is not None:
            scores = scores[batch.rows]
        return nn.functional.cross_entropy(scores, batch.labels, reduction="sum") / batch.size

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 of every split, from whole neighbourhoods."""
        scores = self._scores(model).cpu()
        predicted, losses = scores.argmax(1), -scores.double().log_softmax(1)
        labels, split, classes = self._owned("labels"), self._owned("split"), self.shards.store.num_classes
        metrics = {}
        for name, value in SPLITS:
            chosen = (split == value) & (labels != NO_LABEL)
            # [labels, predictions]; torchmetrics would count the same, and adds two seconds to every worker's start
            counts = torch.bincount(labels[chosen] * classes + predicted[chosen], minlength=classes * classes)
            loss = losses[chosen, labels[chosen]].sum()
            sums = self.shards.group.all_reduce(torch.cat([loss.view(1), counts.double()]), "state")
            loss, counts = sums[0], sums[1:].view(classes, classes)
            if counts.sum() == 0:
                continue
            metrics[f"{name}_loss"] = float(loss / counts.sum())
            metrics[f"{name}_accuracy"] = float(counts.diagonal().sum() / counts.sum())
            present = counts.sum(1) + counts.sum(0) > 0
            f1 = 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1)).clamp(min=1)
            metrics[f"{name}_macro_f1"] = float(f1[present].mean())
        return metrics

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """The owned nodes' raw ids with class and its probability, or with the last layer's input."""
        ids = self._raw_ids()
        if embeddings:
            return {"id": ids, "embedding": self._embeddings(model).cpu().numpy()}
        probability, best = self._scores(model).softmax(1).max(1)
        columns = {"id": ids, "class": best.cpu().numpy(), "score": probability.cpu().numpy()}
        names = self.shards.store.class_names
        return {**columns, "class_name": pa.array(names).take(pa.array(columns["class"]))} if names else columns

    def state(self) -> dict[str, Tensor]:
        """What this worker keeps from step to step: what its halo strategy does."""
        return self.topology.state() if self.workload.sampler.whole else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        if self.workload.sampler.whole:
            self.topology.load_state(state)

    def staleness(self) -> dict[str, int]:
        """As the halo strategy saw it."""
        exchange = self.topology.wire.exchange if self.workload.sampler.whole else None
        return dict(exchange.staleness) if isinstance(exchange, Late) else {}

    def kept_rows(self, first: GraphBlock) -> Tensor:
        """Features that a first layer over the whole graph needs, of other workers' nodes too: fetched once and kept.

        Evaluation shares them with training where the layers have the same sources, which most layouts see to."""
        sources = first.sources
        for ids, rows in self.kept:
            if ids is sources.ids:  # the same on every worker, which equal ids need not be
                return rows
        self.kept.append((sources.ids, self._rows_for_long(sources)))
        return self.kept[-1][1]

    def _rows_for_long(self, nodes: Nodes) -> Tensor:
        """Features that are kept for the whole run: beside the store, where workers compute in its type.

        Sums of them over neighbours are mostly all that a step needs, and those are kept, too."""
        if (self.device, self.dtype) != (CPU, torch.float32):
            return self._rows(nodes)
        try:
            kept = RowsOnDisk(len(nodes), self.shards.store.num_features, self.shards.store.path.parent)
        except OSError:  # a store that others have written, on a disk that is theirs or full
            return self._rows(nodes)
        self.resting.append(kept)
        return self.features.rows(nodes.ids, kept.rows)

    def _let_rest(self) -> None:
        for kept in self.resting:
            kept.rest()

    def _scores(self, model: nn.Module) -> Tensor:
        """Class scores of the owned nodes, every neighbour counted: float [n, classes]."""
        with torch.no_grad(), evaluating(model):
            if isinstance(model, LayerwiseNetwork):
                scores = self._layers(model, self.workload.sampler.depth)
            elif self.workload.sampler.whole:
                blocks = self.topology.layers([None] * self.workload.sampler.depth, self.topology.exact)
                blocks = self._first_replaced(blocks)
                scores = model(blocks, self.kept_rows(blocks[0]))
            else:
                scores = self._sampled_whole(model)
            self._let_rest()
            return self._checked(scores, len(self.topology.owned))

    def _checked(self, scores: Any, targets: int) -> Tensor:
        """A network's answer. Raises InputError where it is not one row of class scores a target."""
        classes = self.shards.store.num_classes
        return row_of_each(scores, targets, classes, model=self.workload.model, sample="target of the last block")

    def _embeddings(self, model: nn.Module) -> Tensor:
        if not isinstance(model, LayerwiseNetwork):
            raise InputError(f"{type(model).__name__} has no forward_layer(); embeddings need one. Predict classes.")
        with torch.no_grad(), evaluating(model):
            return self._layers(model, self.workload.sampler.depth - 1)

    def _layers(self, model: LayerwiseNetwork, depth: int) -> Tensor:
        """The first `depth` layers over all owned nodes: float [n, columns]."""
        if depth == 0:
            return self._rows(self.topology.owned)
        pieces = [model.forward_layer(0, first, rows) for first, rows in self._first_layers()]
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        for block in self.topology.layers([None] * depth, self.topology.exact)[1:]:
            x = model.forward_layer(block.layer, block, x)
        return x

    def _sampled_whole(self, model: nn.Module) -> Tensor:
        """For a network without `forward_layer`: whole neighbourhoods of batches of owned nodes."""
        depth, size = self.workload.sampler.depth, self.workload.batch_size or WHOLE_BATCH
        return torch.cat([model(blocks, rows) for blocks, rows in self._gathered(depth, size)])

    def _gathered(self, depth: int, size: int) -> Iterator[tuple[list[Block], Tensor]]:
        """Whole neighbourhoods of `depth` hops of all owned nodes, `size` of them at a time; and their features."""
        owned, whole = self.topology.owned, Neighbor(fanouts=(-1,) * depth)
        for step in range(max(self.shards.group.gather_json(-(-len(owned) // size)))):
            edges = whole.sample(self.topology, owned[step * size : (step + 1) * size], self.key)
            blocks = self._first_replaced(edges)
            placed = [dataclasses.replace(block, key=None).to(self.device) for block in blocks]
            yield placed, self._rows(placed[0].sources)

    def _rows(self, nodes: Nodes) -> Tensor:
        return self.features.rows(nodes.ids).to(self.device, self.dtype)

    def _training_nodes(self) -> tuple[Nodes, Tensor]:
        """The training nodes of all workers, by original id, and their labels."""
        mine = torch.nonzero(self._owned("split") == TRAIN).squeeze(1)
        nodes = self.topology.owned[mine]
        table = torch.stack([nodes.original, nodes.ids, nodes.degree, self._owned("labels")[mine]], dim=1)
        table = all_rows(self.shards.group, table, "state")
        if len(table) == 0:
            raise InputError(f"{self.shards.store.path} has no training nodes. {_REMEDIES['split']}")
        original, ids, degree, labels = table[torch.argsort(table[:, 0])].t().contiguous()
        if int(labels.min()) == NO_LABEL:
            node = int(original[labels == NO_LABEL][0])
            raise InputError(f"training node {node} has no label; take it out of the split or label it.")
        return Nodes(ids=ids, original=original, degree=degree), labels

    def _owned(self, column: str) -> Tensor:
        """A column of the owned nodes, int64 [n]."""
        columns = [getattr(self.shards.mapped[part], column) for part in self.shards.owned]
        if any(values is None for values in columns):
            raise InputError(f"{self.shards.store.path} has no {column}. {_REMEDIES[column]}")
        return torch.cat([torch.empty(0, dtype=torch.int64), *(values.long() for values in columns)])

    def _raw_ids(self) -> pa.ChunkedArray:
        """The ids that the raw data knows the owned nodes by."""
        store, owned = self.shards.store, self.shards.owned
        none = store.raw_ids(0)[:0]  # gives a worker without shards the type of the others' column
        return pa.chunked_array([none, *(store.raw_ids(part) for part in owned)])


def _split_neighbourhoods(partitioner: EdgeCut | VertexCut) -> InputError:
    """What to say where neighbours are to be drawn from a vertex-cut."""
    edge_cuts = [name for name in PARTITIONERS.names() if hasattr(PARTITIONERS.get(name), "owners")]
    return InputError(
        f"partitioner '{PARTITIONERS.name_of(type(partitioner))}' is a vertex-cut: it splits the edges of a node, "
        f"and sampled training needs them in one shard. Choose an edge-cut: {', '.join(edge_cuts)}; "
        "or train on the whole graph: --sampler full."
    )

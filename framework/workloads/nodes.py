"""Node classification: a graph, a partition of it, a sampler and a model; the loss is the seeds' cross-entropy.

A global batch is cut from the shuffled training nodes by original id, the same on every worker; a seed then goes to the
worker that owns it, as long as that one has room. Neighbours, dropout and the batch itself depend on original ids
alone, and the loss is a sum over the global batch divided by its size: so neither partition nor workers show in it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.comm.cache.policy import Cache, Outlook
from framework.comm.features import Features
from framework.comm.group import Group
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Step
from framework.comm.halo.strategy import HaloStrategy, Late, Particular
from framework.comm.layout.owner import Owner
from framework.comm.layout.strategy import Layout
from framework.comm.meeting import verify_together
from framework.comm.reach import Reach, Shards, parts_read
from framework.comm.rounds import innermost, require_same_rounds
from framework.comm.rows import share_out
from framework.comm.topology import Topology
from framework.config import placement, plugin_name
from framework.data.dataset import Dataset
from framework.engine.run import Event, Mapper, Prepared, Run, Worker
from framework.errors import InputError
from framework.graph.block import GraphBlock, Nodes
from framework.graph.shard import BESIDE_EDGES
from framework.graph.store import ShardStore
from framework.memory import return_large_tensors
from framework.models.node_model import NodeModel
from framework.partition import EdgeCut, VertexCut
from framework.prepare import prepare
from framework.random import Key, shuffled
from framework.registry import PARTITIONERS, WORKLOADS
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler
from framework.store.columns import part_folder
from framework.workloads.node_inference import Inference
from framework.workloads.node_labels import MEASURES, NodeLabels
from framework.workloads.node_rows import Begun, NodeRows, finished, placed
from framework.workloads.paths import PathNetwork, Paths, PathSearch
from framework.workloads.samples import EVALUATING, SHUFFLING, STEPPING, evaluating
from partitioners.metis import Metis

MANY = 1 << 17  # nodes of a worker from which on memory counts for more than the time that keeping none of it takes


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
    topology_reach: Reach | None = placement(None)
    """The same of edges, where a worker reads those of more shards than features: a graph without features is small,
    and neighbours that are drawn from memory are asked of nobody. None: as `reach`."""
    cache: Cache | None = placement(None)
    """Of which other workers' nodes a worker keeps the rows, in sampled training. None: of none."""
    ahead: int = placement(1)
    """Batches whose rows come from other workers while the network computes the one before. Two more are drawn by then,
    so that owners know in time what to send: as many are held, without rows."""

    def __post_init__(self) -> None:
        if self.batch_size < 0:
            raise InputError(f"--batch-size is {self.batch_size}; expected a number of nodes, or 0 for all of them.")
        if self.ahead < 0:
            raise InputError(f"--ahead is {self.ahead}; expected a number of batches, or 0.")
        usual = (("halo", self.halo, Exact()), ("layout", self.layout, Owner()))
        given = {word: plugin_name(type(one)).partition(":")[2] for word, one, default in usual if one != default}
        if len(given) == 2:
            raise InputError("--layout {layout} is exact; it takes no --halo {halo}: choose one.".format(**given))
        if self.cache is not None and self.sampler.whole:
            raise InputError("--cache is for sampled training; on the whole graph all rows are kept that are needed.")
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

    def needs(self, group: Group) -> Callable[[str], bool]:
        """The shards of the workers of this host; with `--reach all` every one, and likewise of edges."""
        parts = parts_read(self.parts, group, "all" if self.reach == "all" else "host")
        edges = tuple(map(part_folder, range(self.parts))) if self.topology_reach == "all" else ()
        beside = tuple(f"/{name}.arrow" for name in BESIDE_EDGES)
        # A host that owns no part is to know of which type the nodes' names are.
        read = tuple(map(part_folder, parts)) or tuple(f"{part_folder(0)}{name}.arrow" for name in ("ids", "original"))
        return lambda name: name.startswith(read) or (name.startswith(edges) and not name.endswith(beside))

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

    measures = MEASURES
    """What an evaluation measures of every split that has nodes with labels."""

    def __init__(self, workload: NodeClassification, run: Run, worker: Worker) -> None:
        self.workload, self.run, self.worker, self.device = workload, run, worker, worker.device
        self.dtype = getattr(torch, run.dtype)
        self.key = Key.root(run.seed)
        needs = workload.needs(worker.group)
        store = ShardStore.open(worker.prepared.path, needs)
        verify_together(worker.group, store.path, {name: facts for name, facts in store.files.items() if needs(name)})
        if workload.sampler.whole and store.num_nodes >= MANY * worker.group.size:
            return_large_tensors()
        if store.kind == "vertex-cut" and not workload.sampler.whole:
            raise _split_neighbourhoods(workload.partitioner)
        self.shards = Shards.open(store, worker.group, workload.reach)
        if workload.cache is not None and not self.shards.asks and worker.group.rank == 0:
            worker.watch({"event": "note", "text": "--cache keeps nothing: workers read all rows by memory (--reach)"})
        features = Features(self.shards, once=workload.sampler.whole)
        self.rows = NodeRows(features, worker.device, self.dtype)
        edges = self.shards
        if workload.topology_reach is not None:
            edges = Shards.open(store, worker.group, workload.topology_reach, edges_alone=True)
        self.topology = Topology(edges, workload.halo, worker.device, workload.layout, self.rows.rest)
        self.inference = Inference(
            model=workload.model,
            sampler=workload.sampler,
            batch_size=workload.batch_size,
            topology=self.topology,
            rows=self.rows,
            first_replaced=self._first_replaced,
            key=self.key.fold(EVALUATING),
            ahead=self._ahead,
        )
        self.paths: Paths | None = None
        self.labels = NodeLabels(self.shards)
        self.seeds, self.seed_labels = self.labels.training(self.topology.owned)

    def model(self) -> nn.Module:
        """The network, from the store's feature columns to its classes."""
        store, search = self.shards.store, self.workload.paths
        network = self.workload.model.build(store.num_features, store.num_classes, self.workload.sampler.depth)
        if isinstance(network, PathNetwork) and search.refreshes:
            if self.inference.scoped:
                raise InputError(
                    f"--sampler {plugin_name(type(self.workload.sampler)).rpartition(':')[2]} gives every seed a graph "
                    "of its own, and paths lead through the whole one: choose another, or --paths.refreshes 0."
                )
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
            self.paths.begin(self.inference.first_layers())

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
        if self.workload.sampler.whole:
            return self._whole_batches(epoch, first_step)
        if self.workload.cache is not None and self.shards.asks and self.rows.features.kept is None:
            self.rows.keep(self.workload.cache, self.outlook(epoch))
        return finished(self._begun(epoch, first_step), self._ahead, early=True)

    def outlook(self, epoch: int) -> Outlook:
        """What a cache is told of the training from `epoch` on."""
        return Outlook(
            topology=self.topology,
            shards=self.shards,
            sampler=self.workload.sampler,
            batches=lambda later: ((self.seeds[mine], key) for _, mine, _, key in self._steps(epoch + later)),
            seeds=self.seeds,
            share=min(1.0, self._batch_size / len(self.seeds)),
        )

    @property
    def _ahead(self) -> int:
        """Batches that are begun early: none where all rows are read by memory, for what is read waits for nobody."""
        return self.workload.ahead if self.shards.asks else 0

    @property
    def _batch_size(self) -> int:
        return self.workload.batch_size or len(self.seeds)

    def _whole_batches(self, epoch: int, first_step: int) -> Iterator[NodeBatch]:
        """One after the other: what a step has of other workers' nodes depends on the steps before."""
        for step, mine, size, key in self._steps(epoch, first_step):
            self.topology.wire.exchange.begin(Step(epoch=epoch, number=step, key=key))
            blocks = self._first_replaced(self.workload.sampler.sample(self.topology, self.seeds[mine], key))
            yield NodeBatch(
                blocks=placed(blocks, self.device),
                x=self.rows.of_layer(blocks[0]),
                rows=torch.searchsorted(blocks[-1].targets.ids, self.seeds.ids[mine]).to(self.device),
                labels=self.seed_labels[mine].to(self.device),
                size=size,
            )

    def _begun(self, epoch: int, first_step: int) -> Iterator[Begun[NodeBatch]]:
        for _, mine, size, key in self._steps(epoch, first_step):
            yield self._batch(self.seeds[mine], self.seed_labels[mine], size, key)

    def _steps(self, epoch: int, first: int = 0) -> Iterator[tuple[int, Tensor, int, Key]]:
        """Steps from the `first`: number, this worker's share of the training nodes, how many these are in all, key."""
        group = self.shards.group
        order = shuffled(self.key.fold(SHUFFLING, epoch), self.seeds.original)
        for step, chosen in enumerate(torch.split(order, self._batch_size)):
            if step < first:
                continue
            chosen = chosen.sort().values
            owner = self.shards.worker_of(self.seeds.ids[chosen])
            mine = chosen[(owner if self.workload.sampler.whole else share_out(owner, group.size)) == group.rank]
            yield step, mine, len(chosen), self.key.fold(STEPPING, epoch, step)

    def _batch(self, seeds: Nodes, labels: Tensor, size: int, key: Key) -> Begun[NodeBatch]:
        """Draws a batch and asks for its rows; what is returned makes it of them."""
        blocks = self._first_replaced(self.workload.sampler.sample(self.topology, seeds, key))
        under_way, rows = self.rows.asked(blocks[0].sources, repeated=self.inference.scoped)

        def finish() -> NodeBatch:
            x, layers = rows(), placed(blocks, self.device)
            return NodeBatch(blocks=layers, x=x, rows=None, labels=labels.to(self.device), size=size)

        return under_way, finish

    def _first_replaced(self, blocks: Sequence[GraphBlock]) -> Sequence[Any]:
        """The layers, the first of them along paths where the network attends along some."""
        if self.paths is None:
            return blocks
        return [self.paths.block(blocks[0], whole=self.workload.sampler.whole), *blocks[1:]]

    def loss(self, model: nn.Module, batch: NodeBatch) -> Tensor:
        """The seeds' cross-entropy, summed here and divided by the global batch's size."""
        scores = self.inference.checked(model(batch.blocks, batch.x), batch.blocks[-1].num_targets)
        self.rows.rest()
        if batch.rows is not None:
            scores = scores[batch.rows]
        return nn.functional.cross_entropy(scores, batch.labels, reduction="sum") / batch.size

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 of every split, from whole neighbourhoods or a Scoped sampler's draws."""
        return self.labels.metrics(self.inference.scores(model).cpu())

    def predict(self, model: nn.Module, embeddings: bool) -> dict[str, Any]:
        """The owned nodes' raw ids with class and its probability, or with the last layer's input."""
        if embeddings:
            return {"id": self.labels.raw_ids(), "embedding": self.inference.embeddings(model).cpu().numpy()}
        return self.labels.predictions(self.inference.scores(model))

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


def _split_neighbourhoods(partitioner: EdgeCut | VertexCut) -> InputError:
    """What to say where neighbours are to be drawn from a vertex-cut."""
    edge_cuts = [name for name in PARTITIONERS.names() if hasattr(PARTITIONERS.get(name), "owners")]
    return InputError(
        f"partitioner '{PARTITIONERS.name_of(type(partitioner))}' is a vertex-cut: it splits the edges of a node, "
        f"and sampled training needs them in one shard. Choose an edge-cut: {', '.join(edge_cuts)}; "
        "or train on the whole graph: --sampler full."
    )

"""PyG networks with our weights and keyed dropout, on a raw graph in one process: what full-graph runs must equal."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from node_runs import small_run
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from framework.comm.group import Group
from framework.engine.optimize import Adam
from framework.engine.run import Run, Worker
from framework.engine.train import INITIAL, first_model, train
from framework.kernels.dropout import dropout
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key
from framework.sample.full import Full
from framework.workloads.nodes import NodeTask
from framework.workloads.samples import STEPPING

LAYERS, EPOCHS = 3, 50
MODELS = {
    "sage": SAGE(hidden=8, dropout=0.5),
    "gcn": GCN(hidden=8, dropout=0.5),
    "gat": GAT(hidden=4, heads=2, dropout=0.3, input_dropout=0.2),
}


def full_run(out: Path, model: str, **fields: Any) -> Run:
    settings = {"epochs": EPOCHS, "evaluate_every": 0, "reach": "owned", **fields}
    return small_run(out, model=MODELS[model], sampler=Full(layers=LAYERS), batch_size=0, **settings)


def first_gradients(run: Run, worker: Worker) -> dict[str, Any]:
    """The gradient of every weight in the first step, summed over the workers; a main."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    model = first_model(run, worker, task)
    for batch in task.batches(0, 0):
        task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
    return {name: _summed(worker.group, weight).tolist() for name, weight in model.named_parameters()}


def gradients_and_losses(run: Run, worker: Worker) -> dict[str, Any]:
    """The first gradients, and the loss of every epoch; a main."""
    return {"gradients": first_gradients(run, worker), "loss": train(run, worker)["loss"]}


def _summed(group: Group, weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return group.all_reduce(weight.grad.clone(), "gradient")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run should come to."""

    losses: list[float]
    """The loss of every epoch."""
    gradients: dict[str, Tensor]
    """The gradient of every weight in the first step, by our names."""


class Reference(nn.Module):
    """The same network of PyG's layers on the whole graph, with our keyed dropout where ours has it."""

    def __init__(self, ours: nn.Module, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(copied(layer) for layer in ours.layers)  # type: ignore[union-attr]

    def forward(self, x: Tensor, edges: Tensor, key: Key) -> Tensor:
        rows = torch.arange(len(x))
        for number, layer in enumerate(self.layers):
            keys = key.fold(2, number)  # 2: what a step's layers draw
            if self.kind == "gat":
                x = dropout(x, 0.2 if number == 0 else 0.3, keys.fold(0), rows)
            x = layer(x, edges)
            if number < LAYERS - 1:
                x = nn.functional.elu(x) if self.kind == "gat" else dropout(torch.relu(x), 0.5, keys.fold(2), rows)
        return x


def names_of(layer: Any) -> dict[str, str]:
    """PyG's name of every weight of a layer of ours -> our name."""
    return {
        "SAGEConv": {"lin_l.weight": "neighbors.weight", "lin_l.bias": "neighbors.bias", "lin_r.weight": "own.weight"},
        "GCNConv": {"lin.weight": "linear.weight", "bias": "bias"},
        "GATConv": {
            "lin.weight": "linear.weight",
            "att_src": "source_attention",
            "att_dst": "target_attention",
            "bias": "bias",
        },
    }[type(layer).__name__]


def copied(layer: Any) -> nn.Module:
    """PyG's layer with the weights of ours."""
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    twin: Any
    if "own.weight" in shapes:
        out, width = shapes["own.weight"]
        twin = SAGEConv(width, out).double()
    elif "source_attention" in shapes:
        twin = GATConv(shapes["linear.weight"][1], layer.out, heads=layer.heads, concat=layer.join).double()
    else:
        out, width = shapes["linear.weight"]
        twin = GCNConv(width, out).double()
    weights, twins = dict(layer.named_parameters()), dict(twin.named_parameters())
    with torch.no_grad():
        for theirs, ours in names_of(layer).items():
            twins[theirs].copy_(weights[ours].view_as(twins[theirs]))
    return twin


def reference(run: Run, kind: str) -> Answer:
    """`run`'s losses and first gradients in one process of PyG, from the raw graph itself."""
    raw = run.workload.data.open()  # type: ignore[attr-defined]
    source, target = (torch.from_numpy(ends) for ends in map(_joined, zip(*raw.edges, strict=True)))
    edges = torch.stack([source, target])
    x = torch.cat([torch.from_numpy(batch) for batch in raw.features.batches()]).double()
    labels, training = torch.from_numpy(raw.labels), torch.from_numpy(raw.split == 1)
    root = Key.root(run.seed)
    with torch.random.fork_rng():
        torch.manual_seed(root.fold(INITIAL).value >> 1)
        ours = MODELS[kind].build(x.shape[1], raw.num_classes, LAYERS).double()
    model = Reference(ours, kind)
    optimizer = Adam().build(model.parameters())
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    for epoch in range(run.epochs):
        optimizer.zero_grad()
        scores = model(x, edges, root.fold(STEPPING, epoch, 0))
        loss = nn.functional.cross_entropy(scores[training], labels[training])
        loss.backward()  # type: ignore[no-untyped-call]
        if epoch == 0:
            gradients = _renamed(ours, model)
        optimizer.step()
        losses.append(float(loss.detach()))
    return Answer(losses=losses, gradients=gradients)


def _renamed(ours: nn.Module, theirs: nn.Module) -> dict[str, Tensor]:
    """The gradients of PyG's weights by the names and in the shapes of ours."""
    gradients = {}
    for number, (layer, twin) in enumerate(zip(ours.layers, theirs.layers, strict=True)):  # type: ignore[arg-type]
        weights, twins = dict(layer.named_parameters()), dict(twin.named_parameters())
        for their_name, our_name in names_of(layer).items():
            gradient = twins[their_name].grad
            assert gradient is not None
            gradients[f"layers.{number}.{our_name}"] = gradient.clone().view_as(weights[our_name])
    return gradients


def _joined(batches: Sequence[Any]) -> Any:
    """Batches as one array."""
    return torch.cat([torch.from_numpy(batch) for batch in batches]).numpy()

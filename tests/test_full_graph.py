"""Full-graph training: one process equals PyG with the same weights and dropout; any placement equals one process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from node_runs import GRAPH, small_run
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from framework.engine.optimize import Adam
from framework.engine.run import Run
from framework.engine.train import INITIAL
from framework.kernels.dropout import dropout
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key
from framework.sample.full import Full
from framework.workloads.nodes import STEPPING
from launch.start import start
from partitioners.metis import Metis
from partitioners.random import Random
from partitioners.spinner import Spinner

LAYERS, EPOCHS = 3, 50
MODELS = {
    "sage": SAGE(hidden=8, dropout=0.5),
    "gcn": GCN(hidden=8, dropout=0.5),
    "gat": GAT(hidden=4, heads=2, dropout=0.3, input_dropout=0.2),
}


def full_run(out: Path, model: str, **fields: Any) -> Run:
    settings = {"epochs": EPOCHS, "evaluate_every": 0, "reach": "owned", **fields}
    return small_run(out, model=MODELS[model], sampler=Full(layers=LAYERS), batch_size=0, **settings)


def ignore(event: Any) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("full")


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


def copied(layer: Any) -> nn.Module:
    """PyG's layer with the weights of ours."""
    kind, columns = type(layer).__name__, {name: tuple(value.shape) for name, value in layer.named_parameters()}
    if kind == "SAGEConv":
        out, width = columns["own.weight"]
        twin: Any = SAGEConv(width, out).double()
        pairs = {"lin_l.weight": "neighbors.weight", "lin_l.bias": "neighbors.bias", "lin_r.weight": "own.weight"}
    elif kind == "GCNConv":
        out, width = columns["linear.weight"]
        twin = GCNConv(width, out).double()
        pairs = {"lin.weight": "linear.weight", "bias": "bias"}
    else:
        width = columns["linear.weight"][1]
        twin = GATConv(width, layer.out, heads=layer.heads, concat=layer.join).double()
        pairs = {
            "lin.weight": "linear.weight",
            "att_src": "source_attention",
            "att_dst": "target_attention",
            "bias": "bias",
        }
    weights = dict(layer.named_parameters())
    with torch.no_grad():
        for theirs, ours in pairs.items():
            target = dict(twin.named_parameters())[theirs]
            target.copy_(weights[ours].view_as(target))
    return twin


def reference_losses(run: Run, kind: str) -> list[float]:
    """The loss of every epoch in one process of PyG, from the raw graph itself."""
    raw = GRAPH.open()
    source, target = (torch.from_numpy(ends) for ends in map(joined, zip(*raw.edges, strict=True)))
    edges = torch.stack([source, target])
    assert raw.features is not None
    assert raw.labels is not None
    assert raw.split is not None
    x = torch.cat([torch.from_numpy(batch) for batch in raw.features.batches()]).double()
    labels, training = torch.from_numpy(raw.labels), torch.from_numpy(raw.split == 1)
    root = Key.root(run.seed)
    with torch.random.fork_rng():
        torch.manual_seed(root.fold(INITIAL).value >> 1)
        ours = MODELS[kind].build(x.shape[1], raw.num_classes, LAYERS).double()
    model = Reference(ours, kind)
    optimizer = Adam().build(model.parameters())
    losses = []
    for epoch in range(EPOCHS):
        optimizer.zero_grad()
        scores = model(x, edges, root.fold(STEPPING, epoch, 0))
        loss = nn.functional.cross_entropy(scores[training], labels[training])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def joined(batches: Sequence[Any]) -> Any:
    """Batches as one array."""
    return torch.cat([torch.from_numpy(batch) for batch in batches]).numpy()


@pytest.fixture(scope="module", params=list(MODELS))
def alone(request: pytest.FixtureRequest, folder: Path) -> tuple[str, dict[str, Any]]:
    """One worker, one part."""
    kind: str = request.param
    return kind, start(full_run(folder / kind, kind, parts=1), ignore)


def test_one_process_equals_pyg(folder: Path, alone: tuple[str, dict[str, Any]]) -> None:
    kind, report = alone
    assert report["loss"] == pytest.approx(reference_losses(full_run(folder / kind, kind), kind), rel=1e-8)
    assert report["loss"][-1] < report["loss"][0]


PLACEMENTS = [
    {"workers": 1, "parts": 3, "partitioner": Random()},
    {"workers": 2, "parts": 4, "partitioner": Metis()},
    {"workers": 3, "parts": 3, "partitioner": Spinner()},
]


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: f"{placement['workers']}-{placement['parts']}")
def test_any_placement_equals_one_process(
    folder: Path, alone: tuple[str, dict[str, Any]], placement: dict[str, Any]
) -> None:
    kind, report = alone
    out = folder / f"{kind}-{placement['workers']}-{placement['parts']}"
    placed = start(full_run(out, kind, **placement), ignore)
    assert placed["loss"] == pytest.approx(report["loss"], rel=1e-8)
    assert placed["metrics"] == report["metrics"]
    if placement["workers"] > 1:
        assert placed["bytes"]["halo"] > 0

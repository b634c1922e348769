"""Full-graph epochs in one process: ours beside DGL and PyG, interleaved, on the planted graph.

Run: python -m benchmarks.full_graph [--models gcn gat] [--rounds 7] [--threads 2]

Assumptions: one epoch is a forward pass with dropout, the loss of the training nodes, the backward pass and a step of
Adam, in float32, for all three alike. Rounds go over all of them, so that a busy spell hits all; what is compared are
times of the same round. Ours runs on a prepared store of one part. DGL and PyG are given what makes them
fastest: DGL's graph has its CSR and CSC made before, PyG's GCN its normalisation cached. Ours keeps the sums over
neighbours that GCN's first layer takes of features; DGL and PyG do not by themselves, so they are there with them, too,
given as their first layer's input, and PyG with a sparse matrix as well, which it multiplies by faster than by edges.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import harness
from framework.comm.group import Group
from framework.data.dataset import TRAIN
from framework.data.generators import PRESETS
from framework.engine.run import Run, Worker
from framework.models.node_model import NodeModel
from framework.models.nodes import GAT, GCN
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification
from partitioners.range import Range

ROWS = harness.ROWS / "full_graph.jsonl"
DOCUMENT = harness.DOCUMENTS / "full_graph.md"
DROPOUT = 0.5
Epoch = Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A network: how deep, and of what."""

    model: NodeModel
    """Ours."""
    layers: int
    """Layers."""
    hidden: int
    """Width of an inner layer, or of a head."""
    heads: int
    """Heads of an inner layer; 0: no attention."""


SHAPES = {
    "gcn": Shape(model=GCN(hidden=128, dropout=DROPOUT), layers=3, hidden=128, heads=0),
    "gat": Shape(model=GAT(hidden=8, heads=8, dropout=DROPOUT), layers=2, hidden=8, heads=8),
}
"""GCN 3 x 128, and GAT with 2 layers, the first of 8 heads of 8 columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The graph as tensors, for those that have no store."""

    edges: Tensor
    """int64 [2, edges]: sources, targets."""
    features: Tensor
    """float32 [nodes, columns]."""
    labels: Tensor
    """int64 [training nodes]."""
    training: Tensor
    """int64 [training nodes]."""
    classes: int
    """Number of classes."""


def main() -> None:
    """Measure, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="epochs that are timed, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = _data()
        for name in options.models:
            run, worker = _prepared(SHAPES[name], Path(folder))
            epochs = {"shardyard": _ours(run, worker), **_others(SHAPES[name], data)}
            seconds, cpu_seconds = _interleaved(epochs, options.rounds)
            environment = harness.environment(seed=0, run_digest=run.digest(), data_digest=worker.prepared.data_digest)
            measured = {"epoch_seconds": seconds, "epoch_cpu_seconds": cpu_seconds}
            harness.append(options.out, {**environment, "model": name, "threads": options.threads, **measured})
            print(f"{name}: {measured}", flush=True)
    render(options.out, options.render)


def _interleaved(epochs: dict[str, Epoch], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every epoch after the first, round by round; and those of all processors together."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            begin, cpu_begin = time.perf_counter(), time.process_time()
            epoch()
            if number:
                seconds[name].append(time.perf_counter() - begin)
                cpu_seconds[name].append(time.process_time() - cpu_begin)
    return seconds, cpu_seconds


def _data() -> Data:
    raw = PRESETS["planted"].open()
    ends = [np.concatenate(parts) for parts in zip(*raw.edges, strict=True)]
    split = torch.from_numpy(np.asarray(raw.split))
    training = torch.nonzero(split == TRAIN).squeeze(1)
    assert raw.features is not None
    return Data(
        edges=torch.from_numpy(np.stack(ends)),
        features=torch.from_numpy(np.concatenate(list(raw.features.batches()))),
        labels=torch.from_numpy(np.asarray(raw.labels)).long()[training],
        training=training,
        classes=PRESETS["planted"].classes,
    )


def _prepared(shape: Shape, folder: Path) -> tuple[Run, Worker]:
    workload = NodeClassification(
        data=PRESETS["planted"],
        model=shape.model,
        sampler=Full(layers=shape.layers),
        batch_size=0,
        partitioner=Range(),
        parts=1,
    )
    run = Run(workload=workload, out=str(folder / "run"), store=str(folder / "stores"))
    prepared = workload.prepare(folder / "stores", map, _ignore)
    return run, Worker(group=Group.alone(), prepared=prepared, device=torch.device("cpu"), watch=_ignore)


def _ours(run: Run, worker: Worker) -> Epoch:
    task = run.workload.open(run, worker)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    number = itertools.count()

    def epoch() -> None:
        for batch in task.batches(next(number), 0):
            optimizer.zero_grad(set_to_none=True)
            task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


class _Stack(nn.Module):
    """Layers of another library with dropout and an activation between them, as ours have them.

    A first layer that is linear alone is given sums over neighbours."""

    def __init__(self, layers: list[nn.Module], graph: Any, *, graph_first: bool, attention: bool) -> None:
        super().__init__()
        self.layers, self.graph = nn.ModuleList(layers), graph
        self.graph_first, self.attention = graph_first, attention

    def forward(self, x: Tensor) -> Tensor:
        """[nodes, columns] -> [nodes, classes]."""
        for number, layer in enumerate(self.layers):
            if number:
                x = nn.functional.elu(x) if self.attention else torch.relu(x)
                x = nn.functional.dropout(x, DROPOUT, self.training)
            if isinstance(layer, nn.Linear):
                x = layer(x)
            else:
                x = layer(self.graph, x) if self.graph_first else layer(x, self.graph)
            if x.dim() == 3:  # DGL keeps heads apart
                x = x.flatten(1)
        return x


def _epoch_of(network: nn.Module, data: Data, features: Tensor | None = None) -> Epoch:
    features = data.features if features is None else features
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def epoch() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(features)[data.training], data.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return epoch


def _widths(shape: Shape, data: Data) -> list[tuple[int, int]]:
    inner = shape.hidden * max(1, shape.heads)
    ends = [data.features.shape[1], *[inner] * (shape.layers - 1), data.classes]
    return list(itertools.pairwise(ends))


def _others(shape: Shape, data: Data) -> dict[str, Epoch]:
    epochs = {"dgl": _dgl(shape, data), "pyg": _pyg(shape, data)}
    if not shape.heads:
        epochs["dgl, sums kept"] = _dgl(shape, data, kept=True)
        epochs["pyg, sparse"] = _pyg(shape, data, sparse=True)
        epochs["pyg, sparse, sums kept"] = _pyg(shape, data, sparse=True, kept=True)
    return epochs


def _dgl(shape: Shape, data: Data, *, kept: bool = False) -> Epoch:
    import dgl

    graph = dgl.add_self_loop(dgl.graph((data.edges[0].int(), data.edges[1].int()), num_nodes=len(data.features)))
    graph.create_formats_()
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(_widths(shape, data)):
        last = number == shape.layers - 1
        if shape.heads:
            layers.append(dgl.nn.GATConv(before, after if last else shape.hidden, 1 if last else shape.heads))
        elif kept and not number:
            layers.append(nn.Linear(before, after))
        else:
            layers.append(dgl.nn.GraphConv(before, after, norm="both"))
    columns = data.features.shape[1]
    summing = dgl.nn.GraphConv(columns, columns, norm="both", weight=False, bias=False)
    features = summing(graph, data.features) if kept else None
    return _epoch_of(_Stack(layers, graph, graph_first=True, attention=bool(shape.heads)), data, features)


def _pyg(shape: Shape, data: Data, *, sparse: bool = False, kept: bool = False) -> Epoch:
    from torch_geometric.nn import GATConv, GCNConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    graph = data.edges
    if sparse:  # the transpose, normalised: PyG multiplies by it as it is
        edges, weights = gcn_norm(data.edges, None, len(data.features))
        pair = torch.stack([edges[1], edges[0]])
        graph = torch.sparse_coo_tensor(pair, weights, (len(data.features),) * 2).coalesce().to_sparse_csr()
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(_widths(shape, data)):
        last = number == shape.layers - 1
        if shape.heads:
            layers.append(GATConv(before, after if last else shape.hidden, heads=1 if last else shape.heads))
        elif kept and not number:
            layers.append(nn.Linear(before, after))
        else:
            layers.append(GCNConv(before, after, cached=not sparse, normalize=not sparse))
    features = graph @ data.features if kept else None
    return _epoch_of(_Stack(layers, graph, graph_first=False, attention=bool(shape.heads)), data, features)


def _ignore(event: Any) -> None:
    """Nobody watches."""


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`: medians and quartiles, and times over ours of the same round."""
    body = []
    for (model, threads), rows in harness.grouped(harness.read(rows_path), "model", "threads").items():
        for name in sorted(rows[-1]["epoch_seconds"], key=lambda name: (name != "shardyard", name)):
            cells = []
            for kind in ("epoch_seconds", "epoch_cpu_seconds"):
                having = [row[kind] for row in rows if name in row[kind]]
                times = [second for row in having for second in row[name]]
                ours = [second for row in having for second in row["shardyard"]]
                cells += [harness.spread(times), harness.spread([a / b for a, b in zip(times, ours, strict=True)])]
            body.append([f"{model}, {name}", str(threads), *cells, str(len(times))])
    headers = ("network", "threads", "seconds an epoch", "times ours", "CPU seconds", "times ours", "epochs")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(headers, body))


_INTRODUCTION = """# Full-graph epochs beside DGL and PyG

Rendered by `python -m benchmarks.full_graph` from `benchmarks/rows/full_graph.jsonl`: one process, the planted graph
(200 thousand nodes, 4 million edges, 100 features, 40 classes), float32, dropout 0.5, Adam; GCN 3 x 128, and GAT with
a hidden layer of 8 heads of 8. Epochs of the three take turns. Median and quartiles; the ratio is taken within a round.

Ours sums the neighbours' features of GCN's first layer once and keeps the sums, for they never change; DGL and PyG sum
them in every epoch unless they are given the sums as the input of a linear first layer (*sums kept*: the same work as
ours). PyG is given edges as most of its users give them, `edge_index`, and for GCN as a sparse matrix, too.

"""


if __name__ == "__main__":
    main()

"""The spatial convolution of geo-GCN, forward and backward: ours beside a plain PyG layer of the same formula.

Run: python -m benchmarks.geometric [--shapes superpixels] [--rounds 7] [--threads 1 2]

Assumptions: float32; a pass is the layer's output and the gradients of its rows and of all its parameters. All layers
have the same parameters and are checked to give the same. Rounds go over all of them, so that a busy spell hits all;
what is compared are times of the same round. Memory is the highest resident set of a process that does one pass, less
what was resident when it had imported everything and done a pass over a small graph.
"""

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops

from benchmarks import harness
from framework.config import digest
from framework.memory import PeakMemory
from framework.models.geo_gcn import GeometricConv, Neighborhoods

ROWS = harness.ROWS / "geometric.jsonl"
DOCUMENT = harness.DOCUMENTS / "geometric.md"
Pass = Callable[[], tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A batch of graphs, and a layer."""

    graphs: int
    """Graphs in the batch."""
    nodes: int
    """Nodes of each."""
    edges: int
    """Edges of each, one direction of its closest pairs of nodes; there are both, and one from each node to itself."""
    dimensions: int
    """Of the positions."""
    columns: int
    """Of the rows that go in."""
    filters: int
    """Of the layer."""
    out: int
    """Columns of the rows that come out."""


SHAPES = {
    "superpixels": Shape(graphs=64, nodes=75, edges=697, dimensions=2, columns=16, filters=64, out=16),
    "superpixels, first layer": Shape(graphs=64, nodes=75, edges=697, dimensions=2, columns=1, filters=64, out=16),
    "molecules": Shape(graphs=128, nodes=25, edges=26, dimensions=3, columns=64, filters=32, out=64),
}
_SMALL = Shape(graphs=2, nodes=10, edges=20, dimensions=2, columns=4, filters=4, out=4)


class PlainConv(MessagePassing):  # type: ignore[misc]
    """A GeometricConv as one writes it with PyTorch Geometric, with the same parameters."""

    def __init__(self, layer: GeometricConv) -> None:
        super().__init__(aggr="add")
        filters, dimensions, columns = layer.filters.shape
        self.gates = nn.Linear(dimensions, filters * columns)
        self.linear = nn.Linear(filters * columns, layer.linear.out_features)
        with torch.no_grad():
            self.gates.weight.copy_(layer.filters.movedim(1, 2).reshape(-1, dimensions))
            self.gates.bias.copy_(layer.biases.flatten())
        self.linear.load_state_dict(layer.linear.state_dict())

    def forward(self, x: Tensor, positions: Tensor, edge_index: Tensor) -> Tensor:
        """[n, columns] -> [n, out]."""
        edge_index = add_self_loops(edge_index, num_nodes=len(x))[0]
        out: Tensor = self.linear(self.propagate(edge_index, x=x, positions=positions))
        return out

    def message(self, x_j: Tensor, positions_i: Tensor, positions_j: Tensor) -> Tensor:
        """[edges, filters * columns]."""
        gates = torch.relu(self.gates(positions_j - positions_i))
        return (gates.view(len(x_j), -1, x_j.shape[1]) * x_j.unsqueeze(1)).flatten(1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """A batch of graphs as PyTorch Geometric has it."""

    x: Tensor
    """float32 [n, columns]."""
    positions: Tensor
    """float32 [n, dimensions]."""
    edge_index: Tensor
    """int64 [2, edges]."""


def main() -> None:
    """Measure, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES), help="none: render only")
    parser.add_argument("--rounds", type=int, default=7, help="after two that do not count")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(_peak(SHAPES[options.shapes[0]], options.peak_of)))
        return
    for name in options.shapes:
        shape = SHAPES[name]
        passes, data = _passes(shape)
        _require_equal(passes)
        peaks = {way: _peak_elsewhere(name, way) for way in passes}
        for threads in options.threads:
            torch.set_num_threads(threads)
            seconds = _timed(passes, options.rounds)
            described = harness.environment(seed=0, run_digest=digest(shape), data_digest=_digest(data))
            harness.append(
                options.out, {**described, "shape": name, "threads": threads, "seconds": seconds, "peaks": peaks}
            )
    render(options.out, options.render)


def _data(shape: Shape) -> Data:
    """Nodes anywhere in a square, or cube, of 28; edges between those closest to each other."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(shape.graphs, shape.nodes, shape.dimensions, generator=generator) * 28
    ends = torch.triu_indices(shape.nodes, shape.nodes, 1)
    apart = (positions[:, ends[0]] - positions[:, ends[1]]).square().sum(2)
    closest = apart.argsort(1)[:, : shape.edges]
    first = torch.arange(shape.graphs)[:, None] * shape.nodes
    one, other = (ends[0][closest] + first).flatten(), (ends[1][closest] + first).flatten()
    return Data(
        x=torch.randn(shape.graphs * shape.nodes, shape.columns, generator=generator),
        positions=positions.flatten(0, 1),
        edge_index=torch.stack([torch.cat([one, other]), torch.cat([other, one])]),
    )


def _passes(shape: Shape) -> tuple[dict[str, Pass], Data]:
    """A forward and backward pass in each way: the output and all gradients, those of parameters in one order."""
    data = _data(shape)
    torch.manual_seed(0)
    layer = GeometricConv(shape.columns, shape.out, dimensions=shape.dimensions, filters=shape.filters)
    plain = PlainConv(layer)
    factor = torch.randn(len(data.x), shape.out)
    neighborhoods = Neighborhoods.of_edges(data.positions, data.edge_index)
    _ = neighborhoods.transposed

    def passed(call: Callable[[Tensor], Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        x = data.x.clone().requires_grad_()
        out = call(x)
        return out.detach(), *torch.autograd.grad(out, [x, *parameters], factor)

    def ours() -> tuple[Tensor, ...]:
        return passed(lambda x: layer(x, data.positions, data.edge_index), *layer.parameters())

    def prepared() -> tuple[Tensor, ...]:
        return passed(lambda x: layer.over(neighborhoods, x), *layer.parameters())

    def pyg() -> tuple[Tensor, ...]:
        out, of_x, of_gates, of_biases, *others = passed(
            lambda x: plain(x, data.positions, data.edge_index), *plain.parameters()
        )
        of_filters = of_gates.view(shape.filters, shape.columns, -1).movedim(1, 2)
        return out, of_x, of_filters, of_biases.view(shape.filters, -1), *others

    return {"ours": ours, "prepared": prepared, "pyg": pyg}, data


def _require_equal(passes: dict[str, Pass]) -> None:
    """All ways give the same, to what float32 can tell of sums over a batch."""
    expected = passes["pyg"]()
    for way in passes.values():
        for found, wanted in zip(way(), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def _timed(passes: dict[str, Pass], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {way: [] for way in passes}
    for number in range(rounds + 2):
        for way, run in passes.items():
            begin = time.perf_counter()
            run()
            if number >= 2:
                seconds[way].append(time.perf_counter() - begin)
    return seconds


def _peak_elsewhere(shape: str, way: str) -> int:
    command = [sys.executable, "-m", "benchmarks.geometric", "--shapes", shape, "--peak-of", way]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return int(json.loads(result.stdout))


def _peak(shape: Shape, way: str) -> int:
    torch.set_num_threads(1)
    _passes(_SMALL)[0][way]()
    passes = _passes(shape)[0]
    memory = PeakMemory()
    passes[way]()
    return memory.added()


def _digest(data: Data) -> str:
    parts = (data.x, data.positions, data.edge_index)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`: medians and quartiles, ratios within a round."""
    body = []
    for row in harness.read(rows_path):
        seconds, peaks = row["seconds"], row["peaks"]
        times = [harness.spread([1000 * each for each in seconds[way]], ".3g") for way in seconds]
        faster = [a / b for a, b in zip(seconds["pyg"], seconds["ours"], strict=True)]
        memory = [f"{peaks[way] / 1e6:.0f}" for way in ("ours", "pyg")]
        less = f"{peaks['pyg'] / peaks['ours']:.0f}"
        body.append(
            [
                row["shape"],
                str(row["threads"]),
                *times,
                harness.spread(faster, ".3g"),
                *memory,
                less,
                f"{row['load']:.1f}",
            ]
        )
    headers = ["layer", "threads", "ours, ms", "prepared, ms", "PyG, ms", "faster"]
    headers += ["ours, MB", "PyG, MB", "less", "load"]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_introduction() + harness.markdown(headers, body))


def _introduction() -> str:
    kinds = "\n".join(
        f"- *{name}*: {shape.graphs} graphs of {shape.nodes} nodes, {shape.graphs * (2 * shape.edges + shape.nodes):,} "
        f"edges with those from nodes to themselves, {shape.dimensions} dimensions, {shape.filters} filters, "
        f"{shape.columns} columns in and {shape.out} out."
        for name, shape in SHAPES.items()
    )
    return f"""# The spatial convolution beside PyTorch Geometric

Rendered by `python -m benchmarks.geometric` from `benchmarks/rows/geometric.jsonl`: one forward and backward pass of
`GeometricConv` and of a plain `MessagePassing` layer of the same formula and parameters, float32, one process.

{kinds}

*ours*: from an `edge_index`, as PyG's. *prepared*: over neighbourhoods that were made before, as between the layers of
a network. Median and quartiles of interleaved rounds; *faster*: PyG over ours in the same round. *MB*: what one pass
adds to the resident set at its worst moment, in a process of its own. *load*: other work on the machine.

"""


if __name__ == "__main__":
    main()

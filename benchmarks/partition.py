"""Every partitioner on three graphs, in 4 and 16 parts: quality, time and memory.

Run: python -m benchmarks.partition [--graphs planted rmat planted-large] [--parts 4 16] [--repeats N] [--only NAME ...]

Assumptions: each measurement is a process of its own, so that its peak memory is its own, after a warm-up on a small
graph that loads libraries; it reads the edges from a file by plain reads, so that the stream holds nothing. Repetitions
go round by round over all partitioners, so that a busy spell of the machine hits all of them. Rows that are there are
not measured again: what was stopped goes on. The table is rendered from the rows at the end.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from framework import config
from framework.conformance import small_graph
from framework.data.generators import PRESETS
from framework.graph.edges import EdgeBatch, Ids
from framework.partition import EdgeCut, VertexCut, place
from partitioners.dbh import DegreeBasedHashing
from partitioners.fennel import Fennel
from partitioners.hdrf import HighDegreeReplicatedFirst
from partitioners.ldg import LinearDeterministicGreedy
from partitioners.metis import Metis
from partitioners.random import Random
from partitioners.range import Range
from partitioners.spinner import Spinner

CANDIDATES: dict[str, EdgeCut | VertexCut] = {
    "random": Random(),
    "range": Range(),
    "metis, nodes": Metis(balance=("nodes",)),
    "metis": Metis(),
    "ldg": LinearDeterministicGreedy(),
    "fennel, 1 pass": Fennel(passes=1),
    "fennel": Fennel(),
    "fennel, 10 passes": Fennel(passes=10),
    "spinner": Spinner(),
    "dbh": DegreeBasedHashing(),
    "hdrf": HighDegreeReplicatedFirst(),
}
"""What the table compares, by the name of its row."""

ROWS = harness.ROWS / "partition.jsonl"
DOCUMENT = harness.DOCUMENTS / "partition.md"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FileEdges:
    """Edges in a file of int32 pairs, read batch by batch."""

    path: Path
    """The file."""
    num_nodes: int
    """Number of nodes."""
    num_edges: int
    """Number of edges."""
    node_weights: Ids | None = None
    """1 for training nodes."""
    batch_size: int = 1 << 17
    """Edges a batch."""

    def __iter__(self) -> Iterator[EdgeBatch]:
        """Batches of (source, target), int64 each."""
        with self.path.open("rb") as file:
            while len(pairs := np.fromfile(file, np.int32, 2 * self.batch_size).reshape(-1, 2)):
                yield pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


def main() -> None:
    """Measure what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--parts", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of each that there shall be in all")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _measure(json.loads(options.one))
        return
    for graph in options.graphs:
        _measure_graph(graph, options.parts, options.only, options.repeats, options.out)
    render(options.out, options.render)


def _measure_graph(graph: str, all_parts: list[int], names: list[str], repeats: int, out: Path) -> None:
    """Draw `graph` once, and measure on it what `out` lacks."""
    done = {(row["graph"], row["parts"], row["name"], row["repeat"]) for row in harness.read(out)}
    missing = [
        (repeat, parts, name)
        for repeat in range(repeats)
        for parts in all_parts
        for name in names
        if (graph, parts, name, repeat) not in done
    ]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        path, weights = Path(folder) / "edges", Path(folder) / "weights.npy"
        stream = PRESETS[graph].open().stream()
        with path.open("wb") as file:
            for source, target in stream:
                np.stack([source, target], axis=1).astype(np.int32).tofile(file)
        np.save(weights, _weights(stream.node_weights, stream.num_nodes))
        shape = {"num_nodes": stream.num_nodes, "num_edges": stream.num_edges}
        del stream
        for repeat, parts, name in missing:
            environment = harness.environment(
                seed=PRESETS[graph].seed,
                run_digest=config.digest(CANDIDATES[name]),
                data_digest=PRESETS[graph].fingerprint(),
            )
            request = {"path": str(path), "weights": str(weights), "name": name, "parts": parts, **shape}
            quality = _in_a_process(request)
            where = {"graph": graph, "parts": parts, "name": name, "repeat": repeat}
            harness.append(out, {**environment, **where, "plugin": config.encode(CANDIDATES[name]), **quality})
            print(f"{graph} {parts} {name}: {quality}", flush=True)


def _weights(weights: Ids | None, num_nodes: int) -> NDArray[np.int64]:
    return np.zeros(num_nodes, np.int64) if weights is None else weights


def _in_a_process(request: dict[str, Any]) -> dict[str, Any]:
    """What `_measure` says in a process of its own, on one thread."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.partition", "--one", json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return answer


def _measure(request: dict[str, Any]) -> None:
    """Place the graph of `request` and print kind and quality."""
    partitioner = CANDIDATES[request["name"]]
    place(partitioner, small_graph(), 2)
    graph = FileEdges(
        path=Path(request["path"]),
        num_nodes=request["num_nodes"],
        num_edges=request["num_edges"],
        node_weights=np.load(request["weights"]),
    )
    placement = place(partitioner, graph, request["parts"])
    print(json.dumps({"kind": placement.kind, "quality": dataclasses.asdict(placement.quality)}))


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`: medians, one table a graph and number of parts."""
    rows = harness.read(rows_path)
    text = [_INTRODUCTION.format(cores=rows[0]["cores"]) if rows else ""]
    for (graph, parts), of_graph in sorted(harness.grouped(rows, "graph", "parts").items()):
        by_name = harness.grouped(of_graph, "name")
        body = [_cells(name, by_name[(name,)]) for name in CANDIDATES if (name,) in by_name]
        text.append(f"## {graph}, {parts} parts\n\n{harness.markdown(_HEADERS, body)}")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("\n".join(text))


_HEADERS = (
    "partitioner", "cut", "replication", "rows that cross", "nodes", "edges", "training", "worst halo", "CPU s",
    "wall s", "added MB", "repeats",
)  # fmt: skip

_INTRODUCTION = """# Partitioners on three graphs

Rendered by `python -m benchmarks.partition` from `benchmarks/rows/partition.jsonl`: medians over the repetitions of
each row, every one in a process of its own, on one thread of a machine with {cores} cores. The graphs are the seeded
ones of `framework/data/generators.py`: *planted* has 200 thousand nodes and 4 million edges in 160 blocks,
*planted-large* 1 million nodes and 20 million edges in 800, *rmat* 2^18 nodes and 8 million edges.

*cut*: share of edges between parts (dbh, hdrf: share of nodes on several parts). *replication*: rows held over nodes.
*nodes, edges, training*: the largest part over the mean. *worst halo*: rows that a part holds and does not own, over
those it owns. *added MB*: what the partitioner adds to the resident memory at its peak. `metis, nodes` balances nodes
only, `metis` nodes, edges and training nodes at once; ldg, fennel and spinner balance edges. Compare *CPU s*: the wall
time holds whatever else ran on the machine (its load is in the rows).
"""


def _cells(name: str, rows: list[harness.Row]) -> list[str]:
    def middle(field: str) -> float:
        return harness.median(rows, lambda row: row["quality"][field])

    return [
        name,
        f"{middle('cut_ratio'):.3f}",
        f"{middle('replication_factor'):.2f}",
        f"{middle('communication_volume'):,.0f}",
        f"{middle('node_balance'):.2f}",
        f"{middle('edge_balance'):.2f}",
        f"{middle('training_balance'):.2f}",
        f"{middle('halo_share'):.2f}",
        f"{middle('cpu_seconds'):.2f}",
        f"{middle('seconds'):.2f}",
        f"{middle('peak_memory_bytes') / 1e6:.0f}",
        str(len(rows)),
    ]


if __name__ == "__main__":
    main()

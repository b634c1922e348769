"""The search for the paths around every node: beside SciPy and a scan in Python, by size, by workers, and its memory.

Run: python -m benchmarks.paths [--repetitions 7] [--only beside sizes workers memory]

Assumptions: costs are those of attention, 1 - a / max a, where a is the softmax over each node's neighbours and itself
of normal draws, the mean of 8 heads; C = 3, half as many paths as the degree. Everything is computed by one thread; two
workers are two processors given to Ray. Candidates are interleaved, the first repetition is a warm-up and dropped.
Rows that are there are not measured again.
"""

import argparse
import functools
import heapq
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from benchmarks import harness
from framework.data.dataset import Mapper
from framework.data.generators import Planted
from framework.kernels.csr import CSR, build_csr
from framework.kernels.paths import PathRule, find_paths, sort_rows
from framework.memory import PeakMemory, return_large_tensors
from framework.prepare.paths import PathGraph, search_paths
from launch.ray import Ray

ROWS = harness.ROWS / "paths.jsonl"
DOCUMENT = harness.DOCUMENTS / "paths.md"
RULE = PathRule()
SMALL = Planted(nodes=20_000, edges=89_000, blocks=30, classes=3, features=0)
"""Of Pubmed's shape."""
LARGE = Planted()
SAMPLES = {"SciPy's Dijkstra": 200, "Python scan": 10}
"""Centres that the slow ways are measured on; their times are extrapolated to all."""
SIZES = (12_500, 25_000, 50_000, 100_000, 200_000)
WORKERS = (1, 2)
PIECES = 16
HEADS = 8


def main() -> None:
    """Measure what is missing, then render the tables."""
    measures = {"beside": _beside, "sizes": _sizes, "memory": _memory, "workers": _workers}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="of each measurement, after the warm-up")
    parser.add_argument("--only", nargs="+", choices=list(measures), default=list(measures))
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        if not any(row["measure"] == name for row in harness.read(options.out)):
            measures[name](options.repetitions, options.out)
    render(options.out, options.render)


def attention_costs(graph: CSR, seed: int) -> Tensor:
    """What the edges of an untrained network might cost: float32 [edges], at least 1e-9."""
    random = np.random.Generator(np.random.Philox(seed))
    counts = graph.indptr.diff().numpy()
    mean = np.zeros(len(graph.indices))
    row = np.repeat(np.arange(len(counts)), counts)
    for _ in range(HEADS):
        score, own = np.exp(random.standard_normal(len(row))), np.exp(random.standard_normal(len(counts)))
        mean += score / (np.bincount(row, score, minlength=len(counts)) + own)[row] / HEADS
    return torch.from_numpy(np.maximum(1 - mean / mean.max(), 1e-9)).float()


def _graph(data: Planted) -> tuple[CSR, Tensor]:
    source, target = (np.concatenate(ends) for ends in zip(*data.open().edges, strict=True))
    graph = build_csr(torch.from_numpy(target), torch.from_numpy(source).to(torch.int32), data.nodes)
    return graph, attention_costs(graph, 0)


def _ours(graph: CSR, costs: Tensor, centres: NDArray[np.int64]) -> None:
    find_paths(sort_rows(graph.indptr, graph.indices, costs), centres, RULE)


def _scan(before: NDArray[np.int32], centres: NDArray[np.int64]) -> int:
    """Paths of every length, found as the authors' code finds them: a look at every node for every centre."""
    found = 0
    for row, centre in zip(before.tolist(), centres.tolist(), strict=True):
        for length in RULE.lengths:
            for node in range(len(row)):
                at, steps = node, 0
                while at != centre and at >= 0 and steps < length - 1:
                    at, steps = row[at], steps + 1
                found += at == centre and steps == length - 1
    return found


def _beside(repetitions: int, out: Path) -> None:
    graph, costs = _graph(SMALL)
    matrix = csr_matrix((costs.double().numpy(), graph.indices.numpy(), graph.indptr.numpy()), (SMALL.nodes,) * 2)
    random = np.random.Generator(np.random.Philox(1))
    chosen = {name: random.choice(SMALL.nodes, count, replace=False) for name, count in SAMPLES.items()}
    chosen["ours"] = np.arange(SMALL.nodes)
    _, before = dijkstra(matrix, indices=chosen["Python scan"], return_predecessors=True)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: _ours(graph, costs, chosen["ours"]),
        "SciPy's Dijkstra": lambda: dijkstra(matrix, indices=chosen["SciPy's Dijkstra"], return_predecessors=True),
        "Python scan": lambda: _scan(before, chosen["Python scan"]),
    }
    for repetition in range(repetitions + 1):
        for name, way in ways.items():
            of_way = {"way": name, "centres": len(chosen[name]), "all": SMALL.nodes}
            _append(out, "beside", SMALL, repetition, {**of_way, **_times(way)})


def _sizes(repetitions: int, out: Path) -> None:
    graph, costs = _graph(LARGE)
    centres = np.random.Generator(np.random.Philox(2)).permutation(LARGE.nodes)
    rows = sort_rows(graph.indptr, graph.indices, costs)
    for repetition in range(repetitions + 1):
        sorting = _times(lambda: sort_rows(graph.indptr, graph.indices, costs))
        _append(out, "sizes", LARGE, repetition, {"centres": 0, **sorting})
        for size in SIZES:
            searching = _times(lambda chosen=centres[:size]: find_paths(rows, chosen, RULE))  # type: ignore[misc]
            _append(out, "sizes", LARGE, repetition, {"centres": size, **searching})


def _memory(repetitions: int, out: Path) -> None:
    for repetition in range(1, repetitions + 1):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            _append(out, "memory", LARGE, repetition, fresh.apply(searched_once))


def searched_once() -> harness.Row:
    """The memory that one search for all centres adds to a process, and what comes out of it."""
    torch.set_num_threads(1)
    return_large_tensors()  # else the search could use what was freed before it
    graph, costs = _graph(LARGE)
    rows = sort_rows(graph.indptr, graph.indices, costs)
    find_paths(rows, np.arange(1000), RULE)
    memory = PeakMemory()
    found = find_paths(rows, np.arange(LARGE.nodes), RULE)
    return {
        "peak": memory.added(),
        "paths": [len(paths.costs) for paths in found.lengths],
        "result": sum(array.nbytes for paths in found.lengths for array in (paths.offsets, paths.nodes, paths.costs)),
    }


def _workers(repetitions: int, out: Path) -> None:
    import ray

    graph, costs = _graph(LARGE)
    whole = PathGraph(indptr=graph.indptr, indices=graph.indices, original=torch.arange(LARGE.nodes))
    starts = whole.cut(PIECES)

    def searched(mapper: Mapper) -> float:
        with tempfile.TemporaryDirectory() as folder:
            work = _times(lambda: search_paths(whole, costs, RULE, Path(folder), starts=starts, mapper=mapper))
            return work["seconds"]

    for repetition in range(repetitions + 1):
        for workers in WORKERS:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
            mapper = _Timed(Ray().mapper())
            searched(mapper)  # tasks import torch when they are first started
            of_run: harness.Row = {
                "workers": workers,
                "pieces": PIECES,
                "seconds": searched(mapper),
                "mapped": mapper.seconds,
            }
            of_run |= {"tasks": mapper.processor, "processor": _longest(mapper.processor, workers)}
            _append(out, "workers", LARGE, repetition, of_run)
            ray.shutdown()


class _Timed:
    """A mapper, how long it took by the clock, and what each item took of a processor."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self.seconds = 0.0
        self.processor: list[float] = []

    def __call__(self, function: Callable[[Any], Any], items: list[Any]) -> Iterable[Any]:
        assert isinstance(function, functools.partial)
        begin = time.perf_counter()
        answers = list(self.mapper(functools.partial(_clocked, function.func, *function.args), items))
        self.seconds = time.perf_counter() - begin
        self.processor = [seconds for _, seconds in answers]
        return [answer for answer, _ in answers]


def _clocked(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    begin = time.process_time()
    return function(*arguments), time.process_time() - begin


def _longest(seconds: Sequence[float], workers: int) -> float:
    """When the last task ends, if each is taken in turn by the worker that is free first."""
    free = [0.0] * workers
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def _times(work: Callable[[], object]) -> dict[str, float]:
    """What `work` takes by the clock, and of the processor."""
    begin, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begin, "processor": time.process_time() - processor}


def _append(out: Path, measure: str, data: Planted, repetition: int, values: harness.Row) -> None:
    """Adds a row, but for the warm-up."""
    if repetition > 0:
        environment = harness.environment(seed=0, run_digest="", data_digest=data.fingerprint())
        harness.append(out, {**environment, "measure": measure, "repetition": repetition, **values})
        print(measure, values, flush=True)


def _spread(values: Sequence[float], unit: float, digits: int) -> str:
    return harness.spread([value / unit for value in values], f".{digits}f")


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`."""
    by_measure = {key[0]: rows for key, rows in harness.grouped(harness.read(rows_path), "measure").items()}
    sections = {"beside": _beside_table, "sizes": _sizes_table, "workers": _workers_table, "memory": _memory_table}
    text = [_INTRODUCTION]
    text += [make(by_measure[name]) for name, make in sections.items() if name in by_measure]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("\n".join(text))


def _beside_table(rows: Sequence[harness.Row]) -> str:
    groups = {key[0]: group for key, group in harness.grouped(rows, "way").items()}
    whole = {name: [row["processor"] * row["all"] / row["centres"] for row in group] for name, group in groups.items()}
    body = [
        [
            name,
            str(group[0]["centres"]),
            _spread([row["processor"] for row in group], 1, 3),
            _spread(whole[name], 1, 3 if name == "ours" else 0),
            f"{statistics.median(whole[name]) / statistics.median(whole['ours']):,.0f}",
        ]
        for name, group in groups.items()
    ]
    headers = ["way", "centres measured", "seconds", "seconds for all centres", "over ours"]
    return f"## Beside other ways: {SMALL.nodes:,} nodes, {SMALL.edges:,} edges\n\n" + harness.markdown(headers, body)


def _sizes_table(rows: Sequence[harness.Row]) -> str:
    body = []
    for (centres,), group in harness.grouped(rows, "centres").items():
        seconds = [row["processor"] for row in group]
        each = _spread(seconds, centres / 1e6, 2) if centres else ""
        body.append([f"{centres:,}" if centres else "rows sorted", _spread(seconds, 1e-3, 1), each])
    headers = ["centres", "milliseconds", "microseconds a centre"]
    return f"## By centres: {LARGE.nodes:,} nodes, {LARGE.edges:,} edges\n\n" + harness.markdown(headers, body)


def _workers_table(rows: Sequence[harness.Row]) -> str:
    groups = {key[0]: group for key, group in harness.grouped(rows, "workers").items()}
    columns = ("processor", "mapped", "seconds")
    alone = {name: statistics.median([row[name] for row in groups[1]]) for name in columns}
    body = []
    for workers, group in groups.items():
        cells = [str(workers)]
        for name, median in alone.items():
            seconds = [row[name] for row in group]
            cells += [_spread(seconds, 1, 2), f"{median / statistics.median(seconds):.2f}"]
        body.append(cells)
    headers = ["workers", "processor, longest", "faster by", "seconds in tasks", "faster by", "all", "faster by"]
    return "## By workers: the same graph, all centres\n\n" + harness.markdown(headers, body)


def _memory_table(rows: Sequence[harness.Row]) -> str:
    first = rows[0]
    entries = (1 + RULE.degree_ratio) * LARGE.edges
    bound = entries + 2 * LARGE.nodes
    values = {
        "(1 + r) E": f"{entries:,.0f}",
        "paths found, the centres' own included": f"{sum(first['paths']):,}",
        "megabytes of the result": f"{first['result'] / 1e6:.1f}",
        "peak added, megabytes": _spread([row["peak"] for row in rows], 1e6, 1),
        "bytes of the peak for each of (1 + r) E + 2 N": _spread([row["peak"] / bound for row in rows], 1, 1),
    }
    return "## Memory: the same graph, all centres at once\n\n" + harness.markdown(["", ""], values.items())


_INTRODUCTION = f"""# The search for paths

Rendered by `python -m benchmarks.paths` from `benchmarks/rows/paths.jsonl`: the cheapest paths of up to
{RULE.longest} nodes around every node, half as many of {RULE.longest} nodes as the degree, of planted graphs with
costs of attention (softmax of normal draws, {HEADS} heads). Median and quartiles; one thread; candidates interleaved;
seconds are the processor's, except for workers, whose seconds are the clock's: the machine was shared with other work.

*SciPy's Dijkstra* finds the whole shortest-path tree of each centre, with predecessors. The *Python scan* looks at
every node of such a tree, which it is given, for every length, as the authors' code does. Both are measured on a
sample of centres, drawn at random, and extrapolated to all. *Ours* is all centres, the sorting of rows included.
*Seconds in tasks* is what Ray's tasks take together by the clock, from the first to the last, the graph's way to the
object store and the writing of files included; *all* adds digests, the sorting of rows and the flush to the disk. Both
have other work on the machine in them; *processor, longest* has not: the seconds of a processor that the tasks took,
each given to the worker that is free first, on the worker that has the most.
"""


if __name__ == "__main__":
    main()

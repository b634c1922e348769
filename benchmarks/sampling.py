"""Samplers: how many rows and edges a step has, how long drawing takes beside DGL, and what a network learns from it.

Run: python -m benchmarks.sampling [--graphs planted rmat debian] [--rounds 7] [--seeds 3]

Assumptions: drawing is that of the first batches of 1,024 training nodes of one worker whose store has one part, with
one thread; rounds go over all samplers and DGL's, so that a busy spell hits all, and what is compared are times of one
round. DGL's graph has its CSC made before. Learning: GraphSAGE on the Debian graph as its recipe has it, one worker,
paired seeds. Rows that are there are not measured again.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.comm.group import Group
from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.data.dataset import TRAIN, Dataset
from framework.data.debian import Debian
from framework.data.generators import PRESETS
from framework.engine.run import Run
from framework.graph.block import Nodes
from framework.graph.store import ShardStore
from framework.models.nodes import SAGE
from framework.random import Key, shuffled
from framework.sample.labor import Labor
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler
from framework.workloads.nodes import NodeClassification
from launch.recipes.nodes import sage_debian
from partitioners.range import Range

ROWS = harness.ROWS / "sampling.jsonl"
DOCUMENT = harness.DOCUMENTS / "sampling.md"
GRAPHS: dict[str, Dataset] = {
    "planted": PRESETS["planted"],
    "rmat": PRESETS["rmat"],
    "debian": Debian(columns=128),
}
FANOUTS = (10, 10, 10)
BATCH, BATCHES = 1024, 8
Drawing = Callable[[Nodes, Key], tuple[int, int]]
"""Seeds and the step's key -> rows that go into the first layer, and edges of all layers."""


def samplers(fanouts: tuple[int, ...]) -> dict[str, Sampler]:
    """What is compared, by the name of its row."""
    return {
        "neighbor": Neighbor(fanouts=fanouts),
        "labor": Labor(fanouts=fanouts),
        "labor, hops share draws": Labor(fanouts=fanouts, layer_dependent=True),
    }


def main() -> None:
    """Measure what is missing, then render the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", nargs="*", choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument("--rounds", type=int, default=7, help="times that each batch is drawn, after one not counted")
    parser.add_argument("--seeds", type=int, default=3, help="of the networks that learn")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["kind"], row["name"], row["seed"]) for row in harness.read(options.out)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.graphs:
            if ("draw", name, 0) not in done:
                harness.append(options.out, _drawn(name, Path(folder), options.rounds))
        for seed in range(options.seeds):
            for name, sampler in samplers(FANOUTS[:2]).items():
                if ("train", name, seed) not in done:
                    row = _trained(name, sampler, seed, Path(folder))
                    harness.append(options.out, row)
                    print(f"{name}, seed {seed}: {row['metrics']}", flush=True)
    render(options.out, options.render)


def _drawn(name: str, folder: Path, rounds: int) -> harness.Row:
    """One row of a graph: what every sampler draws for the same batches, and in what time."""
    workload = NodeClassification(data=GRAPHS[name], model=SAGE(), partitioner=Range(), parts=1)
    run = Run(workload=workload, out=str(folder / "run"), store=str(folder / "stores"))
    prepared = workload.prepare(folder / "stores", map, lambda event: None)
    shards = Shards.open(ShardStore.open(prepared.path), Group.alone(), "owned")
    (shard,) = shards.mapped.values()
    topology = Topology(shards)
    assert shard.split is not None
    training = topology.owned[torch.nonzero(shard.split == TRAIN).squeeze(1)]
    order = shuffled(Key.root(0), training.original)
    batches = [training[chosen.sort().values] for chosen in torch.split(order, BATCH)[:BATCHES]]
    ways = {system: _ours(topology, sampler) for system, sampler in samplers(FANOUTS).items()}
    ways |= _dgl(torch.from_numpy(np.asarray(shard.indptr)), torch.from_numpy(np.asarray(shard.indices)))
    seconds: dict[str, list[float]] = {system: [] for system in ways}
    sizes: dict[str, list[tuple[int, int]]] = {system: [] for system in ways}
    for number in range(rounds + 1):
        for system, way in ways.items():
            begin = time.perf_counter()
            found = [way(batch, Key.root(number).fold(step)) for step, batch in enumerate(batches)]
            if number:
                seconds[system].append((time.perf_counter() - begin) / len(batches))
                sizes[system] += found
    facts = {
        system: {
            "rows": statistics.mean(rows for rows, _ in sizes[system]),
            "edges": statistics.mean(edges for _, edges in sizes[system]),
            "seconds": seconds[system],
        }
        for system in ways
    }
    print(f"{name}: {facts}", flush=True)
    environment = harness.environment(seed=0, run_digest=run.digest(), data_digest=prepared.data_digest)
    return {**environment, "kind": "draw", "name": name, "fanouts": FANOUTS, "systems": facts}


def _ours(topology: Topology, sampler: Sampler) -> Drawing:
    def draw(seeds: Nodes, key: Key) -> tuple[int, int]:
        blocks = sampler.sample(topology, seeds, key)
        return len(blocks[0].sources), sum(int(block.drawn.sum()) for block in blocks)

    return draw


def _dgl(indptr: torch.Tensor, indices: torch.Tensor) -> dict[str, Drawing]:
    """DGL's samplers on the same graph; DGL names hops from the input layer on, which matters where they differ."""
    import dgl

    graph = dgl.graph(("csc", (indptr, indices.long(), [])))
    graph.create_formats_()

    def drawing(sampler: Any) -> Drawing:
        def draw(seeds: Nodes, key: Key) -> tuple[int, int]:
            rows, _, blocks = sampler.sample(graph, seeds.ids)
            return len(rows), sum(block.num_edges() for block in blocks)

        return draw

    fanouts = list(reversed(FANOUTS))
    return {
        "dgl, neighbor": drawing(dgl.dataloading.NeighborSampler(fanouts)),
        "dgl, labor": drawing(dgl.dataloading.LaborSampler(fanouts)),
        "dgl, labor, hops share draws": drawing(dgl.dataloading.LaborSampler(fanouts, layer_dependency=True)),
    }


def _trained(name: str, sampler: Sampler, seed: int, folder: Path) -> harness.Row:
    """One run of GraphSAGE on the Debian graph."""
    run = sage_debian()
    assert isinstance(run.workload, NodeClassification)
    run = dataclasses.replace(
        run,
        workload=dataclasses.replace(run.workload, sampler=sampler),
        seed=seed,
        out=str(folder / f"{name}-{seed}"),
        store=str(folder / "stores"),
    )
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    (report,) = Cluster().together("framework.engine.train:train", run, prepared, 1)
    environment = harness.environment(seed=seed, run_digest=report["run_digest"], data_digest=report["data_digest"])
    facts = {field: report[field] for field in ("metrics", "epochs", "seconds")}
    return {**environment, "kind": "train", "name": name, **facts}


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`."""
    rows = harness.read(rows_path)
    text = _INTRODUCTION
    for row in rows:
        if row["kind"] == "draw":
            text += f"\n## Drawing, {row['name']}\n\n" + harness.markdown(_DRAWN, _draw_body(row["systems"]))
    trained = [row for row in rows if row["kind"] == "train"]
    if trained:
        text += "\n## Learning, debian\n\n" + harness.markdown(_TRAINED, _train_body(trained))
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(text)


def _draw_body(systems: dict[str, Any]) -> list[list[str]]:
    base = systems["neighbor"]
    body = []
    for name in sorted(systems, key=_ORDER.index):
        facts = systems[name]
        ratios = [own / other for own, other in zip(facts["seconds"], base["seconds"], strict=True)]
        body.append(
            [
                name,
                f"{facts['rows']:,.0f}",
                f"{facts['rows'] / base['rows']:.2f}",
                f"{facts['edges']:,.0f}",
                f"{1000 * statistics.median(facts['seconds']):.1f}",
                harness.spread(ratios),
            ]
        )
    return body


def _train_body(rows: Sequence[harness.Row]) -> list[list[str]]:
    body = []
    for (name,), group in harness.grouped(rows, "name").items():
        accuracy = [100 * row["metrics"]["test_accuracy"] for row in group]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        epoch = statistics.median(row["seconds"]["epoch_median"] for row in group)
        body.append([name, str(len(group)), f"{statistics.mean(accuracy):.2f}{spread}", f"{epoch:.2f}"])
    return body


def _named(fanouts: Sequence[int]) -> str:
    return ", ".join(map(str, fanouts))


_ORDER = [library + name for name in samplers(FANOUTS) for library in ("", "dgl, ")]
_DRAWN = ["sampler", "input rows", "of neighbor's", "edges", "ms", "of neighbor's (quartiles)"]
_TRAINED = ["sampler", "seeds", "test accuracy, %", "s an epoch"]
_INTRODUCTION = f"""# Samplers

Rendered by `python -m benchmarks.sampling` from `benchmarks/rows/sampling.jsonl`.

*Drawing*: batches of {BATCH:,} training nodes, fanouts {_named(FANOUTS)}, one thread. *input rows*: different nodes
whose features a step fetches and its first layer computes with; *edges*: of all layers; *ms*: of one batch, median of
rounds in which all samplers take their turn, and its ratio to `neighbor`'s of the same round. *dgl*: the samplers of
DGL on the same graph and batches.

*Learning*: the recipe of GraphSAGE on the Debian graph with fanouts {_named(FANOUTS[:2])}, one worker; mean and
standard deviation over seeds. Seconds are those of a machine with other work.
"""


if __name__ == "__main__":
    main()

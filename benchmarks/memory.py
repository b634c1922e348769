"""The peak memory of workers in full-graph training, beside the formula of framework/comm/footprint.py.

Run: python -m benchmarks.memory [--workers 1 2 4] [--halos exact rematerialized] [--epochs 4]

Assumptions: what is measured is the highest resident set of a worker's process, pages of mapped files included, less
what was resident when it had imported everything and met the others. One part a worker, by `spinner`, made in a process
of its own. Rows that are there are not measured again: what was stopped goes on.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.comm.footprint import Extent, footprint
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.halo.turns import InTurns
from framework.data.generators import PRESETS
from framework.engine.optimize import Adam
from framework.engine.run import Run, Worker
from framework.engine.train import first_model
from framework.memory import PeakMemory
from framework.models.nodes import GCN
from framework.registry import HALOS
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification, NodeTask
from partitioners.spinner import Spinner

ROWS = harness.ROWS / "memory.jsonl"
DOCUMENT = harness.DOCUMENTS / "memory.md"
STORES = Path("build") / "stores"
LAYERS, HIDDEN = 3, 128


def main() -> None:
    """Measure what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", choices=list(PRESETS), default="planted-large")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--halos", nargs="+", choices=HALOS.names(), default=["exact", "rematerialized"])
    parser.add_argument("--epochs", type=int, default=4, help="what is kept of features is made in the second")
    parser.add_argument("--stores", type=Path, default=STORES, help="where the partitioned graph is kept")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    for workers in options.workers:
        for halo in options.halos if workers > 1 else options.halos[:1]:
            row = {"graph": options.graph, "workers": workers, "halo": halo}
            if not any(row.items() <= known.items() for known in harness.read(options.out)):
                run = _run(HALOS.get(halo)(), options.graph, workers, options.epochs, options.stores)
                harness.append(options.out, {**_measured(run), **row})
    render(options.out, options.render)


def _run(halo: HaloStrategy, graph: str, workers: int, epochs: int, stores: Path) -> Run:
    workload = NodeClassification(
        data=PRESETS[graph],
        model=GCN(hidden=HIDDEN, dropout=0.5),
        sampler=Full(layers=LAYERS),
        batch_size=0,
        halo=halo,
        partitioner=Spinner(),
        parts=workers,
        reach="owned",
    )
    return Run(workload=workload, workers=workers, epochs=epochs, optimizer=Adam(lr=0.01), store=str(stores))


def _measured(run: Run) -> harness.Row:
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    found = Cluster().together("benchmarks.memory:observed", run, prepared, run.workers)
    for number, worker in enumerate(found):
        print(f"worker {number} of {run.workers}: {worker}", flush=True)
    environment = harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest)
    return {**environment, "epochs": run.epochs, "found": found}


def observed(run: Run, worker: Worker) -> dict[str, Any]:
    """Trains as `train` does, without what that writes to disk: this worker's peak, and what it is made of."""
    run.optimizer.build(torch.nn.Linear(1, 1).parameters())  # imports what torch imports late
    memory = PeakMemory()
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    model = first_model(run, worker, task)
    optimizer = run.optimizer.build(model.parameters())
    with run.gradient.open(model, optimizer, worker.group) as synchronizer:
        for epoch in range(run.epochs):
            for batch in task.batches(epoch, 0):
                synchronizer.module.zero_grad(set_to_none=True)
                task.loss(synchronizer.module, batch).backward()  # type: ignore[no-untyped-call]
                synchronizer.step()
        trained = memory.added()
        task.evaluate(model)
    store = task.shards.store
    widths = [store.num_features, *[HIDDEN] * (LAYERS - 1), store.num_classes]
    extent = extent_of(task)
    return {
        "peak": memory.added(),
        "peak_of_training": trained,
        "extent": dataclasses.asdict(extent),
        "predicted": footprint(extent, widths),
    }


def extent_of(task: NodeTask) -> Extent:
    """What a worker has, counted."""
    plan, exchange = task.topology.plan, task.topology.wire.exchange
    coming, going = plan.num_halo, sum(plan.sent)
    if isinstance(exchange, InTurns):
        coming, going = (
            max((sum(turn.outward.received) for turn in exchange.turns), default=0),
            max((sum(turn.outward.sent) for turn in exchange.turns), default=0),
        )
    return Extent(
        owned=plan.num_owned,
        halo=plan.num_halo,
        edges=len(task.topology.local.block.indices),
        sent=sum(plan.sent),
        training=len(task.seeds),
        coming=coming,
        going=going,
    )


def render(rows_path: Path, document: Path) -> None:
    """Write the tables of the rows at `rows_path`: the largest of every run's workers."""
    body, terms = [], []
    rows = sorted(harness.read(rows_path), key=lambda row: row["workers"])
    for row in rows:
        largest = max(row["found"], key=lambda worker: worker["peak"])
        alone = [max(worker["peak"] for worker in other["found"]) for other in rows if other["workers"] == 1]
        name, extent, predicted = f"{row['workers']}, {row['halo']}", largest["extent"], largest["predicted"]
        share = f"{largest['peak'] / alone[-1]:.2f}" if alone else ""
        ratios = [worker["peak"] / sum(worker["predicted"].values()) for worker in row["found"]]
        numbers = [f"{extent[field] / 1000:.0f}" for field in ("owned", "halo", "sent", "edges")]
        megabytes = [f"{size / 1e6:.0f}" for size in (sum(predicted.values()), largest["peak"])]
        body.append([name, *numbers, *megabytes, f"{min(ratios):.2f}-{max(ratios):.2f}", share])
        terms.append([name, *(f"{size / 1e6:.0f}" for size in predicted.values())])
    headers = ["workers, halo", "n", "h", "s", "e", "predicted MB", "measured MB", "ratio", "over one worker's"]
    text = [_INTRODUCTION, harness.markdown(headers, body)]
    if rows:
        headers = ["workers, halo", *(f"{term}, MB" for term in rows[-1]["found"][0]["predicted"])]
        text += ["\n## Terms\n\n", harness.markdown(headers, terms)]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("".join(text))


_INTRODUCTION = f"""# Memory of a worker

Rendered by `python -m benchmarks.memory` from `benchmarks/rows/memory.jsonl`: full-graph training of a GCN of {LAYERS}
layers, {HIDDEN} wide, dropout 0.5, Adam, float32, on the planted graph of 1 million nodes and 20 million edges (100
features, 40 classes), one part a worker by `spinner`. [The formula](../memory.md) is that of
`framework/comm/footprint.py`.

*n, h, s, e*: thousands of owned nodes, halo nodes, rows sent before a layer and edges of the worker with the highest
peak. *measured*: its highest resident set, pages of mapped files included, less what was resident after imports.
*ratio*: measured over predicted, the lowest and the highest of the workers.

"""


if __name__ == "__main__":
    main()

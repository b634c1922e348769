"""Gradient strategies on dense work: the teacher of Multi30k on two workers, its loss step by step, bytes and memory.

Run: python -m benchmarks.gradients [--only all-reduce fsdp zero1] [--steps 60] [--rounds 3] [--workers 2]

Assumptions: every strategy makes the first steps of the same run, dropout on, float32, with one thread a worker; rounds
are interleaved. Memory is a worker's highest resident set, less what was resident when it had imported everything and
met the others. ZeRO 2 and 3 need the extra deepspeed and are left out without it; the page names what it lacks. The
data is that of the recipe `transformer-multi30k`. A row is of a run as its digest says: one that is there is not
measured again, so that what was stopped goes on; one of the recipe as it was before is neither counted nor shown.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.comm.gradient.all_reduce import AllReduce
from framework.comm.gradient.compressed import Compressed
from framework.comm.gradient.deep_speed import library
from framework.comm.gradient.diloco import DiLoCo
from framework.comm.gradient.local_steps import LocalSteps
from framework.comm.gradient.sharded import Sharded
from framework.comm.gradient.strategy import GradientStrategy
from framework.comm.group import Group
from framework.engine.run import Counted, Run, Worker
from framework.engine.train import first_model
from framework.memory import PeakMemory
from launch.recipes.translation import teacher_multi30k

ROWS = harness.ROWS / "gradients.jsonl"
DOCUMENT = harness.DOCUMENTS / "gradients.md"
WARM_UP = 10  # steps whose time is not taken
DEEP_SPEED = ("zero2", "zero3")
"""Those of the extra."""
STRATEGIES: dict[str, GradientStrategy] = {
    "all-reduce": AllReduce(),
    "fp16": Compressed(method="fp16"),
    "powersgd": Compressed(method="powersgd"),
    "local steps, 8": LocalSteps(),
    "diloco, 20": DiLoCo(inner_steps=20),
    "fsdp": Sharded(stage="fsdp"),
    "zero1": Sharded(stage="zero1"),
    "zero2": Sharded(stage="zero2"),
    "zero3": Sharded(stage="zero3"),
}
"""What the table compares, by the name of its row."""
EXACT = ("fsdp", "zero1", "zero2", "zero3")


def main() -> None:
    """Measure what is missing, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), default=_available())
    parser.add_argument("--steps", type=int, default=60, help="of every run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    recipe = teacher_multi30k()
    if left_out := [name for name in STRATEGIES if name not in _available()]:
        print(f"{' and '.join(left_out)} need DeepSpeed: pip install 'shardyard[deepspeed]'", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.rounds):
            for name in options.only:
                where = {"name": name, "repeat": repeat, "steps": options.steps, "workers": options.workers}
                digest = run_of(recipe, where).digest()
                known = {**where, "run_digest": digest}.items()
                if not any(known <= row.items() for row in harness.read(options.out)):
                    row = measured(recipe, Path(folder), where)
                    harness.append(options.out, row)
                    print(f"{where}: loss {row['losses'][-1]:.4f}, {row['seconds']:.3f} s a step", flush=True)
                    render(options.out, options.render)
    render(options.out, options.render)


def run_of(recipe: Run, where: harness.Row) -> Run:
    """The run that a row is of: as many epochs as there are steps."""
    gradient = STRATEGIES[where["name"]]
    return dataclasses.replace(recipe, gradient=gradient, workers=where["workers"], epochs=where["steps"])


def measured(recipe: Run, folder: Path, where: harness.Row) -> harness.Row:
    """The first steps of `recipe` under a strategy, as a row; `folder` takes the prepared data."""
    run = dataclasses.replace(run_of(recipe, where), store=str(folder / "stores"))
    prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
    found = Cluster().together("benchmarks.gradients:stepped", run, prepared, run.workers)
    environment = harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest)
    return {
        **environment,
        **where,
        "losses": found[0]["losses"],
        "seconds": statistics.median(found[0]["seconds"][WARM_UP:] or found[0]["seconds"]),
        "bytes": [worker["bytes"] for worker in found],
        "peaks": [worker["peak"] for worker in found],
    }


def stepped(run: Run, worker: Worker) -> dict[str, Any]:
    """Makes as many steps as the run has epochs, without evaluation or checkpoint: what each took and came to."""
    run.optimizer.build(torch.nn.Linear(1, 1).parameters())  # imports what torch imports late
    _import_what_is_needed(run.gradient, worker.group)
    memory = PeakMemory()
    task = run.workload.open(run, worker)
    model = first_model(run, worker, task)
    optimizer = run.optimizer.build(model.parameters())
    schedule = run.schedule.attach(optimizer, run.epochs, task.steps if isinstance(task, Counted) else None)
    losses, seconds = [], []
    with run.gradient.open(model, optimizer, worker.group) as synchronizer:
        endless = (batch for epoch in itertools.count() for batch in task.batches(epoch, 0))
        for batch in itertools.islice(endless, run.epochs):
            begin = time.perf_counter()
            synchronizer.module.zero_grad(set_to_none=True)
            loss = task.loss(synchronizer.module, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            synchronizer.step()
            schedule.step()
            losses.append(loss.detach().double())
            seconds.append(time.perf_counter() - begin)
        peak = memory.added()
    sent = sum(size for purpose, size in worker.group.sent.items() if purpose.startswith("gradient"))
    total = worker.group.all_reduce(torch.stack(losses), "loss")
    return {"losses": total.tolist(), "seconds": seconds, "bytes": sent, "peak": peak}


def _import_what_is_needed(gradient: GradientStrategy, group: Group) -> None:
    """So that a strategy's library does not count as the memory that its steps take."""
    stage = gradient.stage if isinstance(gradient, Sharded) else ""
    if stage == "fsdp":
        importlib.import_module("torch.distributed.fsdp")
    elif stage in DEEP_SPEED:
        library(group)


# --- Table -----------------------------------------------------------------------------------------------------------


def render(rows_path: Path, document: Path, recipe: Run | None = None) -> None:
    """Write the table of those rows at `rows_path` that are of `recipe` as it is: of the teacher's if not said."""
    recipe = recipe or teacher_multi30k()
    rows = [row for row in harness.read(rows_path) if row["name"] in STRATEGIES]
    rows = [row for row in rows if row["run_digest"] == run_of(recipe, row).digest()]
    groups = harness.grouped(rows, "name", "steps", "workers")
    body = []
    for (name, steps, workers), group in groups.items():
        reference = groups.get(("all-reduce", steps, workers))
        apart = f"{drift(group[0]['losses'], reference[0]['losses']):.1e}" if reference else ""
        sent = statistics.median(size for row in group for size in row["bytes"]) / steps / 1e6
        peak = max(peak for row in group for peak in row["peaks"]) / 1e6
        seconds = sorted(row["seconds"] for row in group)
        spread = f"{statistics.median(seconds):.3f} ({seconds[0]:.3f}-{seconds[-1]:.3f})"
        last = statistics.mean(group[0]["losses"][-10:])
        body.append([name, str(workers), str(steps), f"{last:.4f}", apart, f"{sent:.2f}", f"{peak:.0f}", spread])
    headers = ("strategy", "workers", "steps", "loss", "apart", "MB a step", "peak MB", "s a step")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(headers, body) + _absent({row["name"] for row in rows}))


def _absent(present: set[str]) -> str:
    """Which strategies have no row, as text."""
    absent = [f"{name} (needs DeepSpeed)" if name in DEEP_SPEED else name for name in STRATEGIES if name not in present]
    return f"\nNot measured: {'; '.join(absent)}.\n" if absent else ""


def drift(losses: list[float], expected: list[float]) -> float:
    """How far apart two curves are at most, relative to the second."""
    return max(abs(loss - known) / abs(known) for loss, known in zip(losses, expected, strict=True))


def _available() -> list[str]:
    """The strategies whose libraries are installed."""
    deep_speed = importlib.util.find_spec("deepspeed") is not None
    return [name for name in STRATEGIES if deep_speed or name not in DEEP_SPEED]


_INTRODUCTION = f"""# Gradient strategies on a Transformer

Rendered by `python -m benchmarks.gradients` from `benchmarks/rows/gradients.jsonl`: the first steps of the recipe
`transformer-multi30k`, dropout on, Adam, float32, one thread a worker.

*loss*: mean over the last ten steps. *apart*: how far the loss is from all-reduce's in any step, relative to it;
{", ".join(EXACT)} are exact but for the order of float32 sums. *MB a step*: what a worker sends of gradients and
weights. *peak MB*: the highest resident set of any worker, less what was resident after imports. *s a step*: median
over steps after the first {WARM_UP}, then over runs (fastest and slowest run). Two workers on a machine of two cores:
bytes cost next to nothing here, and what memory a strategy saves shows only where weights outweigh activations.

"""


if __name__ == "__main__":
    main()

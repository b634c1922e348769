"""How much of the exchange of rows is hidden behind computing: 2 hosts, at a rate at which both take as long.

Run: python -m benchmarks.overlap [--graph debian] [--hidden 256] [--rounds 7] [--rate 500mbit]

Assumptions: four kinds of epochs take turns. `both` trains with the exact exchange; `computing` does the same over a
link that delivers zeros at once; `transfer` sends the same rows, one lane after the other, and computes nothing;
`pipelined` trains with rows of the step before, and its epoch follows two others like it at once, for it begins while
their rows are under way and leaves its own so. Epochs begin together and are as long as the slower worker's. Where no
rate is given, it is chosen: a run on an unlimited link says how long computing takes, one at the rate at which the
bytes of an epoch should take as long how long they do.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.workers import Cluster
from framework.comm.halo.block import Wire
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Arrival, Arrived, DirectLink, Lane, Link, Route, Step
from framework.comm.halo.pipelined import Pipelined
from framework.data.debian import Debian
from framework.data.generators import PRESETS, Planted
from framework.engine.optimize import Adam
from framework.engine.run import Prepared, Run, Worker
from framework.engine.train import first_model
from framework.models.nodes import GCN
from framework.sample.full import Full
from framework.workloads.nodes import NodeClassification, NodeTask
from partitioners.metis import Metis

ROWS = harness.ROWS / "overlap.jsonl"
DOCUMENT = harness.DOCUMENTS / "overlap.md"
WORKERS, LAYERS = 2, 3
GRAPHS: dict[str, Any] = {
    "planted": PRESETS["planted"],
    "clustered": Planted(inside=0.98),
    "debian": Debian(columns=128),
}
KINDS = ("both", "computing", "transfer", "pipelined")
LEAD = {"pipelined": 2}  # epochs like it right before the one that is timed


def main() -> None:
    """Measure, then render the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", choices=list(GRAPHS), default="debian")
    parser.add_argument("--hidden", type=int, default=256, help="width of the inner layers")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each kind that are timed, after two")
    parser.add_argument("--rate", help="of the link, as tc has it; chosen where it is not given")
    parser.add_argument("--stores", type=Path, help="where the partitioned graph is kept; else it is made each time")
    parser.add_argument("--out", type=Path, default=ROWS, help="the rows")
    parser.add_argument("--render", type=Path, default=DOCUMENT, help="the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Cluster.of(WORKERS, "none") as cluster:
        run = _run(options.graph, options.hidden, options.stores or Path(folder), options.rounds)
        prepared = run.workload.prepare(Path(run.store), map, lambda event: None)
        rate = options.rate or _balancing_rate(cluster, dataclasses.replace(run, epochs=2), prepared)
        _link(cluster, rate)
        found = cluster.together("benchmarks.overlap:timed", run, prepared, WORKERS)[0]
        environment = harness.environment(seed=run.seed, run_digest=run.digest(), data_digest=prepared.data_digest)
        row = {"graph": options.graph, "hidden": options.hidden, "rate": rate, **found}
        harness.append(options.out, {**environment, **row})
    render(options.out, options.render)


def _balancing_rate(cluster: Cluster, run: Run, prepared: Prepared) -> str:
    """The rate at which the rows of an epoch are under way for as long as it computes."""
    free = cluster.together("benchmarks.overlap:timed", run, prepared, WORKERS)[0]
    rate = free["bytes"] * 8 / statistics.median(free["seconds"]["computing"])
    _link(cluster, _bits(rate))
    tried = cluster.together("benchmarks.overlap:timed", run, prepared, WORKERS)[0]["seconds"]
    return _bits(rate * statistics.median(tried["transfer"]) / statistics.median(tried["computing"]))


def _bits(rate: float) -> str:
    return f"{rate / 1e3:.0f}kbit"


def _link(cluster: Cluster, rate: str) -> None:
    print(f"linked at {rate}", flush=True)
    for host in range(WORKERS):
        cluster.set_rate(host, rate)


def _run(graph: str, hidden: int, stores: Path, rounds: int) -> Run:
    workload = NodeClassification(
        data=GRAPHS[graph],
        model=GCN(hidden=hidden, dropout=0.5),
        sampler=Full(layers=LAYERS),
        batch_size=0,
        partitioner=Metis(),
        parts=WORKERS,
        reach="owned",
    )
    return Run(workload=workload, workers=WORKERS, epochs=rounds, optimizer=Adam(lr=0.01), store=str(stores))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """Rows that were sent, to send others like them."""

    rows: Tensor
    """Zeros of the shape and type of the rows."""
    route: Route
    """Where to."""
    lane: Lane
    """What for."""


class RecordingLink:
    """A link that notes what is sent over another (a Link)."""

    def __init__(self, inner: Link) -> None:
        self.inner, self.messages = inner, list[Message]()

    def begin(self, step: Step) -> None:
        """Notes anew."""
        self.messages.clear()
        self.inner.begin(step)

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Over the other link."""
        self.messages.append(Message(rows=rows.new_zeros(1, 1).expand_as(rows), route=route, lane=lane))
        return self.inner.send(rows, route, lane)

    def state(self) -> dict[str, Tensor]:
        """The other link's."""
        return self.inner.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The other link's."""
        self.inner.load_state(state)


class SilentLink:
    """A link over which nothing comes but zeros, at once (a Link)."""

    def __init__(self) -> None:
        self.zeros: dict[tuple[int, int], Tensor] = {}

    def begin(self, step: Step) -> None:
        """Every step is alike."""

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Zeros, the same every time."""
        shape = (sum(route.received), rows.shape[1])
        if shape not in self.zeros:
            self.zeros[shape] = rows.new_zeros(shape)
        return Arrived(rows=self.zeros[shape])

    def state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""


def timed(run: Run, worker: Worker) -> dict[str, Any]:
    """Epochs of every kind in turn: seconds of the slower worker, seconds of all processors, bytes a worker sends."""
    group, epochs = worker.group, _epochs(run, worker)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu_seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    kernel_seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    sent = 0
    for number in range(run.epochs + 2):
        for kind in KINDS:
            group.barrier()
            for _ in range(LEAD.get(kind, 0)):
                epochs[kind]()
            before, begin, used = group.snapshot(), time.perf_counter(), os.times()
            epochs[kind]()
            seconds_used = [now - then for now, then in zip(os.times()[:2], used[:2], strict=True)]
            spent = [time.perf_counter() - begin, *seconds_used]
            wall, user, kernel = zip(*group.gather_json(spent, "state"), strict=True)
            if kind == "transfer":
                sent = max(group.gather_json(sum(_halo(group.since(before))), "state"))
            if number >= 2:  # what is kept for all epochs is made in the first two
                seconds[kind].append(max(wall))
                cpu_seconds[kind].append(sum(user) + sum(kernel))
                kernel_seconds[kind].append(sum(kernel))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "kernel_seconds": kernel_seconds, "bytes": sent}


def _halo(sent: dict[str, int]) -> list[int]:
    return [payload for purpose, payload in sent.items() if purpose.startswith("halo/")]


def _epochs(run: Run, worker: Worker) -> dict[str, Callable[[], None]]:
    """What one epoch of every kind does."""
    task = run.workload.open(run, worker)
    assert isinstance(task, NodeTask)
    model = first_model(run, worker, task)
    optimizer = run.optimizer.build(model.parameters())
    group = worker.group
    synchronizer = run.gradient.open(model, optimizer, group).__enter__()  # for the life of the process
    topology, numbers = task.topology, {kind: itertools.count() for kind in KINDS}
    recording, direct = RecordingLink(DirectLink(group)), DirectLink(group)
    wires = {
        "both": Wire(plan=topology.plan, exchange=Exact().open(topology.plan, recording)),
        "computing": Wire(plan=topology.plan, exchange=Exact().open(topology.plan, SilentLink())),
        "pipelined": Wire(plan=topology.plan, exchange=Pipelined().open(topology.plan, DirectLink(group))),
    }

    def train(kind: str, module: torch.nn.Module) -> None:
        module.zero_grad(set_to_none=True)
        epoch = next(numbers[kind])
        for batch in task.batches(epoch, 0):
            wires[kind].exchange.begin(Step(epoch=epoch, number=0, key=task.key))
            blocks = topology.layers([block.key for block in batch.blocks], wires[kind])
            task.loss(module, dataclasses.replace(batch, blocks=blocks)).backward()  # type: ignore[no-untyped-call]

    def whole(kind: str) -> None:
        train(kind, synchronizer.module)
        synchronizer.step()

    def transfer() -> None:
        for message in recording.messages:
            direct.send(message.rows, message.route, message.lane).wait()

    return {
        "both": lambda: whole("both"),
        "computing": lambda: train("computing", model),
        "transfer": transfer,
        "pipelined": lambda: whole("pipelined"),
    }


def render(rows_path: Path, document: Path) -> None:
    """Write the table of the rows at `rows_path`: medians and quartiles, the ratio within a round."""
    body = []
    for row in harness.read(rows_path):
        seconds = row["seconds"]
        longer = [max(pair) for pair in zip(seconds["computing"], seconds["transfer"], strict=True)]
        where = [row.get("graph", "planted"), str(row.get("hidden", 128)), row["rate"], f"{row['bytes'] / 1e6:.0f}"]
        alone = [harness.spread(seconds[kind]) for kind in ("computing", "transfer")]
        trained = []
        for kind in ("both", "pipelined"):
            ratios = [taken / other for taken, other in zip(seconds.get(kind, []), longer, strict=kind in seconds)]
            trained += (
                [harness.spread(seconds[kind]), harness.spread(ratios), _hidden(seconds, kind)] if ratios else [""] * 3
            )
        cpu = [harness.spread(row["cpu_seconds"][kind]) for kind in ("computing", "transfer", "both")]
        kernel = harness.spread(row["kernel_seconds"]["both"]) if "kernel_seconds" in row else ""
        body.append([*where, *alone, *trained, *cpu, kernel, f"{row['load']:.1f}"])
    headers = ["graph", "width", "rate", "MB", "computing", "transfer"]
    headers += ["both", "over the longer", "hidden", "pipelined", "over the longer", "hidden"]
    headers += ["CPU, computing", "CPU, transfer", "CPU, both", "of it the kernel's", "load"]
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(_INTRODUCTION + harness.markdown(headers, body))


def _hidden(seconds: dict[str, list[float]], kind: str) -> str:
    """The share of the transfer that epochs of a kind are not longer by than computing."""
    rounds = zip(seconds[kind], seconds["computing"], seconds["transfer"], strict=True)
    return f"{statistics.median(1 - (taken - computing) / transfer for taken, computing, transfer in rounds):.0%}"


_INTRODUCTION = f"""# Computing while rows are under way

Rendered by `python -m benchmarks.overlap` from `benchmarks/rows/overlap.jsonl`: full-graph training of a GCN of
{LAYERS} layers, float32, METIS, {WORKERS} workers of one thread, each on a host of its own (network namespaces, a
shaped link). *graph*: the Debian graph; the planted one (200 thousand nodes, 4 million edges), where six nodes of ten
have a neighbour on the other host; the same with 98 % of the edges inside blocks (60 % before), *clustered*. *MB*: what
a worker sends of the halo in an epoch. *computing*, *transfer*, *both*: seconds of an epoch without the exchange, of
the exchange alone, and of training, *pipelined* that with rows of the step before. *over the longer*: than either of
the first two, in the same round. *hidden*: the share of the transfer by which an epoch is not longer than computing
alone; what an exact epoch cannot hide is of the forward pass, which has a third of the computing but half of the rows.
On the planted graph rows are computed in one piece. *CPU*: seconds of both workers' processors, those of the
emulated link, which the kernel is charged with, among them (not those of pipelined). *load*: other work on the machine.
Median and quartiles.

"""


if __name__ == "__main__":
    main()

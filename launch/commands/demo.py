"""`shardyard demo`: a real graph cut in two ways, and a network trained on two workers, told step by step."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.engine.run import Event, Prepared, Run
from framework.graph.store import ShardStore
from framework.workloads.nodes import NodeClassification
from launch import tables, usage
from launch.commands.prepare import prepared_data
from launch.commands.train import summary, trained
from launch.recipes.nodes import sage_debian
from partitioners.fennel import Fennel
from partitioners.metis import Metis

_QUALITY = ("cut_ratio", "replication_factor", "node_balance", "edge_balance", "seconds")
_NEXT = """Try next:
  shardyard train sage-debian --workers 2 --partitioner fennel --partitioner.gamma 1.6
  shardyard list partitioners
  tensorboard --logdir runs"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """A real graph, two partitioners compared, a network trained on two workers: three minutes."""

    workers: int = 2
    """Worker processes."""
    store: str = "stores"
    """Where the shards are kept."""
    out: str | None = None
    """The run's folder. Without it: a new one in `runs`."""
    json: bool = False
    """Print {graph, partitions, report} as JSON, and nothing else."""


def command(arguments: list[str]) -> int:
    """Runs the demo."""
    flags = usage.parse(Flags, arguments, command="demo", example="shardyard demo")
    say = _silent if flags.json else _say
    run = dataclasses.replace(
        sage_debian(), workers=flags.workers, store=flags.store, out=flags.out or str(_new_folder(Path("runs")))
    )
    say("1. The packages of Debian 12, who depends on whom, and the section each one is in.")
    compared = {name: _prepared(run, plugin) for name, plugin in (("metis", Metis()), ("fennel", Fennel()))}
    graph = _facts(next(iter(compared.values())))
    if not flags.json:
        tables.facts(graph)
    say("2. Two ways to cut it: METIS sees the whole graph, Fennel a stream of nodes. Lower is better everywhere.")
    partitions = [{"partitioner": name, **data.facts["quality"]} for name, data in compared.items()]
    if not flags.json:
        tables.show(["partitioner", *_QUALITY, "added memory"], [_row(quality) for quality in partitions])
    say(f"3. GraphSAGE on {run.workers} workers, on METIS's parts; neighbours are sampled across them.")
    report = trained(_with_partitioner(run, Metis()), script=flags.json)
    if flags.json:
        tables.show_json({"graph": graph, "partitions": partitions, "report": report})
        return 0
    tables.facts(summary(run, report))
    say(f"Test accuracy {report['metrics']['test_accuracy']:.4f}; text alone, without the graph, gives about 0.81.")
    say(_NEXT)
    return 0


def _prepared(run: Run, partitioner: Metis | Fennel) -> Prepared:
    return prepared_data(_with_partitioner(run, partitioner), _ignore)


def _with_partitioner(run: Run, partitioner: Metis | Fennel) -> Run:
    assert isinstance(run.workload, NodeClassification)
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, partitioner=partitioner))


def _facts(prepared: Prepared) -> dict[str, Any]:
    store = ShardStore.open(prepared.path)
    return {
        "packages": store.num_nodes,
        "dependencies, both ways": store.num_edges,
        "sections": store.num_classes,
        "feature columns": store.num_features,
        "parts": store.parts,
    }


def _row(quality: dict[str, Any]) -> Sequence[Any]:
    figures = [quality[name] for name in _QUALITY]
    return [quality["partitioner"], *figures, tables.size(quality["peak_memory_bytes"])]


def _new_folder(runs: Path) -> Path:
    """`runs/demo`, or the first of `runs/demo-2`, `runs/demo-3`, ... that is not there: a demo starts afresh."""
    number = 1
    while (folder := runs / (f"demo-{number}" if number > 1 else "demo")).exists():
        number += 1
    return folder


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    pass


def _ignore(event: Event) -> None:
    pass

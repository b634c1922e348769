"""`shardyard demo`: a real graph cut in two ways, and a network trained on two workers, told step by step."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.engine.run import Prepared, Run
from framework.graph.store import ShardStore
from framework.workloads.nodes import NodeClassification
from launch import tables, usage
from launch.commands.train import summary, trained
from launch.prepared import prepared_data
from launch.progress import showing
from launch.recipes.nodes import sage_debian
from partitioners.fennel import Fennel
from partitioners.metis import Metis

_QUALITY = ("cut_ratio", "replication_factor", "node_balance", "edge_balance", "seconds")
_NEXT = """Try next:
  shardyard train sage-debian --workers 2 --partitioner fennel --partitioner.gamma 1.6 --out runs/fennel
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
    out = flags.out or str(_new_folder(Path("runs")))
    run = dataclasses.replace(sage_debian(), workers=flags.workers, store=flags.store, out=out)
    with contextlib.redirect_stdout(io.StringIO()) if flags.json else contextlib.nullcontext():
        told = _tell(run, script=flags.json)
    if flags.json:
        tables.show_json(told)
    return 0


def _tell(run: Run, *, script: bool) -> dict[str, Any]:
    """Goes through the demo's steps and says what each shows. Returns the same as values."""
    _say("1. The packages of Debian 12, who depends on whom, and the section each is in; cut in two ways.")
    compared: dict[str, Prepared] = {}
    with showing(script=script) as show:
        for name, partitioner in (("metis", Metis()), ("fennel", Fennel())):
            compared[name] = prepared_data(_with_partitioner(run, partitioner), show)
    graph = _facts(compared["metis"])
    tables.facts(graph)

    _say("2. METIS sees the whole graph at once, Fennel a stream of nodes. Lower is better everywhere.")
    partitions = [{"partitioner": name, **prepared.facts["quality"]} for name, prepared in compared.items()]
    tables.show(["partitioner", *_QUALITY, "added memory"], [_row(quality) for quality in partitions])

    _say(f"3. GraphSAGE on {run.workers} workers, on METIS's parts; neighbours are sampled across them.")
    report = trained(_with_partitioner(run, Metis()), script=script)
    tables.facts(summary(run, report))
    _say(f"Test accuracy {report['metrics']['test_accuracy']:.4f}.")
    _say(_NEXT)
    return {"graph": graph, "partitions": partitions, "report": report}


def _with_partitioner(run: Run, partitioner: Metis | Fennel) -> Run:
    assert isinstance(run.workload, NodeClassification)
    return dataclasses.replace(run, workload=dataclasses.replace(run.workload, partitioner=partitioner))


def _facts(prepared: Prepared) -> dict[str, Any]:
    store = ShardStore.open(prepared.path)
    return {
        "packages": store.num_nodes,
        "dependencies": store.num_edges // 2,  # stored in both directions
        "sections": store.num_classes,
        "feature_columns": store.num_features,
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

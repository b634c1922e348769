"""`shardyard train`: a recipe and its flags become a run; the run is started, watched and written down."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from framework.engine.run import Event, Run
from launch import tables
from launch.commands.runs import from_recipe
from launch.progress import showing
from launch.record import recording
from launch.start import start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Train a recipe."""

    json: bool = False
    """Print the report as JSON, and nothing else."""


def command(arguments: list[str]) -> int:
    """Trains; a run that was interrupted is resumed from its folder."""
    run, options = from_recipe(arguments, Options, command="train", about="Train a recipe, or resume it.")
    report = trained(run, script=options.json)
    if options.json:
        tables.show_json(report)
    else:
        tables.facts(summary(run, report))
    return 0


def trained(run: Run, *, script: bool) -> dict[str, Any]:
    """Starts a run, writes its folder, and returns the report."""
    with recording(run) as record, showing(script=script) as show:

        def watch(event: Event) -> None:
            record(event)
            show(event)

        report = start(run, watch)
        record.report(report)
    return report


def summary(run: Run, report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report a person looks at first."""
    seconds, sent = report.get("seconds", {}), report.get("bytes", {})
    return {
        "workers": report["workers"],
        **{name: report[name] for name in ("parts", "partitioner") if name in report},
        "epochs": report["epochs"],
        "loss": f"{report['loss'][-1]:.4f}" if report["loss"] else "",
        **{name.replace("_", " "): f"{value:.4f}" for name, value in report["metrics"].items()},
        "seconds an epoch": f"{seconds.get('epoch_median', 0.0):.2f}",
        "seconds in all": f"{seconds.get('total', 0.0):.1f}",
        "bytes sent": tables.size(sent.get("total", 0)),
        "weights": report["weights_digest"][:16],
        "folder": run.out,
    }

"""`shardyard train`: a recipe and its flags become a run, or a pipeline of runs, which is started and written down."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from framework.engine.pipeline import Pipeline
from framework.engine.run import Run
from launch import steps, tables, usage
from launch.commands.runs import default_out, from_recipe, named_recipe, recipe
from launch.progress import showing
from launch.start import recorded
from launch.walk import Shared, walk

_ABOUT = "Train a recipe, or resume it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Train a recipe."""

    json: bool = False
    """Print the report as JSON, and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Train a recipe that is a pipeline."""

    until: str | None = None
    """The last step to walk; what comes behind it is left for later. None: all."""
    common: Annotated[Options, usage.INLINE] = Options()
    """What is the same for a run."""


def command(arguments: list[str]) -> int:
    """Trains; what was interrupted is resumed from its folder."""
    name, flags = named_recipe(arguments, command="train", about=_ABOUT)
    found = recipe(name)
    if isinstance(found, Pipeline):
        return _walk(name, found, flags)
    run, options = from_recipe(arguments, Options, command="train", about=_ABOUT)
    report = trained(run, script=options.json)
    if options.json:
        tables.show_json(report)
    else:
        tables.facts(summary(run, report))
    return 0


def _walk(name: str, pipeline: Pipeline, flags: Sequence[str]) -> int:
    """Trains a recipe that is a pipeline."""
    middle = list(pipeline.steps)[len(pipeline.steps) // 2]
    pipeline, shared, options = steps.parse_pipeline(
        pipeline,
        Shared(out=default_out(name)),
        flags,
        PipelineOptions,
        command=f"train {name}",
        example=f"shardyard train {name} --workers 2 --until {middle}",
    )
    with showing(script=options.common.json) as show:
        report = walk(pipeline, shared, options.until, show)
    if options.common.json:
        tables.show_json(report)
    else:
        tables.show(["step", "was", "seconds", "digest", "folder"], steps.summary(report))
    return 0


def trained(run: Run, *, script: bool) -> dict[str, Any]:
    """Starts a run, shows how it goes, writes its folder, and returns the report."""
    with showing(script=script) as show:
        return recorded(run, show)


def summary(run: Run, report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report a person looks at first."""
    seconds, sent = report.get("seconds", {}), report.get("bytes", {})
    return {
        "workers": report["workers"],
        **{name: report[name] for name in ("parts", "partitioner") if name in report},
        "epochs": report["epochs"],
        "loss": _figure(report["loss"][-1]) if report["loss"] else "",
        **{name.replace("_", " "): _figure(value) for name, value in report["metrics"].items()},
        "seconds an epoch": f"{seconds.get('epoch_median', 0.0):.2f}",
        "seconds in all": f"{seconds.get('total', 0.0):.1f}",
        "bytes sent": tables.size(sent.get("total", 0)),
        "weights": report["weights_digest"][:16],
        "folder": run.out,
    }


def _figure(value: float | None) -> str:
    """A metric as a person reads it; None is what a report on disk has of one that is no number."""
    return "nan" if value is None else f"{value:.4f}"

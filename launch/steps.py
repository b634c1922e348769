"""Command line -> pipeline: flags for all steps, and `--STEP.FIELD VALUE` for every field of one.

A pipeline has more flags than anybody wants to read, so only the steps that the command line mentions get theirs: help
names the steps, and `--STEP.help` has the flags of one.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from framework.engine.pipeline import Pipeline, Product
from framework.engine.run import Run
from framework.errors import InputError
from launch.arguments import STEP, parse_placed
from launch.walk import Shared

T = TypeVar("T")

_SHARED = "shared"


def parse_pipeline(
    pipeline: Pipeline,
    shared: Shared,
    arguments: Sequence[str],
    options: type[T],
    *,
    command: str,
    example: str,
) -> tuple[Pipeline, Shared, T]:
    """`pipeline` and what its steps share with the settings that `arguments` give, and the command's own `options`.

    Raises InputError for whatever cannot be understood."""
    flags, asked = _with_help(arguments, list(pipeline.steps))
    _refuse_unknown_steps(flags, list(pipeline.steps))
    mentioned = {name: step for name, step in pipeline.steps.items() if name in asked or _mentions(flags, name)}
    of_steps = [
        (_field(name), type(step), dataclasses.field(metadata={STEP: name})) for name, step in mentioned.items()
    ]
    members: list[Any] = [(_SHARED, Shared), *of_steps]
    settings: type[Any] = dataclasses.make_dataclass("Pipeline", members, frozen=True, kw_only=True)
    same = [field.name for field in dataclasses.fields(Shared)]
    runs = [_field(name) for name, step in mentioned.items() if isinstance(step, Run)]
    given, own = parse_placed(
        settings,
        settings(**{_SHARED: shared}, **{_field(name): step for name, step in mentioned.items()}),
        flags,
        options,
        command=command,
        example=example,
        about=_about(pipeline, next(iter(mentioned or pipeline.steps)), command),
        hidden=[f"{run}.{name}" for run in runs for name in same],
    )
    steps = {name: getattr(given, _field(name)) if name in mentioned else step for name, step in pipeline.steps.items()}
    return Pipeline(steps=steps), given.shared, own


def _field(step: str) -> str:
    """A step's name as that of a field."""
    return step.replace("-", "_")


def _with_help(arguments: Sequence[str], steps: Sequence[str]) -> tuple[list[str], set[str]]:
    """The arguments with `--help` for every `--STEP.help`, and the steps whose help is asked for."""
    asked = {name for name in steps if f"--{name}.help" in arguments}
    return ["--help" if argument[2:].removesuffix(".help") in asked else argument for argument in arguments], asked


def _mentions(arguments: Sequence[str], step: str) -> bool:
    """Whether a flag is of the step."""
    return any(_owner(argument) == step for argument in arguments)


def _owner(argument: str) -> str:
    """`teacher` of `--teacher.epochs=3`; empty where it is no flag with a dot."""
    name = argument.partition("=")[0]
    return name[2:].partition(".")[0].replace("_", "-") if name.startswith("--") and "." in name else ""


def _refuse_unknown_steps(arguments: Sequence[str], steps: Sequence[str]) -> None:
    """Raises InputError for a flag `--NAME.FIELD` of no step and of nothing that the steps share."""
    known = [*steps, *(field.name for field in dataclasses.fields(Shared))]
    for argument in arguments:
        owner = _owner(argument)
        if owner and owner not in known:
            near = difflib.get_close_matches(owner, steps, n=1)
            guess = f" Did you mean --{near[0]}.{argument.partition('.')[2]}?" if near else ""
            raise InputError(f"{argument} is of no step.{guess} Steps: {', '.join(steps)}.")


def _about(pipeline: Pipeline, example: str, command: str) -> str:
    """What help says of the pipeline before the flags; `example` is one of its steps."""
    width = max(map(len, pipeline.steps))
    lines = [f"  {name:{width}}  {_summary(step)}" for name, step in pipeline.steps.items()]
    return "\n".join(
        [
            "Walk a pipeline: what is there is kept, what was cut is resumed, the rest is made. Its steps:",
            "",
            *lines,
            "",
            f"Fields of steps are flags, `--STEP.FIELD VALUE`: `shardyard {command} --{example}.help` lists some.",
        ]
    )


def _summary(step: Run | Product) -> str:
    """What a step is, on a line."""
    told = getattr(step.workload, "model", step.workload) if isinstance(step, Run) else step
    line = (inspect.getdoc(type(told)) or "").partition("\n")[0]
    return f"trained: {line}" if isinstance(step, Run) else line


def summary(report: Mapping[str, Any]) -> list[list[Any]]:
    """The report of a walk as rows for a person: step, what became of it, seconds, digest, folder."""
    return [
        [name, told["was"], f"{told['seconds']:.1f}", told["digest"][:16], told["path"]]
        for name, told in report["steps"].items()
    ]

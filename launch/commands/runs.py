"""What commands on runs share: a run from a recipe or from an earlier run's folder, and the flags on top of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from framework.engine.folder import RUN, read_run
from framework.engine.pipeline import Pipeline
from framework.engine.run import Run
from framework.errors import InputError
from framework.registry import RECIPES
from launch.arguments import parse_run
from launch.prepared import known_store
from launch.record import PIPELINE

T = TypeVar("T")

_OF_TRAINING = ("out", "checkpoint_every", "save_every", "gradient")
"""Fields that say nothing to who reads what was trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of every command on a run's folder."""

    trust: bool = False
    """Import the modules of your own that the run names. Importing a module runs it."""
    json: bool = False
    """Print the answer as JSON, and nothing else."""


def from_recipe(arguments: Sequence[str], options: type[T], *, command: str, about: str) -> tuple[Run, T]:
    """The run of the recipe that `arguments` name first, under the flags that follow, and the command's options.

    Without `--out` its folder is `runs/RECIPE`. Raises InputError for an unknown recipe or flag."""
    name, flags = named_recipe(arguments, command=command, about=about)
    run = recipe(name)
    if not isinstance(run, Run):
        raise InputError(f"recipe '{name}' is a pipeline: `shardyard train {name}` prepares what its steps need.")
    return parse_run(
        dataclasses.replace(run, out=default_out(name)),
        flags,
        options,
        command=f"{command} {name}",
        about=about,
        example=f"shardyard {command} {name} {_example(command, parted=hasattr(run.workload, 'partitioner'))}",
    )


def named_recipe(arguments: Sequence[str], *, command: str, about: str) -> tuple[str, Sequence[str]]:
    """The name of the recipe, which comes first, and the flags behind it. Prints help where that is asked for.

    Raises InputError where there is no name."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_recipes_help(command, about))
        raise SystemExit(0)
    return _first(arguments, "recipe", f"shardyard {command} RECIPE [FLAGS]")


def default_out(name: str) -> str:
    """The folder of what a recipe makes, where nobody names another."""
    return f"runs/{name.replace(':', '.')}"


def from_folder(
    arguments: Sequence[str],
    options: type[T],
    *,
    command: str,
    about: str,
    example: str,
    unused: Sequence[str] = (),
) -> tuple[Run, T]:
    """The run that the folder named first is of; the flags that follow may change where it runs, not what it learned.

    `unused`: further fields of the run that mean nothing to the command.
    With the flag `--trust`, of FolderOptions, the folder may name modules of no installed plug-in.
    Raises StoreError for a folder without a run, InputError for a flag that changes what was learned."""
    if arguments[:1] in (["-h"], ["--help"]):
        parse_run(
            None,
            ["--help"],
            options,
            command=f"{command} RUN_FOLDER",
            about=f"{about} The folder's own help lists the flags of its workload too, such as --parts.",
            example=example,
            hidden=[*_OF_TRAINING, *unused, "workload"],
            learned="RUN_FOLDER",
        )
    name, flags = _first(arguments, "run's folder", f"shardyard {command} RUN_FOLDER [FLAGS]")
    trusted = "--trust" in flags  # asked before the flags, which depend on the run
    earlier = _read(Path(name), trusted)
    if not trusted:  # a stranger's folder joins no cluster, and does not say how many processes are started
        earlier = dataclasses.replace(earlier, launcher=None, workers=1)
    earlier = dataclasses.replace(earlier, out=name)  # the folder may have been moved since
    earlier = dataclasses.replace(earlier, store=known_store(earlier))
    return parse_run(
        earlier,
        flags,
        options,
        command=f"{command} {name}",
        about=about,
        example=example,
        hidden=[*_OF_TRAINING, *unused],
        learned=name,
    )


def recipe(name: str) -> Run | Pipeline:
    """The run, or the pipeline, that a recipe returns. Raises InputError where it fails or returns something else."""
    function = RECIPES.get(name)
    try:
        made = function()
    except TypeError as error:
        raise InputError(f"recipe '{name}' cannot be called without arguments: {error}") from error
    if not isinstance(made, Run | Pipeline):
        raise InputError(
            f"recipe '{name}' returned a {type(made).__name__}; expected a framework.engine.run.Run or a "
            "framework.engine.pipeline.Pipeline."
        )
    return made


def require_file(out: Path | None) -> None:
    """Raises InputError where `--out` names no file that could be written, before anything is computed for it."""
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"--out is '{out}', but there is no folder '{out.parent}'; make it first.")
    if out is not None and out.is_dir():
        raise InputError(f"--out is '{out}', which is a folder; expected the name of a file.")


def _is_pipeline(name: str) -> bool:
    """Whether a recipe says that it returns a pipeline; none is called for that."""
    return getattr(RECIPES.get(name), "__annotations__", {}).get("return") is Pipeline


def _example(command: str, *, parted: bool) -> str:
    """Flags for the example in help; `parted`: whether it is of a workload that has its data partitioned."""
    if command == "prepare":
        return "--partitioner random --parts 8" if parted else "--launcher ray"
    return f"--workers 2 {'--partitioner random --parts 8' if parted else '--epochs 3'}"


def _refuse_pipeline(folder: Path) -> None:
    """Raises InputError for the folder of a pipeline, with the runs in it."""
    if (folder / PIPELINE).exists():
        runs = ", ".join(f"'{run.parent}'" for run in sorted(folder.glob(f"*/{RUN}"))) or "none yet"
        raise InputError(f"'{folder}' is the folder of a pipeline; give that of one of its runs: {runs}.")


def _read(folder: Path, trusted: bool) -> Run:
    """The run of a folder. Raises StoreError, or InputError for a path that cannot be looked at."""
    try:
        _refuse_pipeline(folder)
        return read_run(folder, trusted=trusted)
    except OSError as error:
        raise InputError(f"'{str(folder)[:200]}' cannot be read: {error.strerror}.") from error


def _first(arguments: Sequence[str], what: str, usage: str) -> tuple[str, Sequence[str]]:
    """The argument that has to come first, and the others."""
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"name the {what} first: {usage}")
    return arguments[0], arguments[1:]


def _recipes_help(command: str, about: str) -> str:
    walks = command == "train"  # no other command takes a pipeline
    recipes = [f"  {one.name:12}  {one.summary}" for one in RECIPES.entries() if walks or not _is_pipeline(one.name)]
    return "\n".join(
        [
            f"usage: shardyard {command} RECIPE [FLAGS]",
            "",
            about,
            "",
            f"Recipes (or your own `module:function` that returns a run{' or a pipeline' if walks else ''}):",
            *recipes,
            "",
            f"`shardyard {command} RECIPE --help` lists the flags: every field of its run"
            f"{', or its steps' if walks else ''}.",
            f"Example: shardyard {command} sage-debian {_example(command, parted=True)}",
        ]
    )

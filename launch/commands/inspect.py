"""`shardyard inspect`: what a shard store, a collection of graphs, a checkpoint or a run's folder holds."""

import dataclasses
from pathlib import Path

import tyro

from launch import tables, usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Say what a shard store, a collection of graphs, a checkpoint or a run's folder holds."""

    path: tyro.conf.Positional[Path]
    """The folder."""
    verify: bool = False
    """Read every byte and compare it with its digest; the exit code is 2 where one differs."""
    json: bool = False
    """Print {kind, path, facts, parts, verified}."""


def command(arguments: list[str]) -> int:
    """Prints what was found."""
    flags = usage.parse(Flags, arguments, command="inspect", example="shardyard inspect runs/sage-debian --verify")
    from launch.inspect import inspect  # imports torch: after the flags, so that help comes at once

    found = inspect(flags.path, verify=flags.verify)
    if flags.json:
        tables.show_json(dataclasses.asdict(found))
        return 0
    verified = {"verified": "every byte is as it was written"} if flags.verify else {}
    tables.facts({**found.facts, **verified}, title=f"{found.kind} {found.path}")
    if found.parts:
        tables.show(list(found.parts[0]), [list(part.values()) for part in found.parts])
    return 0

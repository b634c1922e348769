"""`shardyard list`: the kinds of plug-ins, or the plug-ins of one kind."""

import dataclasses
import difflib
from typing import Annotated

import tyro

from framework.errors import InputError
from framework.registry import REGISTRIES, Registry
from launch import tables, usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """List the plug-ins of a kind, built-in and installed; without a kind, list the kinds."""

    kind: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="KIND")] = None
    """For example `partitioners`."""
    json: bool = False
    """Print a list of {name, module, summary, fields}."""


def command(arguments: list[str]) -> int:
    """Prints the table or the JSON list."""
    flags = usage.parse(Flags, arguments, command="list", example="shardyard list partitioners --json")
    if flags.kind is None:
        kinds = [{"kind": f"{kind}s", "entry_point_group": registry.group} for kind, registry in REGISTRIES.items()]
        if flags.json:
            tables.show_json(kinds)
        else:
            tables.show(["kind", "entry points of packages"], [list(kind.values()) for kind in kinds])
        return 0
    entries = registry_called(flags.kind).entries()
    if flags.json:
        tables.show_json([dataclasses.asdict(entry) for entry in entries])
        return 0
    rows = [
        [entry.name, entry.summary, ", ".join(f"{name}={value}" for name, value in entry.fields.items()), entry.module]
        for entry in entries
    ]
    tables.show(["name", "summary", "fields", "module"], rows)
    return 0


def registry_called(kind: str) -> Registry:
    """The registry of `partitioners` or `partitioner`. Raises InputError with the nearest kind."""
    for name in (kind, kind.removesuffix("s")):
        if name in REGISTRIES:
            return REGISTRIES[name]
    known = [f"{name}s" for name in REGISTRIES]
    near = difflib.get_close_matches(kind, known, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    raise InputError(f"there is no kind of plug-in '{kind}'.{guess} Kinds: {', '.join(known)}.")

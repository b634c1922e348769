"""`shardyard check`: the conformance suite over a plug-in, and its quality beside the built-ins'."""

import dataclasses

from framework.errors import InputError
from launch import tables
from launch.commands.list import registry_called

_USAGE = """usage: shardyard check partitioner NAME|MODULE:CLASS [FLAGS]

Run the conformance suite over a plug-in; the exit code is 1 where a check fails. Its settings are flags.

Example: shardyard check partitioner my_package:Mine --seed 3"""

_QUALITY = (
    *("cut_ratio", "replication_factor", "communication_volume"),
    *("node_balance", "edge_balance", "halo_share", "seconds"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Run the conformance suite over a plug-in."""

    json: bool = False
    """Print {name, passed, checks, qualities} as JSON, and nothing else."""


def command(arguments: list[str]) -> int:
    """Prints what was checked."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return 0
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise InputError("check needs a kind and a plug-in: shardyard check partitioner MODULE:CLASS")
    kind, name, *flags = arguments
    registry = registry_called(kind)

    from framework.conformance import check_partitioner  # slow to import, as what follows it is
    from framework.registry import PARTITIONERS
    from launch.arguments import parse_plugin
    from launch.plugins import chosen

    if registry is not PARTITIONERS:
        raise InputError(f"there is no conformance suite for a {registry.kind}; expected: partitioner.")
    plugin, options = parse_plugin(
        chosen(registry, name),
        None,
        flags,
        Options,
        command=f"check {registry.kind} {name}",
        example=f"shardyard check {registry.kind} {name} --json",
        about="Run the conformance suite over a plug-in; its settings are flags.",
    )
    report = check_partitioner(plugin)
    if options.json:
        tables.show_json({**dataclasses.asdict(report), "passed": report.passed})
        return 0 if report.passed else 1
    words = {True: "passed", False: "FAILED"}
    tables.show(["check", "", ""], [[check.name, words[check.passed], check.detail] for check in report.checks])
    if report.qualities:
        rows = [[rated.name, rated.kind, *_figures(rated.quality)] for rated in report.qualities]
        tables.show(["partitioner", "kind", *_QUALITY], rows)
    return 0 if report.passed else 1


def _figures(quality: object) -> list[float]:
    return [getattr(quality, name) for name in _QUALITY]

"""`shardyard prepare`: a recipe's data, written as training reads it, a graph as shards; without training."""

import dataclasses

from launch import tables
from launch.commands.runs import from_recipe
from launch.prepared import prepared_data
from launch.progress import showing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Prepare a recipe's data."""

    json: bool = False
    """Print path, digest, seconds and quality as JSON, and nothing else."""


def command(arguments: list[str]) -> int:
    """Prepares; at once where the store is there already."""
    about = (
        "Write a recipe's data beneath --store, as training reads it and then finds it: a graph is cut into shards by "
        "its partitioner, small graphs, images and sentences become a store of mapped files."
    )
    run, options = from_recipe(arguments, Options, command="prepare", about=about)
    with showing(script=options.json) as show:
        prepared = prepared_data(run, show)
    facts = dict(prepared.facts)
    quality = facts.pop("quality", {})
    shown = {"path": str(prepared.path), "data_digest": prepared.data_digest, "seconds": prepared.seconds, **facts}
    if options.json:
        tables.show_json({**shown, "quality": quality})
    else:
        tables.facts(shown)
        if quality:
            tables.facts(quality, title="quality of the partition")
    return 0

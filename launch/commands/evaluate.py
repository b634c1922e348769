"""`shardyard evaluate`: the metrics of a trained run, measured again, perhaps on another number of workers."""

from launch import tables
from launch.commands.runs import FolderOptions, from_folder
from launch.prepared import known_data
from launch.progress import showing
from launch.start import start


def command(arguments: list[str]) -> int:
    """Prints the metrics."""
    from framework.engine.evaluate import evaluate

    run, options = from_folder(
        arguments,
        FolderOptions,
        command="evaluate",
        about="Measure the trained weights of a run again; flags may change where it runs and what they are asked.",
        example="shardyard evaluate runs/sage-debian --workers 2",
    )
    with showing(script=options.json) as show:
        answer = start(run, show, main=evaluate, preparing=known_data)
    if options.json:
        tables.show_json(answer)
    else:
        tables.facts({**answer["metrics"], "weights": answer["weights_digest"][:16]})
    return 0

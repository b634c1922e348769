"""`shardyard predict`: what a trained run says of every sample, as a Parquet file."""

import dataclasses
import shutil
from pathlib import Path
from typing import Annotated

from framework.errors import InputError
from launch import tables, usage
from launch.commands.runs import FolderOptions, from_folder, require_file
from launch.prepared import known_data
from launch.progress import showing
from launch.start import start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Write a run's classes or embeddings to a Parquet file."""

    out: Path | None = None
    """The file to write. Without it: predictions.parquet or embeddings.parquet in the run's folder."""
    embeddings: bool = False
    """Embeddings (columns id, embedding) instead of classes (id, class, score, class_name)."""
    folder: Annotated[FolderOptions, usage.INLINE] = FolderOptions()
    """What every command on a run's folder takes."""


def command(arguments: list[str]) -> int:
    """Writes the file and prints where it is."""
    from framework.engine import evaluate

    run, options = from_folder(
        arguments,
        Options,
        command="predict",
        about="Write what a trained run says of every sample to a Parquet file.",
        example="shardyard predict runs/sage-debian --out classes.parquet",
    )
    if options.out is not None and options.out.suffix != ".parquet":
        raise InputError(f"--out is '{options.out}'; expected a name that ends in .parquet.")
    require_file(options.out)
    into_folder = evaluate.embed if options.embeddings else evaluate.predict
    apart = evaluate.embed_apart if options.embeddings else evaluate.predict_apart
    with showing(script=options.folder.json) as show:
        answer = start(run, show, main=apart if options.out else into_folder, preparing=known_data)
    if options.out is not None:
        _moved(_here(answer["path"]), options.out)
    written = {"path": str(options.out or answer["path"]), "rows": answer["rows"], "columns": list(answer["columns"])}
    if options.folder.json:
        tables.show_json(written)
    else:
        tables.facts({**written, "columns": ", ".join(written["columns"])})
    return 0


def _moved(written: str, target: Path) -> None:
    """Moves a file, which replaces what is there when it is whole. Raises InputError for a disk that takes no more."""
    torn = target.with_name(f".{target.name}.torn")
    try:
        shutil.move(written, torn)
        torn.replace(target)
    except OSError as error:
        if not Path(written).exists():  # only the new name could not be given
            shutil.move(torn, written)
        torn.unlink(missing_ok=True)
        raise InputError(f"'{target}' cannot be written: {error.strerror}. It is in '{written}'.") from error


def _here(path: str) -> str:
    """A file that the first worker wrote. Raises InputError where that was on another host."""
    if not Path(path).exists():
        raise InputError(f"the first worker wrote '{path}' on its own host; leave --out away and fetch it there.")
    return path

"""`shardyard translate`: sentences of one's own, translated by a trained run, a line for a line."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

from framework.errors import InputError
from launch import tables, usage
from launch.commands.runs import FolderOptions, from_folder, require_file
from launch.prepared import known_data, launcher_of
from launch.progress import showing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Translate sentences, a line each."""

    text: Path | None = None
    """The file of sentences, plain or .gz. Without it: what comes by standard input, to its end."""
    out: Path | None = None
    """The file to write. Without it: standard output."""
    folder: Annotated[FolderOptions, usage.INLINE] = FolderOptions()
    """What every command on a run's folder takes."""


def command(arguments: list[str]) -> int:
    """Writes as many lines as it reads: a blank one stays blank."""
    from framework.engine.files import replacing
    from framework.samples.pairs import PairStore
    from framework.workloads.translate import require_translator, translate

    run, options = from_folder(
        arguments,
        Options,
        command="translate",
        about="Translate sentences of your own, a line each, by the weights of a trained run.",
        example="shardyard translate runs/transformer-multi30k --text captions.en --out captions.de",
        unused=("workers", "device", "deadline"),  # the launcher's mapper translates: threads, or actors of a cluster
    )
    require_translator(run)
    require_file(options.out)
    sentences = _sentences(options.text)
    with showing(script=True) as show:
        vocabulary = PairStore.open(known_data(run, show).path).vocabulary()
        found = translate(run, vocabulary, sentences, launcher_of(run).mapper(), show)
    if options.folder.json:
        rows = zip(sentences, found, strict=True)
        answer = [{"source": source, "translation": each.text, "score": each.score} for source, each in rows]
        tables.show_json(answer)
    lines = "".join(f"{each.text}\n" for each in found)
    if options.out is not None:
        with replacing(options.out) as torn:
            torn.write_text(lines, encoding="utf-8")
    elif not options.folder.json:
        sys.stdout.write(lines)
        sys.stdout.flush()
    return 0


def _sentences(path: Path | None) -> list[str]:
    """The lines of a file, or of standard input. Raises InputError for one that cannot be read, or is not UTF-8."""
    from framework.data.parallel_text import lines_in, read_lines

    if path is not None:
        return read_lines(path)
    if sys.stdin is None:
        raise InputError("standard input is closed; name a file of sentences by --text.")
    return lines_in(sys.stdin.buffer.read(), "standard input")

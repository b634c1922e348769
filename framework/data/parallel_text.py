"""Pairs of sentences in text files: two files a split, line by line; or one table with a column a language.

Assumptions: files are UTF-8, with a byte order mark or without, plain or gzip (a name that ends in .gz); a line ends
with a line feed, and nothing else ends one.
"""

import codecs
import dataclasses
import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from framework import config
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.fingerprint import fingerprint
from framework.data.pair_sets import PairSet, RawPairs, without_blanks
from framework.errors import InputError
from framework.registry import PAIR_SETS

MULTI30K, EN_DE = "SHARDYARD_MULTI30K", "SHARDYARD_EN_DE"
"""The environment variables that say where Multi30k's folder, and a table of English and German, are."""
_MULTI30K, _EN_DE = "multi30k", "en-de.tsv.gz"


@PAIR_SETS.register("parallel-text")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelText:
    """Two files of lines for every split, as Multi30k has them: `train.en.gz` and `train.de.gz`."""

    folder: str = config.placement("")
    """Where the files are. Empty: $SHARDYARD_MULTI30K, else ./multi30k."""
    source: str = "en"
    """The language that is translated from: how the files' names end, but for `.gz`."""
    target: str = "de"
    """The language that is translated to."""
    train: str = "train"
    """What the names of the files to train on begin with."""
    validation: str = "val"
    """Those to validate on. Empty: none."""
    test: str = "test_2016_flickr"
    """Those to test on. Empty: none."""

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise InputError(
                f"--data.source and --data.target are both '{self.source}'; expected two languages: name "
                "the other one, too."
            )

    def fingerprint(self) -> str:
        """Digest of the settings and of the files' content. Raises InputError for a file that is not there."""
        return fingerprint(
            config.encode(self, result_only=True), files=[file for _, _, *pair in self._files() for file in pair]
        )

    def open(self) -> RawPairs:
        """The pairs, an id being `train-0000001` for the first line of `train`.

        Raises InputError for files that are not UTF-8, or have unlike numbers of lines."""
        source: list[str] = []
        target: list[str] = []
        split: list[int] = []
        ids: list[str] = []
        for name, value, source_file, target_file in self._files():
            lines = [[line.strip() for line in read_lines(file)] for file in (source_file, target_file)]
            if len(lines[0]) != len(lines[1]):
                raise InputError(
                    f"'{source_file}' has {len(lines[0])} lines and '{target_file}' {len(lines[1])}; expected as many, "
                    "each the translation of the other's."
                )
            source += lines[0]
            target += lines[1]
            split += [value] * len(lines[0])
            ids += [f"{name}-{line + 1:07d}" for line in range(len(lines[0]))]
        return without_blanks(
            RawPairs(
                source=pa.array(source, pa.string()),
                target=pa.array(target, pa.string()),
                split=np.array(split, dtype=np.uint8),
                ids=np.array(ids),
            )
        )

    def origin(self) -> PairSet:
        """This set."""
        return self

    def _files(self) -> list[tuple[str, int, Path, Path]]:
        """Name and value of every split, and its two files. Raises InputError."""
        folder = Path(self.folder or os.environ.get(MULTI30K) or _MULTI30K)
        names = ((self.train, TRAIN), (self.validation, VALIDATION), (self.test, TEST))
        return [
            (name, value, _found(folder, f"{name}.{self.source}"), _found(folder, f"{name}.{self.target}"))
            for name, value in names
            if name
        ]


@PAIR_SETS.register("tab-separated")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TabSeparated:
    """A table of sentences, a line a pair and a tab between columns; a hash of the source sentence draws the split."""

    path: str = config.placement("")
    """The file. Empty: $SHARDYARD_EN_DE, else ./en-de.tsv.gz."""
    source_column: int = 0
    """The column that is translated from, the first being 0."""
    target_column: int = 1
    """The column that is translated to."""
    shares: tuple[float, float] = (0.98, 0.01)
    """Shares of sentences to train and to validate on, about; the rest are for testing. All pairs of a source sentence
    are for the same, whatever its spaces and capitals."""

    def __post_init__(self) -> None:
        columns = self.source_column, self.target_column
        if min(columns) < 0 or columns[0] == columns[1]:
            raise InputError(f"--data.source-column and .target-column are {columns}; expected two, from 0 on.")
        training, validation = self.shares
        if training < 0 or validation < 0 or training + validation > 1:
            raise InputError(f"--data.shares is {training}, {validation}; expected at least 0 each, at most 1 in all.")

    def fingerprint(self) -> str:
        """Digest of the settings and of the file's content. Raises InputError where it is not there."""
        return fingerprint(config.encode(self, result_only=True), files=[self._file()])

    def open(self) -> RawPairs:
        """The pairs, an id being the number of the line, from 1. Raises InputError for a file that is not UTF-8, or a
        line that lacks a column."""
        file = self._file()
        rows = [line.split("\t") for line in read_lines(file)]
        needed = max(self.source_column, self.target_column) + 1
        short = next((number for number, row in enumerate(rows, 1) if len(row) < needed), None)
        if short is not None:
            raise InputError(
                f"'{file}' has {len(rows[short - 1])} columns in line {short}; expected at least {needed}."
            )
        source = [row[self.source_column].strip() for row in rows]
        return without_blanks(
            RawPairs(
                source=pa.array(source, pa.string()),
                target=pa.array([row[self.target_column].strip() for row in rows], pa.string()),
                split=np.array([self._split_of(sentence) for sentence in source], dtype=np.uint8),
                ids=np.arange(1, len(rows) + 1),
            )
        )

    def origin(self) -> PairSet:
        """This set."""
        return self

    def _split_of(self, sentence: str) -> int:
        spelled = " ".join(sentence.split()).casefold()
        draw = int.from_bytes(hashlib.sha256(spelled.encode()).digest()[:6], "big") / 2**48
        training, validation = self.shares
        return TRAIN if draw < training else VALIDATION if draw < training + validation else TEST

    def _file(self) -> Path:
        path = Path(self.path or os.environ.get(EN_DE) or _EN_DE)
        if not path.is_file():
            raise InputError(f"the table '{path}' is not there; name it by --data.path or ${EN_DE}.")
        return path


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or gzip, without a carriage return at their ends, nor a mark of the byte order.

    Raises InputError for a file that cannot be read, was cut short, or is not UTF-8: then it names the line."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' cannot be read ({error}): it may be cut short. Fetch it again.") from error
    return lines_in(data, f"'{path}'")


def lines_in(data: bytes, named: str) -> list[str]:
    """The lines of a text, as `read_lines`. Raises InputError, which calls it `named`, where it is not UTF-8."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{named} is not UTF-8 in line {line}; convert it, for instance by iconv.") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _found(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise InputError(
        f"'{folder / name}' is not there, and '{name}.gz' neither; name the folder by --data.folder or ${MULTI30K}."
    )

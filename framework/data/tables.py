"""Columns of one raw file, in batches: Parquet, CSV, TSV (plain or compressed), and edges in NPY and NPZ.

Assumptions: CSV and TSV files begin with a row of column names; a file is read from its start to its end, and never
held as a whole. A column keeps the type the file gives it; in CSV and TSV the reader says one, or it is guessed from
the first megabyte.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from framework.data.npz import read_archive, read_array
from framework.errors import InputError

_DELIMITERS = {"csv": ",", "tsv": "\t"}
EDGE_FORMATS = ("parquet", "csv", "tsv", "npz", "npy")


def has_types(path: Path) -> bool:
    """Whether a file says of what type its columns are, as all but CSV and TSV do. Raises InputError for no format."""
    return _format(path) not in _DELIMITERS


def read_table(
    path: Path, columns: Sequence[str], batch_size: int, *, types: Mapping[str, pa.DataType] | None = None
) -> Iterator[pa.RecordBatch]:
    """The columns of a table, in the order asked for. `types`: what columns of CSV and TSV are; others are guessed.

    Raises InputError for a file that is missing, cut short or of no known format, for a column that it does not have,
    and for a value of CSV or TSV that is not of its column's type."""
    kind = _format(path)
    with _errors_named(path):
        if kind == "parquet":
            with parquet.ParquetFile(path) as file:
                _check_columns(path, file.schema_arrow.names, columns)
                for batch in file.iter_batches(batch_size, columns=list(columns)):
                    yield batch.select(list(columns))
        elif kind in _DELIMITERS:
            parsing = csv.ParseOptions(delimiter=_DELIMITERS[kind])
            with csv.open_csv(path, parse_options=parsing) as reader:
                _check_columns(path, reader.schema.names, columns)
            converting = csv.ConvertOptions(column_types=types, include_columns=list(dict.fromkeys(columns)))
            with csv.open_csv(path, parse_options=parsing, convert_options=converting) as reader:
                for batch in reader:
                    yield from _cut(batch.select(list(columns)), batch_size)
        else:
            raise InputError(f"'{path}' is no table; expected a name that ends in .parquet, .csv or .tsv.")


def read_edges(path: Path, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    """Source, target and perhaps a weight: as `read_table`, ids in CSV and TSV as text; or an .npy file [E, 2] or
    [2, E]; or an .npz file with `edge_index` [2, E], the weight an array [E] under its name."""
    kind = _format(path)
    if kind not in ("npy", "npz"):
        types = {**dict.fromkeys(columns[2:], pa.float64()), **dict.fromkeys(columns[:2], pa.string())}
        yield from read_table(path, columns, batch_size, types=types)
        return
    if kind == "npy":
        edges = read_array(path)
        edges = edges.T if edges.ndim == 2 and edges.shape[1] == 2 else edges
        arrays = {}
    else:
        arrays = read_archive(path)
        _check_columns(path, list(arrays), ["edge_index"])
        edges = arrays["edge_index"]
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise InputError(f"'{path}' holds {edges.dtype} {edges.shape}; expected whole numbers, [E, 2] or [2, E].")
    _check_columns(path, list(arrays), columns[2:])
    for name in columns[2:]:
        if arrays[name].shape != edges.shape[1:] or arrays[name].dtype.kind not in "biuf":
            raise InputError(
                f"'{path}' has {arrays[name].dtype} {arrays[name].shape} as '{name}'; expected numbers "
                f"{edges.shape[1:]}, one an edge."
            )
    values = [edges[0], edges[1], *(arrays[name] for name in columns[2:])]
    for start in range(0, edges.shape[1], batch_size):
        batch = [pa.array(np.ascontiguousarray(value[start : start + batch_size])) for value in values]
        yield pa.record_batch(batch, names=list(columns))


def _format(path: Path) -> str:
    """The first ending that says what a file is: `graph.csv.gz` is CSV."""
    known = [suffix[1:].lower() for suffix in path.suffixes if suffix[1:].lower() in EDGE_FORMATS]
    if not known:
        raise InputError(f"'{path}' is of no known format; expected a name that ends in .{', .'.join(EDGE_FORMATS)}.")
    return known[-1]


def _cut(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(batch), size):
        yield batch.slice(start, size)


def _check_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(f"'{path}' has no column '{missing[0]}'; it has {', '.join(there)}. Say which one is meant.")
    twice = [name for name in wanted if list(there).count(name) > 1]
    if twice:
        raise InputError(f"'{path}' has several columns '{twice[0]}'; expected one of that name.")


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"'{path}' is missing. Name a file that is there.") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        if "conversion error" in reason:
            raise InputError(
                f"'{path}' has a value that is not of the type of its column ({reason}). Mend that value, or the "
                "column's; or export it as Parquet, where every column says its type."
            ) from error
        raise InputError(f"'{path}' cannot be read ({reason}): it may be cut short. Export it again.") from error

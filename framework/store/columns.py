"""One column of a shard as one Arrow IPC file, mapped into torch without a copy.

Assumptions: a file holds one record batch of one column, uncompressed, whose values begin at a multiple of 64 bytes.
Arrow's own writer aligns buffers to 8 bytes only; a column a file leaves the header as the one thing to pad, and lets
columns of unlike lengths (nodes, edges, halo) live side by side. Any Arrow reader opens these files.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from framework.errors import StoreError

ALIGNMENT = 64
"""Of the values of a column, in bytes from the start of the file (and so of the mapping)."""
REMEDY = "Remove the store's folder and prepare it again."
"""What to do about a damaged store: it can always be made again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What the manifest knows of one file."""

    bytes: int
    """Its size."""
    sha256: str
    """Its digest, 64 hex digits."""

    @classmethod
    def of(cls, path: Path) -> "FileFacts":
        """The facts of the file as it is now: reads every byte."""
        with path.open("rb") as file:
            return cls(bytes=os.fstat(file.fileno()).st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def column_file(store: Path, part: int, column: str) -> Path:
    """Where a store keeps a column of a part."""
    return store / part_folder(part) / f"{column}.arrow"


def part_folder(part: int) -> str:
    """What the path of a part's files, inside the store, begins with."""
    return f"part-{part:05d}/"


def write_column(path: Path, values: NDArray[Any] | pa.Array) -> FileFacts:
    """Writes `values` ([n], or [n, columns] as lists of a fixed size) to the new file `path`.

    Raises OSError where the disk does not take it."""
    column = _as_arrow(values)
    schema = _aligned_schema(column)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    return FileFacts.of(path)


def read_column(path: Path) -> pa.Array:
    """The column of a file, its buffers in the mapped file. Raises StoreError for a missing or damaged file."""
    with _damage_named(path):
        column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)
        column.validate()
        return column


def map_column(path: Path) -> Tensor:
    """The column of a file as a tensor over the mapped file: [n], or [n, columns]. Raises as `read_column`."""
    column = read_column(path)
    with _damage_named(path):
        if isinstance(column, pa.FixedSizeListArray):
            return from_dlpack(column.flatten()).view(len(column), column.type.list_size)
        return from_dlpack(column)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"'{path}' is missing. {REMEDY}") from error
    except (OSError, ValueError, IndexError, RuntimeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise StoreError(
            f"'{path}' cannot be read as an Arrow file ({reason}): it was cut short or altered. {REMEDY}"
        ) from error


def _as_arrow(values: NDArray[Any] | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _aligned_schema(column: pa.Array) -> pa.Schema:
    """A schema of one column, its metadata padded until the first buffer of a batch falls on a multiple of ALIGNMENT.

    A batch of one row shows where: the header is as long whatever the number of rows, unless that is 0."""
    for padding in range(0, ALIGNMENT, 8):
        schema = pa.schema([pa.field("values", column.type)], metadata={"padding": "." * padding})
        batch = pa.record_batch([column[:1]], schema=schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)
            start = sink.tell() - pa.ipc.read_message(batch.serialize()).body.size
        if start % ALIGNMENT == 0:
            return schema
    raise AssertionError("Arrow no longer pads its messages to 8 bytes")

"""The user's table of nodes: raw ids, classes, split and feature columns, in the order of original ids.

Assumptions: one number or text a node fits in memory; feature columns are read in batches, as often as they are needed.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from numpy.typing import NDArray

from framework.data.dataset import NO_LABEL, NO_SPLIT, TEST, TRAIN, VALIDATION
from framework.data.dictionary import BLANKS, all_numbers, is_text, raw_ids
from framework.data.tables import has_types, read_table
from framework.errors import InputError
from framework.graph.edges import Ids

_SPLITS = {
    "": NO_SPLIT, "none": NO_SPLIT, "train": TRAIN, "training": TRAIN, "valid": VALIDATION, "val": VALIDATION,
    "validation": VALIDATION, "test": TEST, **{str(value): value for value in (NO_SPLIT, TRAIN, VALIDATION, TEST)},
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeTable:
    """A table with one row a node."""

    path: Path
    """A Parquet, CSV or TSV file."""
    id: str
    """The column of raw ids."""
    batch_size: int = 1 << 20
    """Rows read at once."""

    def ids(self) -> NDArray[Any]:
        """The raw ids: int64 [N] or text [N]. Raises InputError for a table without rows, or ids of another type."""
        where = f"'{self.path}'"
        numbers = None if has_types(self.path) else all_numbers(self._pieces(self.id, pa.string()), where)
        return raw_ids(self._column(self.id, pa.string()), where) if numbers is None else numbers

    def labels(self, column: str) -> tuple[Ids, tuple[str, ...]]:
        """Classes, int64 [N], and their names where the column holds names. Raises InputError for another type."""
        values = self._column(column)
        if pa.types.is_integer(values.type):
            with contextlib.suppress(pa.ArrowInvalid):
                return compute.fill_null(values.cast(pa.int64()), NO_LABEL).to_numpy(), ()
            raise InputError(
                f"column '{column}' of '{self.path}' holds {compute.max(values)}; expected classes, numbered from 0 on."
            )
        if is_text(values.type) or pa.types.is_dictionary(values.type):
            text = values.cast(pa.string())
            names = sorted(name for name in text.unique().to_pylist() if name)
            found = compute.fill_null(compute.index_in(text, pa.array(names, pa.string())), NO_LABEL)
            return found.to_numpy().astype(np.int64), tuple(names)
        raise InputError(f"column '{column}' of '{self.path}' is {values.type}; expected whole numbers or names.")

    def split(self, column: str) -> NDArray[np.uint8]:
        """What nodes are for, uint8 [N]. Raises InputError for a value that says nothing of the kind."""
        values = self._column(column, pa.string())
        if pa.types.is_integer(values.type):
            numbers = compute.fill_null(values, NO_SPLIT).to_numpy()
            unknown = sorted(set(np.unique(numbers).tolist()) - {NO_SPLIT, TRAIN, VALIDATION, TEST})
            split: NDArray[np.uint8] = numbers.astype(np.uint8)
        else:
            encoded = compute.fill_null(values.cast(pa.string()), "").dictionary_encode()
            words = ["" if word in BLANKS else word.strip().lower() for word in encoded.dictionary.to_pylist()]
            unknown = sorted(set(words) - _SPLITS.keys())
            split = np.asarray([_SPLITS.get(word, NO_SPLIT) for word in words], np.uint8)[encoded.indices.to_numpy()]
        if unknown:
            raise InputError(
                f"column '{column}' of '{self.path}' holds '{unknown[0]}'; expected train, validation, test or nothing."
            )
        return split

    def rows(self, columns: tuple[str, ...]) -> "TableRows":
        """Feature rows of columns of numbers."""
        return TableRows(table=self, columns=columns, num_nodes=sum(map(len, self._pieces(self.id, pa.string()))))

    def batches(self, columns: tuple[str, ...], type_: pa.DataType | None = None) -> Iterator[pa.RecordBatch]:
        """The columns, in batches; in CSV and TSV of the type `type_`, or of a guessed one."""
        types = dict.fromkeys(columns, type_) if type_ else None
        return read_table(self.path, columns, self.batch_size, types=types)

    def _pieces(self, name: str, type_: pa.DataType | None = None) -> Iterator[pa.Array]:
        """A column, in batches. Raises InputError for a table without rows."""
        rows = 0
        for batch in self.batches((name,), type_):
            rows += len(batch)
            yield batch.column(0)
        if not rows:
            raise InputError(f"'{self.path}' has no rows; expected one a node.")

    def _column(self, name: str, type_: pa.DataType | None = None) -> pa.Array:
        return pa.chunked_array(list(self._pieces(name, type_))).combine_chunks()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableRows:
    """Feature columns of a table of nodes; a missing value is NaN."""

    table: NodeTable
    """The table."""
    columns: tuple[str, ...]
    """The columns, in the order of the features."""
    num_nodes: int
    """Rows of the table."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of nodes, number of columns."""
        return self.num_nodes, len(self.columns)

    def batches(self) -> Iterator[NDArray[Any]]:
        """float32 [batch, columns]. Raises InputError for a column of another type than numbers."""
        for batch in self.table.batches(self.columns, pa.float64()):
            for name, column in zip(self.columns, batch.columns, strict=True):
                if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                    raise InputError(
                        f"column '{name}' of '{self.table.path}' is {column.type}; expected numbers for a feature."
                    )
            values = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
            yield np.stack(values, axis=1).astype(np.float32)

"""Arrays as files of a folder, one a column, and values that are nothing but arrays."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from framework.store.columns import read_column, write_column

T = TypeVar("T")


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes a file an array into `folder`. Raises OSError."""
    for name, values in arrays.items():
        write_column(folder / f"{name}.arrow", values)


def read_arrays(folder: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of those names that were written to `folder`, mapped. Raises StoreError."""
    return {name: read_column(folder / f"{name}.arrow").to_numpy() for name in names}


def write_fields(folder: Path, value: Any) -> None:
    """Writes a dataclass whose fields are arrays into `folder`. Raises OSError."""
    write_arrays(folder, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


def read_fields(folder: Path, kind: type[T]) -> T:
    """The value of the dataclass `kind` that was written to `folder`, mapped. Raises StoreError."""
    return kind(**read_arrays(folder, [field.name for field in dataclasses.fields(kind)]))  # type: ignore[arg-type]

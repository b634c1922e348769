"""What a model made of sentences, as files in a product's folder: one text for every pair that was translated.

Assumption: a pair is known by its number in the prepared set that was translated.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from framework.store.columns import read_column, write_column

LEFT_OUT = "left_out"
"""Of the product's facts: how many sentences of the split were not translated."""
_COLUMNS = ("samples", "text", "scores")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Translations of n sentences."""

    samples: NDArray[np.int64]
    """The pairs' numbers, ascending: [n]."""
    texts: pa.Array
    """What each became: text [n]."""
    scores: NDArray[np.float64]
    """The mean log-probability of its tokens: [n]."""


def write_decoded(folder: Path, samples: Sequence[int], texts: Sequence[str], scores: Sequence[float]) -> None:
    """Writes the files into `folder`, in the order of the pairs' numbers. Raises OSError."""
    numbers = np.asarray(samples, dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    columns = (
        numbers[order],
        pa.array([texts[row] for row in order], pa.large_string()),  # of more than 2 GiB, too
        np.asarray(scores, dtype=np.float64)[order],
    )
    for name, values in zip(_COLUMNS, columns, strict=True):
        write_column(folder / f"{name}.arrow", values)


def read_decoded(folder: Path) -> Decoded:
    """The files of a folder, mapped. Raises StoreError for one that is missing or damaged."""
    samples, texts, scores = (read_column(folder / f"{name}.arrow") for name in _COLUMNS)
    return Decoded(samples=samples.to_numpy(), texts=texts, scores=scores.to_numpy())

"""What one pass over a piece of a bitext finds: expected counts, and how likely the piece was."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Expected counts of a piece, under the model that it was read with."""

    types: Floats
    """How often each of the piece's pairs of types is linked: float64 [types]."""
    jumps: Floats
    """How often a link is so far from the one before it: float64 [2 * longest + 1], the distance 0 in the middle."""
    departures: Floats
    """How often a link in a sentence of I source tokens was preceded by one to its m-th, 0 for none before it:
    float64 [longest + 1 (I), longest + 1 (m)]."""
    log_likelihood: float
    """Of the target sentences, given the source sentences. Natural logarithm."""


def totals(places: NDArray[np.integer[Any]], values: Floats, number: int) -> Floats:
    """The sums of the values of each place: float64 [number], added in their order."""
    sums: Floats = np.bincount(places, values, minlength=number)  # type: ignore[assignment]  # of weights it is float64
    return sums


def no_jumps(longest: int) -> tuple[Floats, Floats]:
    """Jumps and departures, none counted yet; `longest`: tokens of the longest source sentence."""
    return np.zeros(2 * longest + 1), np.zeros((longest + 1, longest + 1))

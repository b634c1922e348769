"""How far a link is from the one before it: the transitions of the HMM aligner, and how they are learned.

Assumptions: with a sentence of I source tokens, the next link goes from place m (1 to I, or 0 before the first link) to
place i with probability c(i - m) / sum of c over the I places that it could go to (Vogel et al., COLING 1996). That
sum is over another window of c for every I and m, so relative counts would not be the best c, and the likelihood could
fall. The step here is that of Hunter ("MM algorithms for generalized Bradley-Terry models", Annals of Statistics 32,
2004) for choices out of subsets: it never falls.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from framework.lexicon.counts import Floats

LEAST = 1e-9
"""The weight, against 1 of all, of a jump that training did not see: so that no sentence is impossible."""
_FLOOR = 1e-290  # of a weight: nothing to any other, but a window of nothing else has a sum that can be divided by
_STEPS = 4  # of the maximisation: each raises the likelihood, more would raise it little


def even_jumps(longest: int) -> Floats:
    """Weights by which every jump is as likely: float64 [2 * longest + 1], the distance 0 in the middle."""
    return np.full(2 * longest + 1, 1 / (2 * longest + 1))


def transitions(weights: Floats, length: int) -> Floats:
    """The probability of every next place, from every place: float64 [length + 1 (m), length (i from 1)].

    `weights` may be of shorter sentences: what they do not have weighs LEAST."""
    windows = _windows(_reaching(weights, length), length)
    chances: Floats = windows / windows.sum(axis=1, keepdims=True)
    return chances


def learned(weights: Floats, jumps: Floats, departures: Floats) -> Floats:
    """Weights that make expected counts likelier than `weights` do, or as likely; they add up to 1, and none is 0."""
    longest = len(weights) // 2
    for _ in range(_STEPS):
        chances = np.zeros_like(weights)
        for length in range(1, longest + 1):
            left = departures[length, : length + 1]
            if not left.any():
                continue
            ratios = left / _windows(weights, length).sum(axis=1)
            # Window m has the jumps 1 - m to length - m, so each jump collects the ratios of a run of windows.
            first = longest + 1 - length
            chances[first : first + 2 * length] += np.convolve(ratios[::-1], np.ones(length))
        seen = chances > 0
        weights = np.where(seen, jumps / np.where(seen, chances, 1.0), weights)
        weights = np.maximum(weights / weights.sum(), _FLOOR)
    return weights


def _reaching(weights: Floats, length: int) -> Floats:
    """`weights` that go as far as a sentence of `length` tokens needs."""
    missing = length - len(weights) // 2
    return np.pad(weights, missing, constant_values=LEAST) if missing > 0 else weights


def _windows(weights: Floats, length: int) -> Floats:
    """The weights of the jumps from each place m to every place: [length + 1, length]."""
    middle = len(weights) // 2
    reach = weights[middle + 1 - length : middle + 1 + length]  # jumps 1 - length to length
    return sliding_window_view(reach, length)[::-1]

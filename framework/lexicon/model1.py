"""IBM Model 1: every target token comes from a source token of its pair, or from NULL, all places being alike.

    p(e | f) = prod_j sum_i t(e_j | f_i) / (I + 1)

(Brown et al., "The mathematics of statistical machine translation", Computational Linguistics 19, 1993.) Expectation
maximisation on it never lowers the likelihood, and finds the best t there is.
"""

import numpy as np
from numpy.typing import NDArray

from framework.lexicon.counts import Counts, Floats, no_jumps, totals
from framework.lexicon.instances import Piece


def expected(piece: Piece, probabilities: Floats) -> Counts:
    """What a piece counts. `probabilities`: t of each of its pairs of types, float64 [types]."""
    shares = np.empty(len(piece.types))
    log_likelihood = 0.0
    for group in piece.groups():
        rows = probabilities[piece.types[group.candidates]].reshape(-1, group.source_length + 1)
        sums = rows.sum(axis=1, keepdims=True)
        shares[group.candidates] = (rows / sums).ravel()
        log_likelihood += float(np.log(sums).sum()) - len(rows) * np.log(group.source_length + 1)
    jumps, departures = no_jumps(0)
    return Counts(
        types=totals(piece.types, shares, len(piece.keys)),
        jumps=jumps,
        departures=departures,
        log_likelihood=log_likelihood,
    )


def best(piece: Piece, probabilities: Floats) -> list[NDArray[np.int64]]:
    """The likeliest source position of every target token, -1 for NULL: int64 [J] of every pair of the piece.

    Of equally likely ones NULL, then the first."""
    chosen = [np.full(length, -1, np.int64) for length in piece.target_lengths.tolist()]
    for group in piece.groups():
        rows = probabilities[piece.types[group.candidates]].reshape(-1, group.source_length + 1)
        links = np.split(rows.argmax(axis=1) - 1, group.target_lengths.cumsum()[:-1])
        for pair, positions in zip(group.pairs.tolist(), links, strict=True):
            chosen[pair] = positions
    return chosen

"""The HMM aligner: where a target token comes from depends on where the one before it came from.

    p(e | f) = sum over links a of prod_j p(a_j | a_(j - 1)) t(e_j | f_(a_j))

(Vogel, Ney and Tillmann, "HMM-based word alignment in statistical translation", COLING 1996; NULL, of a fixed
probability, keeps the place before it: Och and Ney, Computational Linguistics 29, 2003.) What comes next depends on the
last real place alone, m = 1 to I, or 0 before the first; so that place is the state, and sums go over it. All pairs of
a group go through the recursion at once, the longest first: whose sentence has ended drops off the end.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from framework.lexicon.counts import Counts, Floats, no_jumps, totals
from framework.lexicon.instances import Group, Piece
from framework.lexicon.jumps import transitions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Lattice:
    """A group, and what the model says of its candidates."""

    group: Group
    real: NDArray[np.bool_]  # which of the padded rows are tokens: [n, J]
    emissions: Floats  # of every padded row, times the chance of NULL or not: [n, J, I + 1]
    transitions: Floats  # [I + 1 (m), I]

    @classmethod
    def of(cls, piece: Piece, group: Group, probabilities: Floats, weights: Floats, null: float) -> "_Lattice":
        longest = int(group.target_lengths[0])
        real = np.arange(longest) < group.target_lengths[:, None]
        emissions = np.zeros((len(group.pairs), longest, group.source_length + 1))
        emissions[real] = probabilities[piece.types[group.candidates]].reshape(-1, group.source_length + 1)
        emissions *= np.concatenate([[null], np.full(group.source_length, 1 - null)])
        return cls(group=group, real=real, emissions=emissions, transitions=transitions(weights, group.source_length))

    def going_on(self, row: int) -> int:
        """How many pairs, the first ones, have a token in this row."""
        return int(self.real[:, row].sum())


def expected(piece: Piece, probabilities: Floats, weights: Floats, null: float) -> Counts:
    """What a piece counts. `probabilities`: t of each of its pairs of types, float64 [types]; `weights`: of jumps."""
    shares = np.empty(len(piece.types))
    jumps, departures = no_jumps(len(weights) // 2)
    log_likelihood = 0.0
    for group in piece.groups():
        lattice = _Lattice.of(piece, group, probabilities, weights, null)
        before, nulls, reals, scales = _forward(lattice)
        posteriors, moves = _backward(lattice, before, nulls, reals, scales)
        shares[group.candidates] = posteriors[lattice.real].ravel()
        log_likelihood += float(np.log(scales[lattice.real]).sum())
        _count_moves(moves, jumps, departures)
    return Counts(
        types=totals(piece.types, shares, len(piece.keys)),
        jumps=jumps,
        departures=departures,
        log_likelihood=log_likelihood,
    )


def _forward(lattice: _Lattice) -> tuple[Floats, Floats, Floats, Floats]:
    """Of every row: the states before it, the states in which it is NULL, its real places, and the scale of both.

    States are probabilities given all tokens so far: [n, J, I + 1] (`before`, `nulls`), [n, J, I] and [n, J]."""
    pairs, longest, width = lattice.emissions.shape
    before, nulls = np.zeros((pairs, longest, width)), np.zeros((pairs, longest, width))
    reals, scales = np.zeros((pairs, longest, width - 1)), np.ones((pairs, longest))
    state = np.zeros((pairs, width))
    state[:, 0] = 1
    for row in range(longest):
        alive = lattice.going_on(row)
        state = state[:alive]
        emission = lattice.emissions[:alive, row]
        null = state * emission[:, :1]
        real = (state @ lattice.transitions) * emission[:, 1:]
        scale = null.sum(axis=1) + real.sum(axis=1)
        null /= scale[:, None]
        real /= scale[:, None]
        before[:alive, row], nulls[:alive, row], reals[:alive, row], scales[:alive, row] = state, null, real, scale
        state = null.copy()
        state[:, 1:] += real
    return before, nulls, reals, scales


def _backward(lattice: _Lattice, before: Floats, nulls: Floats, reals: Floats, scales: Floats) -> tuple[Floats, Floats]:
    """How likely every candidate is, given the whole sentence, [n, J, I + 1]; and how often the group goes from each
    place to each: [I + 1, I]."""
    pairs, longest, width = lattice.emissions.shape
    posteriors = np.zeros_like(lattice.emissions)
    moves = np.zeros((width, width - 1))
    after = np.ones((pairs, width))  # what is still to come, by state, over its scales
    for row in reversed(range(longest)):
        alive = lattice.going_on(row)
        emission = lattice.emissions[:alive, row] / scales[:alive, row, None]
        ahead = emission[:, 1:] * after[:alive, 1:]
        posteriors[:alive, row, 0] = (nulls[:alive, row] * after[:alive]).sum(axis=1)
        posteriors[:alive, row, 1:] = reals[:alive, row] * after[:alive, 1:]
        moves += lattice.transitions * (before[:alive, row].T @ ahead)
        after[:alive] = emission[:, :1] * after[:alive] + ahead @ lattice.transitions.T
    return posteriors, moves


def _count_moves(moves: Floats, jumps: Floats, departures: Floats) -> None:
    """Adds the moves [I + 1 (m), I (i from 1)] of a group to `jumps` and `departures`."""
    states, length = moves.shape
    distance = np.arange(1, length + 1) - np.arange(states)[:, None]
    jumps += totals((distance + len(jumps) // 2).ravel(), moves.ravel(), len(jumps))
    departures[length, :states] += moves.sum(axis=1)


def best(piece: Piece, probabilities: Floats, weights: Floats, null: float) -> list[NDArray[np.int64]]:
    """The source position of every target token in the likeliest of all links, -1 for NULL: int64 [J] of every pair.

    By Viterbi's algorithm (IEEE Transactions on Information Theory 13, 1967). Of equally likely links one that is real
    rather than NULL, and that comes from the earliest place, the last token first."""
    chosen = [np.full(length, -1, np.int64) for length in piece.target_lengths.tolist()]
    for group in piece.groups():
        lattice = _Lattice.of(piece, group, probabilities, weights, null)
        found = _viterbi(lattice)
        for pair, links, length in zip(group.pairs.tolist(), found, group.target_lengths.tolist(), strict=True):
            chosen[pair] = links[:length]
    return chosen


def _viterbi(lattice: _Lattice) -> NDArray[np.int64]:
    """The best links of a group, [n, J], -1 for NULL (and behind a sentence's end)."""
    pairs, longest, width = lattice.emissions.shape
    with np.errstate(divide="ignore"):
        moves, emissions = np.log(lattice.transitions), np.log(lattice.emissions)
    came_from = np.zeros((pairs, longest, width), np.int32)  # the state before, -1 for the same one and NULL
    state = np.full((pairs, width), -np.inf)
    state[:, 0] = 0
    for row in range(longest):
        alive = lattice.going_on(row)
        reached = state[:alive, :, None] + moves
        origin = reached.argmax(axis=1)
        real = np.take_along_axis(reached, origin[:, None], axis=1)[:, 0] + emissions[:alive, row, 1:]
        null = state[:alive] + emissions[:alive, row, :1]
        is_null = np.ones((alive, width), bool)
        is_null[:, 1:] = null[:, 1:] > real
        came_from[:alive, row, 1:] = origin
        came_from[:alive, row][is_null] = -1
        state[:alive] = null
        state[:alive, 1:] = np.maximum(null[:, 1:], real)
    links = np.full((pairs, longest), -1, np.int64)
    at = state.argmax(axis=1)
    for row in reversed(range(longest)):
        alive = lattice.going_on(row)
        here, origin = at[:alive], came_from[np.arange(alive), row, at[:alive]]
        links[:alive, row] = np.where(origin < 0, -1, here - 1)
        at[:alive] = np.where(origin < 0, here, origin)
    return links

"""IBM Model 1 and the HMM aligner with dictionaries and loops: what the vectorised ones are compared with."""

import itertools
import math
from collections import defaultdict

from framework.lexicon.bitext import Bitext

Table = dict[tuple[int | None, int], float]
"""t(e | f) by (f, e), None for NULL."""


def even(bitext: Bitext, vocabulary: int) -> Table:
    return {
        (f, e): 1 / vocabulary
        for source, target in zip(bitext.source, bitext.target, strict=True)
        for f in [None, *source]
        for e in target
    }


def relative(counts: dict[tuple[int | None, int], float]) -> Table:
    sums: dict[int | None, float] = defaultdict(float)
    for (f, _), count in counts.items():
        sums[f] += count
    return {(f, e): count / sums[f] for (f, e), count in counts.items()}


def model1_pass(bitext: Bitext, table: Table) -> tuple[Table, float]:
    """The next table, and the likelihood of the bitext under this one."""
    counts: dict[tuple[int | None, int], float] = defaultdict(float)
    likelihood = 0.0
    for source, target in zip(bitext.source, bitext.target, strict=True):
        for e in target:
            total = sum(table[f, e] for f in [None, *source])
            likelihood += math.log(total / (len(source) + 1))
            for f in [None, *source]:
                counts[f, e] += table[f, e] / total
    return relative(counts), likelihood


def chance(weights: dict[int, float], before: int, place: int, length: int) -> float:
    """Of going from place `before` (0 at first) to `place` of 1 to `length`."""
    return weights[place - before] / sum(weights[to - before] for to in range(1, length + 1))


def paths(source: list[int], target: list[int], table: Table, weights: dict[int, float], null: float):
    """Every alignment of a pair (places from 1, 0 for NULL) with its probability and its moves."""
    for links in itertools.product(range(len(source) + 1), repeat=len(target)):
        before, probability, moves = 0, 1.0, []
        for e, place in zip(target, links, strict=True):
            if place == 0:
                probability *= null * table[None, e]
            else:
                probability *= (1 - null) * chance(weights, before, place, len(source)) * table[source[place - 1], e]
                moves.append((before, place))
                before = place
        yield links, probability, moves


def hmm_pass(
    bitext: Bitext, table: Table, weights: dict[int, float], null: float, steps: int
) -> tuple[Table, dict[int, float], float]:
    """The next table and weights, by the sum over every alignment, and the likelihood under these."""
    counts: dict[tuple[int | None, int], float] = defaultdict(float)
    jumps: dict[int, float] = defaultdict(float)
    departures: dict[tuple[int, int], float] = defaultdict(float)
    likelihood = 0.0
    for source, target in zip(bitext.source, bitext.target, strict=True):
        if not source or not target:
            continue
        every = list(paths(source, target, table, weights, null))
        total = sum(probability for _, probability, _ in every)
        likelihood += math.log(total)
        for links, probability, moves in every:
            for e, place in zip(target, links, strict=True):
                counts[source[place - 1] if place else None, e] += probability / total
            for before, place in moves:
                jumps[place - before] += probability / total
                departures[len(source), before] += probability / total
    return relative(counts), better_weights(weights, jumps, departures, steps), likelihood


def better_weights(
    weights: dict[int, float], jumps: dict[int, float], departures: dict[tuple[int, int], float], steps: int
) -> dict[int, float]:
    for _ in range(steps):
        chances: dict[int, float] = defaultdict(float)
        for (length, before), count in departures.items():
            window = [place - before for place in range(1, length + 1)]
            for jump in window:
                chances[jump] += count / sum(weights[each] for each in window)
        fresh = {jump: jumps[jump] / chances[jump] if jump in chances else old for jump, old in weights.items()}
        weights = {jump: weight / sum(fresh.values()) for jump, weight in fresh.items()}
    return weights

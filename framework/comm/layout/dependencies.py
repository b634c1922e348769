"""Which rows of others a worker computes itself: by cost, as far as memory goes.

A row of level l is what layer l - 1 gives a node and layer l needs of it. To compute it takes its *subtree*: its own
and its in-neighbours' rows of level l - 1 that are not computed here yet, theirs, and so on down to features, which are
level 0 and fetched once. What is owned costs nothing, it is computed anyway.
"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from framework.comm.layout.surroundings import Surroundings

Places = NDArray[np.int64]

_PASSES = 3  # of a row's arithmetic: one forward, and two gradients backward
_NUMBER, _EDGE = 4, 28  # bytes: of a feature or activation as costs count it, and of an edge with its transpose


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What a row costs."""

    columns: int
    """Feature columns."""
    width: int
    """Columns of a hidden row."""
    bandwidth: float
    """Bits a second of a worker's link."""
    flops: float
    """Floating-point operations a second of a worker."""

    @property
    def fetching(self) -> float:
        """Seconds an epoch of a row that comes before a layer and whose gradient goes back."""
        return 2 * 8 * _NUMBER * self.width / self.bandwidth

    def computing(self, level: int, rows: int, edges: int) -> float:
        """Seconds an epoch of computing rows of `level` from so many edges: a sum over the edges, and a product."""
        columns = self.columns if level == 1 else self.width
        return _PASSES * 2 * columns * (edges + rows * self.width) / self.flops


class Dependencies:
    """The rows that a worker computes for itself. `computed[l]` says of which surrounding nodes it does at level l."""

    def __init__(self, surroundings: Surroundings, levels: int) -> None:
        """None yet, of levels 1 to `levels`."""
        self.halo = surroundings.halo
        self.degree: NDArray[np.int64] = surroundings.nodes.degree.numpy()
        self.computed = np.zeros((levels + 1, len(surroundings.nodes)), dtype=bool)
        self._featured = np.arange(len(surroundings.nodes)) < self.halo
        places = surroundings.places(surroundings.rows.ids)
        rows = torch.repeat_interleave(torch.arange(len(surroundings.rows.counts)), surroundings.rows.counts)
        self._sources: Places = places[places >= 0].numpy()
        counts = torch.bincount(rows[places >= 0], minlength=len(surroundings.nodes))
        self._starts: Places = np.concatenate([[0], counts.cumsum(0).numpy()])

    def compute_all(self) -> None:
        """The whole halo, at every level."""
        levels = len(self.computed) - 1
        if levels:
            self._take(self._subtree(np.arange(self.halo), levels))

    def compute_what_pays(self, prices: Prices, memory: float) -> None:
        """Level by level, the cheapest subtrees first: each that takes less time than fetching the rows that it makes
        needless, as long as what they take fits into `memory` bytes."""
        used = 0.0
        for level in range(1, len(self.computed)):
            every = (self._subtree(np.array([node]), level) for node in range(self.halo))
            seconds = np.array([self._seconds(subtree, prices) for subtree in every])
            for node in np.argsort(seconds, kind="stable").tolist():
                subtree = self._subtree(np.array([node]), level)  # anew: others may have taken some of it
                saved = sum(int((new < self.halo).sum()) for new in subtree.values()) * prices.fetching
                more = self._bytes(subtree, prices)
                if self._seconds(subtree, prices) < saved and used + more <= memory:
                    self._take(subtree)
                    used += more

    def _subtree(self, nodes: Places, level: int) -> dict[int, Places]:
        """Level -> what has to be computed there, beside what is already, to have rows of `level` of some nodes."""
        found = {}
        while level > 0 and len(nodes):
            new = nodes[~self.computed[level, nodes]]
            found[level] = new
            if level > 1:
                nodes = np.unique(np.concatenate([new, self._neighbors(new)]))
            level -= 1
        return found

    def _neighbors(self, nodes: Places) -> Places:
        """The sources of their in-edges that others own; a node comes as often as it is one."""
        begins = self._starts[nodes]
        counts = self._starts[nodes + 1] - begins
        before = np.cumsum(counts) - counts
        entries: Places = np.arange(counts.sum()) + np.repeat(begins - before, counts)
        return self._sources[entries]

    def _seconds(self, subtree: dict[int, Places], prices: Prices) -> float:
        return sum(prices.computing(level, len(new), int(self.degree[new].sum())) for level, new in subtree.items())

    def _bytes(self, subtree: dict[int, Places], prices: Prices) -> float:
        """Of rows, edges, and features that are not here yet."""
        rows = sum(len(new) for new in subtree.values())
        edges = sum(int(self.degree[new].sum()) for new in subtree.values())
        features = self._features(subtree)
        lacking = len(features) - int(self._featured[features].sum())
        return _NUMBER * (rows * prices.width + lacking * prices.columns) + _EDGE * edges

    def _features(self, subtree: dict[int, Places]) -> Places:
        """The nodes whose features it starts from, owned ones left out."""
        first = subtree.get(1, np.empty(0, np.int64))
        return np.unique(np.concatenate([first, self._neighbors(first)]))

    def _take(self, subtree: dict[int, Places]) -> None:
        for level, new in subtree.items():
            self.computed[level, new] = True
        self._featured[self._features(subtree)] = True

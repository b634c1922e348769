"""Seeded graphs: R-MAT and a degree-corrected planted partition, with features, labels and splits.

Both are symmetric, without self-loops or duplicates, with exactly the number of edges asked for, node ids permuted and
edges in a shuffled order, so that neither an id nor a position tells a partitioner anything. Everything is drawn from
NumPy's Philox under the seed; feature rows are drawn again whenever they are read, a chunk at a time, and never kept.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from framework import config
from framework.data.dataset import NO_SPLIT, TEST, TRAIN, VALIDATION, RawGraph
from framework.errors import InputError
from framework.graph.edges import ArrayEdges, Ids
from framework.registry import DATASETS

Floats = NDArray[np.float64]

_MOST_SCALE = 30  # of nodes whose numbers are int32
_PATIENCE = 1 << 20  # draws without success, at least, before a graph is said to have no room
_PAIRS, _NODES, _FEATURES = range(3)  # what a generator is for: the second half of its Philox key


def _require_ranges(settings: "RecursiveMatrix | Planted", *, least: dict[str, int], shares: tuple[str, ...]) -> None:
    """Raises InputError for a setting below its least value, a share that is none, and an odd number of edges."""
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise InputError(f"--data.{name} is {getattr(settings, name)}; expected at least {bound}.")
    for name in shares:
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"--data.{name} is {getattr(settings, name)}; expected a share, from 0 to 1.")
    if settings.edges % 2:
        raise InputError(
            f"--data.edges is {settings.edges}; expected an even number: each undirected one counts twice."
        )


@DATASETS.register("rmat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RecursiveMatrix:
    """R-MAT: a power-law graph with many isolated nodes and no communities.

    Chakrabarti, Zhan, Faloutsos, "R-MAT: a recursive model for graph mining", SDM 2004."""

    scale: int = 18
    """Two to this power is the number of nodes."""
    edges: int = 8_000_000
    """Directed edges; each undirected one counts twice."""
    corner: float = 0.57
    """Probability of the quadrant low source, low target."""
    side: float = 0.19
    """Probability of each of the two mixed quadrants."""
    features: int = 100
    """Columns of the features."""
    classes: int = 47
    """Number of classes."""
    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        _require_ranges(self, least={"scale": 0, "edges": 0, "features": 0, "classes": 1}, shares=("corner", "side"))
        if self.scale > _MOST_SCALE:
            raise InputError(f"--data.scale is {self.scale}; expected at most {_MOST_SCALE}.")
        if self.corner + 2 * self.side > 1 + 1e-9:
            raise InputError(
                f"--data.corner is {self.corner} and --data.side {self.side}; expected corner + 2 * side of at most 1."
            )

    def fingerprint(self) -> str:
        """Digest of the settings: they say everything."""
        return config.digest(self)

    def open(self) -> RawGraph:
        """Draw the graph. Raises InputError when it has no room for so many edges."""
        nodes = 1 << self.scale
        pairs = _distinct_pairs(self.edges // 2, nodes, _generator(self.seed, _PAIRS), self._draw)
        random = _generator(self.seed, _NODES)
        pairs = random.permutation(nodes).astype(np.int32)[pairs]
        degrees = np.bincount(pairs.reshape(-1), minlength=nodes)
        return _raw_graph(
            pairs, random.integers(0, self.classes, nodes), self.classes, self.features, degrees, random, self.seed
        )

    def _draw(self, random: np.random.Generator, count: int) -> tuple[Ids, Ids]:
        source = np.zeros(count, np.int64)
        target = np.zeros(count, np.int64)
        for _ in range(self.scale):
            draw = random.random(count)
            low = draw < self.corner + self.side
            source = source * 2 + ~low
            target = target * 2 + np.where(low, draw >= self.corner, draw >= self.corner + 2 * self.side)
        return source, target


@DATASETS.register("planted")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """A planted partition whose degrees follow a power law: blocks that a good partitioner finds again.

    Karrer, Newman, "Stochastic blockmodels and community structure in networks", Phys. Rev. E 83, 2011."""

    nodes: int = 200_000
    """Number of nodes."""
    edges: int = 4_000_000
    """Directed edges; each undirected one counts twice."""
    blocks: int = 160
    """Number of blocks, the largest about three times the smallest."""
    inside: float = 0.6
    """Share of edges drawn inside a block; the others take any target."""
    exponent: float = 2.5
    """Of the power law of the nodes' propensities to have edges."""
    noise: float = 0.05
    """Share of labels that are redrawn at random."""
    features: int = 100
    """Columns of the features."""
    classes: int = 40
    """Number of classes; every block has one."""
    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        least = {"nodes": 1, "edges": 0, "blocks": 1, "features": 0, "classes": 1}
        _require_ranges(self, least=least, shares=("inside", "noise"))
        if not self.exponent > 1:
            raise InputError(f"--data.exponent is {self.exponent}; expected more than 1.")

    def fingerprint(self) -> str:
        """Digest of the settings: they say everything."""
        return config.digest(self)

    def open(self) -> RawGraph:
        """Draw the graph. Raises InputError when it has no room for so many edges."""
        random = _generator(self.seed, _NODES)
        shares = random.uniform(0.5, 1.5, self.blocks)
        ends = np.rint(np.cumsum(shares) / shares.sum() * self.nodes).astype(np.int64)
        # A propensity above the square root of the number of nodes would ask for one edge several times.
        propensity = np.minimum((1 - random.random(self.nodes)) ** (-1 / (self.exponent - 1)), self.nodes**0.5)
        model = _Blocks(ends=ends, cumulated=np.concatenate([[0.0], np.cumsum(propensity)]), inside=self.inside)
        pairs = _distinct_pairs(self.edges // 2, self.nodes, _generator(self.seed, _PAIRS), model.draw)

        renumbered = random.permutation(self.nodes)
        labels = np.empty(self.nodes, np.int64)
        labels[renumbered] = np.searchsorted(ends, np.arange(self.nodes), side="right") % self.classes
        noisy = random.random(self.nodes) < self.noise
        labels[noisy] = random.integers(0, self.classes, int(noisy.sum()))
        pairs = renumbered.astype(np.int32)[pairs]
        degrees = np.bincount(pairs.reshape(-1), minlength=self.nodes)
        return _raw_graph(pairs, labels, self.classes, self.features, degrees, random, self.seed)


PRESETS: dict[str, RecursiveMatrix | Planted] = {
    "planted": Planted(),
    "rmat": RecursiveMatrix(),
    "planted-large": Planted(nodes=1_000_000, edges=20_000_000, blocks=800),
}
"""The three graphs that every table of the documentation is measured on."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NoisyClassRows:
    """Features: a direction for every class, plus noise of unit variance. Drawn when read."""

    labels: Ids
    """The class of every node."""
    directions: NDArray[np.float32]
    """[classes, columns]."""
    seed: int
    """Of the noise."""
    batch_size: int = 16384
    """Rows a batch: one generator is made for each."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of nodes, number of columns."""
        return len(self.labels), self.directions.shape[1]

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """float32 [batch, columns]."""
        for number, start in enumerate(range(0, len(self.labels), self.batch_size)):
            rows = self.directions[self.labels[start : start + self.batch_size]]
            noise = _generator(self.seed, _FEATURES + number).standard_normal(rows.shape, dtype=np.float32)
            yield rows + noise


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Blocks:
    """Where the pairs of a planted partition come from: nodes in block order, with their propensities summed up."""

    ends: Ids
    """The first node after each block."""
    cumulated: Floats
    """Propensity of all nodes before each node, and of all: [nodes + 1]."""
    inside: float
    """Share of pairs inside a block."""

    def draw(self, random: np.random.Generator, count: int) -> tuple[Ids, Ids]:
        """Pairs with ends in proportion to their propensity: the second of the first one's block, or of any."""
        source = self._node(random.random(count) * self.cumulated[-1])
        block = np.searchsorted(self.ends, source, side="right")
        inside = random.random(count) < self.inside
        low = np.where(inside, self.cumulated[np.concatenate([[0], self.ends])[block]], 0.0)
        high = np.where(inside, self.cumulated[self.ends[block]], self.cumulated[-1])
        return source, self._node(low + random.random(count) * (high - low))

    def _node(self, position: Floats) -> Ids:
        found = np.searchsorted(self.cumulated, position, side="right") - 1
        return np.minimum(found, len(self.cumulated) - 2)


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed & 0xFFFFFFFFFFFFFFFF, purpose]))


def _distinct_pairs(
    count: int,
    nodes: int,
    random: np.random.Generator,
    draw: Callable[[np.random.Generator, int], tuple[Ids, Ids]],
) -> NDArray[np.int32]:
    """`count` distinct unordered pairs of different nodes from `draw`, in a shuffled order: int32 [count, 2].

    Raises InputError where `draw` gives next to none that are new, however often: it can not give so many."""
    if count > nodes * (nodes - 1) // 8:
        raise InputError(f"{2 * count} edges are too many for {nodes} nodes; expected at most a quarter of all pairs.")
    found = np.empty(0, np.int64)
    in_vain = 0
    while len(found) < count:
        missing = count - len(found)
        source, target = draw(random, missing + missing // 8 + 1024)
        keys = (np.minimum(source, target) * nodes + np.maximum(source, target))[source != target]
        found = np.union1d(found, keys)
        in_vain = in_vain + len(source) if 1000 * (len(found) - count + missing) < missing else 0
        if in_vain > max(_PATIENCE, 10 * missing):
            raise InputError(
                f"{2 * count} edges find no room among these {nodes} nodes: {in_vain} draws running gave next to none "
                f"beyond {2 * len(found)}. Ask for fewer, or for blocks that are larger or less alone (--data.blocks, "
                "--data.inside), or for less skew (--data.corner)."
            )
    random.shuffle(found)
    kept = found[:count]
    return np.stack([kept // nodes, kept % nodes], axis=1).astype(np.int32)


def _raw_graph(
    pairs: NDArray[np.int32],
    labels: Ids,
    classes: int,
    features: int,
    degrees: Ids,
    random: np.random.Generator,
    seed: int,
) -> RawGraph:
    """Both directions of `pairs`; a split of 50 / 20 / 30 over the nodes that have an edge."""
    nodes = len(labels)
    split = np.select([(draw := random.random(nodes)) < 0.5, draw < 0.7], [TRAIN, VALIDATION], TEST).astype(np.uint8)
    split[degrees == 0] = NO_SPLIT
    directions = random.standard_normal((classes, features), dtype=np.float32) * np.float32(0.2)
    return RawGraph(
        edges=ArrayEdges(
            source=pairs.reshape(-1), target=pairs[:, ::-1].reshape(-1), num_nodes=nodes, batch_size=1 << 17
        ),
        features=NoisyClassRows(labels=labels, directions=directions, seed=seed) if features else None,
        labels=labels,
        num_classes=classes,
        split=split,
    )

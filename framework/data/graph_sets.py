"""What a data set of many small graphs is: a value with a fingerprint, whose graphs are made one at a time.

Assumptions: what is known of all samples (raw ids, targets, split), and what each graph is made of (an image, a
SMILES), fits in memory; the graphs do not need to. A graph is a pure function of the set and of its raw content: so
samples may be made anywhere and in any order.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.errors import InputError
from framework.graph.edges import Ids
from framework.random import Key, shuffled

_SPLIT = 0x53504C49  # the purpose of the draw ("SPLI")
_TAKEN = {"id": "a column of predictions", "standard": "an error over all targets"}  # names that no target may have


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SmallGraph:
    """One graph: n nodes, e directed edges."""

    features: NDArray[np.float32]
    """One row a node: [n, columns]."""
    positions: NDArray[np.float32]
    """Where the nodes are: [n, dimensions]."""
    source: Ids
    """Where each edge comes from, 0 to n - 1: int64 [e]. An undirected edge is there in both directions."""
    target: Ids
    """Where it goes to: int64 [e]."""
    weights: NDArray[np.float32] | None = None
    """The edges' weights: [e]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What is known of all s samples before their graphs are made: row i of each column is of sample i."""

    contents: Sequence[Any]
    """What the set's `graph` makes a graph of: s of them."""
    split: NDArray[np.uint8]
    """What every sample is for: NO_SPLIT, TRAIN, VALIDATION or TEST, uint8 [s]."""
    ids: NDArray[Any] | None = None
    """The raw id of every sample: int64 [s] or text [s]. None: its number."""
    labels: Ids | None = None
    """The class of every sample, int64 [s], where samples have classes."""
    class_names: tuple[str, ...] = ()
    """The name of every class; empty where they have none."""
    num_classes: int = 0
    """Number of classes."""
    targets: NDArray[np.float64] | None = None
    """What else is to be predicted: [s, targets], NaN where it is not known."""
    target_names: tuple[str, ...] = ()
    """The name of every target, each its own; of several none `id` or `standard`, which other things are called."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What a reader of the prepared collection should know: the unit of positions, versions of libraries."""


@runtime_checkable
class GraphSet(Protocol):
    """A data set of many small graphs. A plug-in: its fields are its configuration."""

    def fingerprint(self) -> str:
        """Hex digest of the raw bytes and the settings: two sets with the same one have the same graphs."""

    def open(self) -> Samples:
        """What is known of all samples. Raises InputError for raw data that cannot be used."""

    def graph(self, content: Any, cache: Path) -> SmallGraph | str:
        """The graph of one of the contents; or, as text, why there is none.

        `cache`: a folder for what took long, shared by all calls. It may not show in the answer."""


def drawn_split(samples: int, shares: tuple[float, float], seed: int) -> NDArray[np.uint8]:
    """What every sample is for, uint8 [samples]: so many are drawn, by `seed`, as make up the shares, rounded.

    `shares`: of training and validation samples; the rest are for testing. Raises InputError for shares below 0 or
    above 1 together."""
    training, validation = shares
    if training < 0 or validation < 0 or training + validation > 1 + 1e-9:
        raise InputError(f"the split shares are {training}, {validation}; expected at least 0 each, at most 1 in all.")
    order = shuffled(Key.root(seed).fold(_SPLIT), torch.arange(samples)).numpy()
    ends = [round(samples * training), round(samples * (training + validation))]
    split = np.empty(samples, np.uint8)
    for value, chosen in zip((TRAIN, VALIDATION, TEST), np.split(order, ends), strict=True):
        split[chosen] = value
    return split


def check_samples(samples: Samples) -> None:
    """Raises InputError where there are no samples, a column has another length, a class or a split is none, or targets
    have not a name each."""
    number = len(samples.contents)
    if number == 0:
        raise InputError("the data set has no samples; expected at least one.")
    columns = {name: getattr(samples, name) for name in ("ids", "labels", "split", "targets")}
    for name, column in columns.items():
        if column is not None and len(column) != number:
            raise InputError(f"{name} has {len(column)} rows; expected {number}, one a sample.")
    if (samples.labels is None) == (samples.targets is None):
        raise InputError("a data set of graphs has classes or targets; expected one of the two.")
    _check_range("split", samples.split, TEST + 1)
    if samples.labels is not None:
        _check_range("class", samples.labels, samples.num_classes)
    if samples.targets is not None:
        _check_names(samples.target_names, samples.targets.shape)
    if not (samples.split == TRAIN).any():
        raise InputError("no sample is for training; raise the first of --data.shares, or mend the split's column.")


def _check_names(names: Sequence[str], targets: tuple[int, ...]) -> None:
    """Raises InputError unless `names` tell targets of that shape apart, and from what else is told of them."""
    if targets[1:] != (len(names),):
        raise InputError(
            f"targets of shape {targets} have {len(names)} names; expected [samples, targets] and a name a target."
        )
    for place, name in enumerate(names if len(names) > 1 else ()):
        if name in names[:place]:
            raise InputError(f"two targets are named '{name}'; expected a name of its own for each.")
        if name in _TAKEN:
            raise InputError(f"a target is named '{name}', as {_TAKEN[name]} is; rename it.")


def _check_range(name: str, column: NDArray[Any], end: int) -> None:
    wrong = np.flatnonzero((column < 0) | (column >= end))
    if len(wrong):
        raise InputError(f"the {name} of sample {wrong[0]} is {column[wrong[0]]}; expected 0 to {end - 1}.")


def fault_of(graph: SmallGraph) -> str:
    """What is wrong with a graph that a set has made; empty where nothing is."""
    if not isinstance(graph, SmallGraph):
        return f"the type {type(graph).__name__}; expected a SmallGraph, or as text why there is none"
    nodes, ends = len(graph.features), (graph.source, graph.target)
    if nodes == 0 or graph.features.ndim != 2 or graph.positions.ndim != 2 or len(graph.positions) != nodes:
        return f"features {graph.features.shape}, positions {graph.positions.shape}; expected a row of each a node"
    if graph.source.shape != graph.target.shape or graph.source.ndim != 1:
        return f"{graph.source.shape} sources and {graph.target.shape} targets of edges; expected two equal lengths"
    if any(len(end) and not 0 <= int(end.min()) <= int(end.max()) < nodes for end in ends):
        return f"an edge that leads out of its {nodes} nodes"
    if graph.weights is not None and graph.weights.shape != graph.source.shape:
        return f"{graph.weights.shape} weights; expected one an edge"
    numbers = (graph.features, graph.positions, graph.weights)
    with np.errstate(over="ignore"):  # too large a number becomes infinite, as it would in the columns
        stored = [np.asarray(values, np.float32) for values in numbers if values is not None]
    if not all(np.isfinite(values).all() for values in stored):
        return "a feature, a position or a weight that is not finite"
    return ""

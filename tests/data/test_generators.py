"""The seeded graphs are what they say: size, symmetry, degrees, blocks, and the same under the same seed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from framework.data.dataset import NO_SPLIT, TRAIN, Dataset, RawGraph
from framework.data.generators import Planted, RecursiveMatrix
from framework.errors import InputError
from framework.registry import DATASETS

GRAPHS = [
    RecursiveMatrix(scale=11, edges=30_000, features=8, classes=5),
    Planted(nodes=3_000, edges=40_000, blocks=12, features=8, classes=6),
]


def pairs(graph: RawGraph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    batches = list(graph.edges)
    return np.concatenate([source for source, _ in batches]), np.concatenate([target for _, target in batches])


@pytest.mark.parametrize("dataset", GRAPHS, ids=lambda dataset: type(dataset).__name__)
def test_edges_are_symmetric_and_distinct(dataset: RecursiveMatrix | Planted) -> None:
    assert isinstance(dataset, Dataset)
    graph = dataset.open()
    source, target = pairs(graph)
    nodes = graph.edges.num_nodes
    assert len(source) == graph.edges.num_edges == dataset.edges
    assert (source != target).all()
    keys, back = np.sort(source * nodes + target), np.sort(target * nodes + source)
    assert len(np.unique(keys)) == len(keys)
    assert np.array_equal(keys, back)


@pytest.mark.parametrize("dataset", GRAPHS, ids=lambda dataset: type(dataset).__name__)
def test_nodes_have_features_labels_and_a_split(dataset: RecursiveMatrix | Planted) -> None:
    graph = dataset.open()
    nodes = graph.edges.num_nodes
    assert graph.features is not None
    assert graph.labels is not None
    assert graph.split is not None
    rows = np.concatenate(list(graph.features.batches()))
    assert rows.shape == graph.features.shape == (nodes, 8)
    assert rows.dtype == np.float32
    assert np.array_equal(np.unique(graph.labels), np.arange(dataset.classes))
    source, _ = pairs(graph)
    isolated = np.bincount(source, minlength=nodes) == 0
    assert (graph.split[isolated] == NO_SPLIT).all()
    assert abs(np.mean(graph.split[~isolated] == TRAIN) - 0.5) < 0.05
    weights = graph.stream().node_weights
    assert weights is not None
    assert weights.sum() == np.count_nonzero(graph.split == TRAIN)
    centre = np.stack([rows[graph.labels == label].mean(axis=0) for label in range(dataset.classes)])
    nearest = np.argmin(((rows[:, None] - centre) ** 2).sum(axis=2), axis=1)
    assert np.mean(nearest == graph.labels) > 1.2 / dataset.classes


@pytest.mark.parametrize("dataset", GRAPHS, ids=lambda dataset: type(dataset).__name__)
def test_the_seed_is_the_graph(dataset: RecursiveMatrix | Planted) -> None:
    again = type(dataset)(**{name: getattr(dataset, name) for name in dataset.__dataclass_fields__})
    other = type(dataset)(**{name: getattr(dataset, name) for name in dataset.__dataclass_fields__} | {"seed": 1})
    assert np.array_equal(pairs(dataset.open())[0], pairs(again.open())[0])
    assert not np.array_equal(pairs(dataset.open())[0], pairs(other.open())[0])
    assert dataset.fingerprint() == again.fingerprint() != other.fingerprint()


def test_the_planted_blocks_hold_their_share_of_edges() -> None:
    dataset = Planted(nodes=4_000, edges=60_000, blocks=8, classes=8, noise=0.0, features=0)
    graph = dataset.open()
    assert graph.labels is not None
    assert graph.features is None
    source, target = pairs(graph)
    together = float(np.mean(graph.labels[source] == graph.labels[target]))
    assert 0.6 + 0.4 / 8 - 0.03 < together < 0.6 + 0.4 / 8 + 0.03


def test_the_recursive_matrix_is_skewed() -> None:
    source, _ = pairs(GRAPHS[0].open())
    degrees = np.sort(np.bincount(source, minlength=2048))
    assert degrees[-205:].sum() > 0.4 * degrees.sum()
    assert np.count_nonzero(degrees == 0) > 100


def test_too_many_edges_are_refused() -> None:
    with pytest.raises(InputError, match="too many for 16 nodes"):
        RecursiveMatrix(scale=4, edges=200).open()


@pytest.mark.parametrize(
    "dataset",
    [
        Planted(nodes=1000, edges=20_000, blocks=200, inside=1.0),
        RecursiveMatrix(scale=10, edges=200_000, corner=0.9, side=0.05),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_a_graph_without_room_is_refused(dataset: RecursiveMatrix | Planted) -> None:
    with pytest.raises(InputError, match=f"{dataset.edges} edges find no room among these"):
        dataset.open()


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (RecursiveMatrix, {"classes": 0}, "classes is 0; expected at least 1"),
        (RecursiveMatrix, {"scale": 31}, "scale is 31; expected at most 30"),
        (RecursiveMatrix, {"edges": 7}, "edges is 7; expected an even number"),
        (RecursiveMatrix, {"edges": -8}, "edges is -8; expected at least 0"),
        (RecursiveMatrix, {"corner": 0.9, "side": 0.19}, "corner is 0.9 and --data.side 0.19"),
        (Planted, {"blocks": 0}, "blocks is 0; expected at least 1"),
        (Planted, {"nodes": 0}, "nodes is 0; expected at least 1"),
        (Planted, {"features": -1}, "features is -1; expected at least 0"),
        (Planted, {"exponent": 1.0}, "exponent is 1.0; expected more than 1"),
        (Planted, {"inside": float("nan")}, "inside is nan; expected a share"),
        (Planted, {"noise": 1.5}, "noise is 1.5; expected a share"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: type, settings: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=rf"--data\.{said}"):
        kind(**settings)


def test_both_are_registered() -> None:
    assert DATASETS.get("rmat") is RecursiveMatrix
    assert DATASETS.get("planted") is Planted

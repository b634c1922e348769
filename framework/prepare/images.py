"""Prepare images: a data set of them becomes a store on disk, once.

Assumptions: as for shard stores: the folder is named by a digest of everything it depends on and appears by one rename.
Images are decoded a part at a time, each by a call that may run in another process on the same file system. What is
decoded outlives a kill: whoever prepares the same images again decodes only the parts that are missing.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework import config
from framework.data.arrays import whole_numbers
from framework.data.dataset import TRAIN, Mapper, each, of_raw_files
from framework.data.digests import remembering
from framework.data.image_sets import ImageSet, RawImages, check_images
from framework.errors import InputError, PluginError, StoreError, asked
from framework.graph.pairs import require_scratch
from framework.prepare.spill import Progress
from framework.registry import IMAGE_SETS
from framework.samples.images import VERSION, WHITE, ImageStore
from framework.store.columns import FileFacts, column_file, map_column, write_column
from framework.store.folder import full_disk_named, once_resumed, to_disk

IMAGES_A_PART = 1024
_SUMMED = 1 << 20
"""Pixels that are summed at a time: as whole numbers of 8 bytes each."""
WORK = "decoding"
"""The folder, beneath that of the stores, which keeps decoded parts until a store is whole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedImages:
    """A store of images that is ready, and what it took."""

    store: ImageStore
    """The store."""
    seconds: float
    """Wall time of this call."""
    reused: bool
    """Whether it was there already."""


def prepare_images(
    image_set: ImageSet,
    root: Path,
    *,
    mapper: Mapper = map,
    progress: Progress | None = None,
    images_a_part: int = IMAGES_A_PART,
) -> PreparedImages:
    """The store of `image_set`, in a folder beneath `root`; at once where it is there.

    Raises InputError for raw data that cannot be used, for training images that are all of one colour, and for a full
    disk."""
    began = time.monotonic()
    told = progress or (lambda step, fraction: None)
    told("fingerprint", 0.0)
    with remembering(root):
        data_digest = image_set.fingerprint()
    digest = config.digest([data_digest, images_a_part, VERSION])
    root = root.absolute()  # other processes, in other folders, are told of it

    def make(folder: Path) -> None:
        told("read", 0.0)
        raw = image_set.open()
        raw = dataclasses.replace(raw, labels=whole_numbers("labels", raw.labels))  # a plug-in's, of any type
        check_images(raw)
        offsets = torch.arange(0, len(raw.contents) + images_a_part, images_a_part).clamp(max=len(raw.contents))
        shape = _decoded(image_set, raw, offsets, work, mapper, told)
        draft = _written(folder, raw, offsets, shape, work)
        dataclasses.replace(draft, digest=digest, data_digest=data_digest).seal()

    path, work = root / digest[:16], root / WORK / digest[:16]
    waiting = functools.partial(told, "wait for the process that decodes the same", 0.0)
    store, reused = once_resumed(path, work, ImageStore.open, make, waiting)
    return PreparedImages(store=store, seconds=time.monotonic() - began, reused=reused)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """The images of a part, to be decoded by one call."""

    image_set: ImageSet
    """Who decodes them."""
    contents: Sequence[Any]
    """What of."""
    first: int
    """The number of the first of them."""
    example: Any
    """What the first image of the set is decoded from."""
    shape: tuple[int, int, int]
    """Height, width and channels that all images of the set have."""
    file: Path
    """Where they go."""


def _decoded(
    image_set: ImageSet, raw: RawImages, offsets: Tensor, work: Path, mapper: Mapper, told: Progress
) -> tuple[int, int, int]:
    """Sees to it that the pixels of every part are in `work`; returns what shape images have."""
    shape = _images(image_set, raw.contents[:1], first=0).shape[1:]
    pieces = [
        Piece(
            image_set=image_set,
            contents=raw.contents[first:end],
            first=first,
            example=raw.contents[0],
            shape=shape,
            file=_pixels_of(work, part),
        )
        for part, (first, end) in enumerate(itertools.pairwise(offsets.tolist()))
    ]
    missing = [piece for piece in pieces if not _is_whole(piece)]
    for done, _ in enumerate(each(mapper, decode_piece, missing), len(pieces) - len(missing) + 1):
        told("decode images", done / len(pieces))
    return shape


@of_raw_files
def decode_piece(piece: Piece) -> None:
    """Writes the pixels of a piece's images to its file, which appears whole: a loss of power leaves no other."""
    require_scratch(piece.file.parent)
    pixels = _images(piece.image_set, piece.contents, piece.first)
    if pixels.shape[1:] != piece.shape:
        _let_name(piece)
        name = IMAGE_SETS.name_of(type(piece.image_set))
        raise PluginError(
            f"image set '{name}' made images of {pixels.shape[1:]} from number {piece.first} on; expected "
            f"{piece.shape}, as of the first. Mend its decode()."
        )
    torn = piece.file.with_name(f".{piece.file.name}.{uuid.uuid4().hex}")
    with full_disk_named(piece.file):
        write_column(torn, pixels.reshape(len(pixels), -1))
        to_disk(torn)
        torn.replace(piece.file)


def _let_name(piece: Piece) -> None:
    """Lets the set itself name an image that is not as the first one is: it knows what that is called, and what would
    do. Raises InputError where it does."""
    with contextlib.suppress(PluginError):
        asked("", lambda: piece.image_set.decode([piece.example, piece.contents[0]]))


def _images(image_set: ImageSet, contents: Sequence[Any], first: int) -> NDArray[np.uint8]:
    """What a set decodes, from image `first` on. Raises PluginError where it fails, or makes other than so many images
    in bytes."""
    who, count = f"image set '{IMAGE_SETS.name_of(type(image_set))}'", len(contents)
    pixels = asked(f"{who} failed on {count} images from number {first} on", lambda: image_set.decode(contents))
    if pixels.ndim != 4 or len(pixels) != count or pixels.dtype != np.uint8:
        raise PluginError(
            f"{who} made {pixels.dtype} {pixels.shape} of {count} images from number {first} on; expected "
            f"uint8 ({count}, height, width, channels). Mend its decode()."
        )
    return pixels


def _pixels_of(work: Path, part: int) -> Path:
    return work / f"{part:05d}.arrow"


def _is_whole(piece: Piece) -> bool:
    """Whether a piece was decoded before: what has its name was on the disk by then. One that was cut short is none."""
    try:
        return tuple(map_column(piece.file).shape) == (len(piece.contents), math.prod(piece.shape))
    except StoreError:
        return False


def _written(folder: Path, raw: RawImages, offsets: Tensor, shape: tuple[int, int, int], work: Path) -> ImageStore:
    """Writes the columns of all parts, pixels from `work`; returns the store, digests left open."""
    files: dict[str, FileFacts] = {}
    sums = torch.zeros(3, shape[2], dtype=torch.int64)  # of the training pixels: how many, their sum, that of squares
    for part, (first, end) in enumerate(itertools.pairwise(offsets.tolist())):
        pixels = column_file(folder, part, "pixels")
        pixels.parent.mkdir()
        shutil.copyfile(_pixels_of(work, part), pixels)
        files[str(pixels.relative_to(folder))] = FileFacts.of(pixels)
        ids = np.arange(first, end) if raw.ids is None else raw.ids[first:end]
        columns = {"ids": pa.array(ids), "labels": raw.labels[first:end], "split": raw.split[first:end]}
        for name, values in columns.items():
            file = column_file(folder, part, name)
            files[str(file.relative_to(folder))] = write_column(file, values)
        trained = torch.from_numpy(raw.split[first:end] == TRAIN)
        mapped = map_column(pixels)
        for chosen in torch.split(trained.nonzero().squeeze(1), max(1, _SUMMED // math.prod(shape))):
            values = mapped[chosen].view(-1, shape[2]).long()
            sums += torch.stack([torch.full_like(sums[0], len(values)), values.sum(0), values.square().sum(0)])
    means = sums[1].double() / sums[0]
    deviations = (sums[2].double() / sums[0] - means.square()).clamp(min=0).sqrt()
    if not deviations.any():
        alike, trained_on = ", ".join(f"{mean:g}" for mean in means.tolist()), int((raw.split == TRAIN).sum())
        raise InputError(
            f"every pixel of the {trained_on} training images is {alike}; expected images which differ: look at how "
            "they are stored."
        )
    return ImageStore(
        path=folder,
        digest="",
        data_digest="",
        offsets=offsets,
        shape=shape,
        num_classes=raw.num_classes,
        class_names=raw.class_names,
        means=tuple((means / WHITE).tolist()),
        deviations=tuple(torch.where(deviations > 0, deviations / WHITE, 1.0).tolist()),
        files=files,
    )

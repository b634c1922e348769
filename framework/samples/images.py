"""Images on disk: a folder with a manifest and one folder of Arrow files a part, and how they are read.

Assumptions: all images of a store have one size, and pixels are bytes. Samples are numbered 0 to s - 1 in the order of
the raw data, and part p holds the samples offsets[p] to offsets[p + 1]. A store appears whole (by rename) and is never
written again. One number a sample (its class, its split) fits in memory; pixels are read where they are mapped.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from framework.errors import StoreError
from framework.store.columns import REMEDY, FileFacts, column_file, map_column, part_folder, read_column
from framework.store.manifest import read_manifest, verify_files, write_manifest

FORMAT = "shardyard-images"
VERSION = 1
"""Of the format: raised whenever what is written changes, so that older images are prepared again."""
WHITE = 255.0
"""The largest value of a pixel: means and deviations are shares of it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageStore:
    """Prepared images on disk."""

    path: Path
    """The folder."""
    digest: str
    """What the store is a function of: data, images a part, format. 64 hex digits."""
    data_digest: str
    """The fingerprint of the data set it was made from."""
    offsets: Tensor
    """Part p holds the samples offsets[p] to offsets[p + 1]. int64 [parts + 1]."""
    shape: tuple[int, int, int]
    """Height, width and channels of every image."""
    num_classes: int
    """Classes of an image."""
    class_names: tuple[str, ...]
    """The classes' names; empty where they have none."""
    means: tuple[float, ...]
    """Of every channel, over all pixels of the training images, where white is 1."""
    deviations: tuple[float, ...]
    """The standard deviations; 1 where all pixels are alike."""
    files: Mapping[str, FileFacts]
    """Every file but the manifest, by its path inside the folder."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.offsets) - 1

    @property
    def num_images(self) -> int:
        """Number of samples."""
        return int(self.offsets[-1])

    @classmethod
    def open(cls, path: Path | str) -> "ImageStore":
        """The store in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=[VERSION], what="store of images")
        plural = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **plural, "path": path, "offsets": torch.tensor(content["offsets"])})

    def seal(self) -> None:
        """Writes the manifest into the store's folder: the last step of making one. Raises OSError."""
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["path"]
        write_manifest(self.path, {**fields, "offsets": self.offsets.tolist()}, format=FORMAT, version=VERSION)

    def column(self, part: int, name: str) -> Tensor:
        """A column of a part, mapped: `pixels` (uint8 [n, height * width * channels]), `labels` (int64 [n]) or `split`
        (uint8 [n], the values of framework.data.dataset). Raises StoreError for a damaged file."""
        file = column_file(self.path, part, name)
        column, expected = map_column(file), int(self.offsets[part + 1] - self.offsets[part])
        if len(column) != expected:
            raise StoreError(f"'{file}' has {len(column)} rows; the manifest says {expected}. {REMEDY}")
        return column

    def raw_ids(self) -> pa.ChunkedArray:
        """The ids that the raw data knows the samples by: int64 or text [s]. Raises StoreError for a damaged file."""
        return pa.chunked_array([read_column(column_file(self.path, part, "ids")) for part in range(self.parts)])

    def verify(self, part: int | None = None) -> None:
        """Reads every byte of every file, or of one part's. Raises StoreError that names one not as its digest says."""
        verify_files(self.path, self.files, within="" if part is None else part_folder(part))


class ImageReader:
    """Reads images by their samples' numbers, wherever they lie."""

    def __init__(self, store: ImageStore) -> None:
        """Maps all parts. Raises StoreError for a damaged file."""
        self.store = store
        self._pixels = [store.column(part, "pixels") for part in range(store.parts)]
        self.labels = torch.cat([store.column(part, "labels") for part in range(store.parts)])
        """The class of every sample: int64 [s]."""
        self.split = torch.cat([store.column(part, "split") for part in range(store.parts)])
        """What every sample is for: uint8 [s]."""

    def pixels(self, samples: Tensor) -> Tensor:
        """The images of `samples` (int64 [n], in any order): uint8 [n, height, width, channels]."""
        ascending, order = samples.sort()
        ends = torch.searchsorted(ascending, self.store.offsets).tolist()
        rows = torch.empty(len(samples), self._pixels[0].shape[1], dtype=torch.uint8)
        for part, (begin, end) in enumerate(itertools.pairwise(ends)):
            if begin < end:
                local = ascending[begin:end] - self.store.offsets[part]
                rows[order[begin:end]] = self._pixels[part].index_select(0, local)
        return rows.view(-1, *self.store.shape)

    def scaled(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Pixels [n, height, width, channels] as a network sees them: [n, channels, height, width] of `dtype`, over the
        training images of mean 0 and deviation 1 in every channel. In memory, a pixel's channels stay together."""
        factors = 1 / (WHITE * torch.tensor(self.store.deviations, dtype=torch.float64))
        shifts = -torch.tensor(self.store.means, dtype=torch.float64) * WHITE * factors
        return torch.addcmul(shifts.to(dtype), pixels.to(dtype), factors.to(dtype)).permute(0, 3, 1, 2)

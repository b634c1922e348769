"""Images that have to be decoded: folders of PNG and JPEG files, and tables that hold such files in a column.

Assumptions: Pillow reads them, and gives the same bytes for a file wherever it does; a folder's name is a class. An
image's content is where it is: a path, or the table's bytes and their row.
"""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from framework.data.arrays import classes_of, whole_numbers
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.dictionary import is_text
from framework.data.fingerprint import fingerprint
from framework.data.image_arrays import as_bytes
from framework.data.image_sets import RawImages, shared_out
from framework.errors import InputError
from framework.graph.edges import Ids
from framework.registry import IMAGE_SETS

ENDINGS = (".png", ".jpg", ".jpeg")
_SPLITS = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "test": TEST}
_MODES = {"rgb": "RGB", "grey": "L"}
_READING = 3  # of how files are understood: raised whenever that changes, so that images are prepared again


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """What files of images are decoded to."""

    color: Literal["rgb", "grey"] = "rgb"
    """Three channels or one, whatever a file has. What is transparent shows white."""
    side: int = 0
    """Pixels of both sides; images of other sizes are resized. 0: they are as they come, all of one size."""

    def __post_init__(self) -> None:
        if self.color not in _MODES:
            raise InputError(f"--data.decoding.color is '{self.color}'; expected rgb or grey.")
        if self.side < 0:
            raise InputError(f"--data.decoding.side is {self.side}; expected a number of pixels, or 0.")

    def images(self, files: Sequence[Path | bytes], names: Sequence[str] | None = None) -> NDArray[np.uint8]:
        """[n, height, width, channels] of paths, or of what such files hold. `names`: what errors call each.

        Raises InputError naming one that is damaged or of another size than the first."""
        names = [_named(file) for file in files] if names is None else names
        decoded = [self._image(file, name) for file, name in zip(files, names, strict=True)]
        for name, image in zip(names, decoded, strict=True):
            if image.shape != decoded[0].shape:
                raise InputError(
                    f"{name} is {image.shape[1]} x {image.shape[0]} pixels; expected {decoded[0].shape[1]} x "
                    f"{decoded[0].shape[0]} as others are, or --data.decoding.side for all."
                )
        return np.stack(decoded)

    def _image(self, file: Path | bytes, name: str) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
                image = _on_white(_of_bytes(opened)).convert(_MODES[self.color])
        except UnidentifiedImageError as error:  # whose text has the address of bytes in memory
            raise InputError(f"{name} cannot be decoded (no image that Pillow knows). Mend or remove it.") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{name} cannot be decoded ({error}). Mend or remove it.") from error
        if self.side and image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels if pixels.ndim == 3 else pixels[..., None]


@IMAGE_SETS.register("image-folder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """A folder of PNG or JPEG files in a folder for each class; above these perhaps train, validation and test."""

    path: str
    """The folder: `CLASS/NAME.png`, or `train/CLASS/NAME.png` and so on."""
    decoding: Decoding = Decoding()
    """What the files are decoded to."""
    validation: float = 0.1
    """Share to validate on, by a hash of the place among all: of those to train on, where no folder is for that."""
    test: float = 0.1
    """Share to test on, where there are no folders train and test."""

    def fingerprint(self) -> str:
        """Digest of all files and their names. Raises InputError for a folder that is not there."""
        files = self._files()
        settings = {
            "names": [file.relative_to(self.path).as_posix() for file in files],
            "decoding": {**dataclasses.asdict(self.decoding), "reading": _READING},
            "shares": (self.validation, self.test),
        }
        return fingerprint(settings, files=files)

    def open(self) -> RawImages:
        """The files, by their names. Raises InputError for a folder without images, and for impossible shares."""
        files = self._files()
        names = [file.relative_to(self.path).parts for file in files]
        classes = sorted({name[-2] for name in names})
        number = {name: place for place, name in enumerate(classes)}
        return RawImages(
            contents=[str(file.absolute()) for file in files],
            ids=np.array(["/".join(name) for name in names]),
            labels=np.array([number[name[-2]] for name in names], np.int64),
            num_classes=len(classes),
            class_names=tuple(classes),
            split=self._split([name[0] for name in names if len(name) == 3], len(names)),
        )

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """The images in some of the files. Raises InputError naming one that is damaged, or of another size."""
        return self.decoding.images([Path(content) for content in contents])

    def _files(self) -> list[Path]:
        """All images beneath the folder, by name, through links to folders as well."""
        root = Path(self.path)
        if not root.is_dir():
            raise InputError(f"the folder '{self.path}' is not there; name it by --data.path.")
        found = sorted(file for file in _beneath(root) if file.suffix.lower() in ENDINGS)
        depths = {len(file.relative_to(root).parts) for file in found}
        if depths not in ({2}, {3}):
            given = f"images {sorted(depths)} names deep" if found else "no images"
            raise InputError(f"'{self.path}' holds {given}; expected CLASS/NAME.png, or train/CLASS/NAME.png for all.")
        self._require_classes(root, found)
        for file in found:
            if not _is_text(file.relative_to(root).as_posix()):
                raise InputError(f"the name of the image {str(file)!a} is not UTF-8; give the file another one.")
        return found

    def _require_classes(self, root: Path, found: Sequence[Path]) -> None:
        """Raises InputError for a class that would be lost: one whose folder has no image."""
        names = [file.relative_to(root).parts for file in found]
        split = len(names[0]) == 3
        if not split and {name[0] for name in names} <= {*_SPLITS}:
            raise InputError(f"'{self.path}' holds images in {names[0][0]}; expected {names[0][0]}/CLASS/NAME.png.")
        trained = {name[-2] for name in names if not split or _SPLITS.get(name[0]) == TRAIN}
        above = [folder for folder in root.iterdir() if _SPLITS.get(folder.name) == TRAIN] if split else [root]
        there = {each.name for folder in above for each in folder.iterdir() if each.is_dir() and each.name[0] != "."}
        if lost := sorted(there - trained):
            raise InputError(
                f"'{self.path}' holds no PNG or JPEG file of class '{lost[0]}' to learn from; add some, or remove the "
                "class's folder."
            )

    def _split(self, folders: list[str], images: int) -> NDArray[np.uint8]:
        """What every image is for, by the folder it is in, where they are in such."""
        if not folders:
            return shared_out(images, self.validation, self.test)
        unknown = sorted({*folders} - {*_SPLITS})
        if unknown:
            raise InputError(f"'{self.path}' holds a folder '{unknown[0]}'; expected {', '.join(_SPLITS)}.")
        split = np.array([_SPLITS[folder] for folder in folders], np.uint8)
        if not (split == VALIDATION).any():
            drawn = shared_out(images, self.validation, 0)
            split = np.where(split == TRAIN, drawn, split).astype(np.uint8)
        return split


@IMAGE_SETS.register("image-table")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Arrow or Parquet files with a column of PNG or JPEG files, and one of classes."""

    files: tuple[str, ...]
    """Files in Arrow's IPC format (.arrow, .feather) or in Parquet (.parquet)."""
    test_files: tuple[str, ...] = ()
    """Files of a test set of its own. Empty: the share `test` of all images."""
    image: str = "image"
    """The column of images: bytes of such a file, or a struct that has them as `bytes`."""
    label: str = "label"
    """The column of classes: whole numbers, or names."""
    decoding: Decoding = Decoding()
    """What the images are decoded to."""
    validation: float = 0.1
    """Share of the images, but for a test set's, to validate on, by a hash of their numbers."""
    test: float = 0.1
    """Share of the images to test on, where there is no test set."""

    def fingerprint(self) -> str:
        """Digest of the files and the settings. Raises InputError for a file that is not there."""
        settings = {
            "columns": (self.image, self.label),
            "files": (len(self.files), len(self.test_files)),
            "decoding": {**dataclasses.asdict(self.decoding), "reading": _READING},
            "shares": (self.validation, self.test),
        }
        return fingerprint(settings, files=map(Path, (*self.files, *self.test_files)))

    def open(self) -> RawImages:
        """The rows of all files. Raises InputError for a file that cannot be read or lacks a column."""
        table, tested = ([self._read(Path(file)) for file in files] for files in (self.files, self.test_files))
        if not table:
            raise InputError("--data.files names no file; expected at least one.")
        parts = list(zip((*self.files, *self.test_files), (*table, *tested), strict=True))
        for file, part in parts:
            if part.schema != table[0].schema:
                given, first = (some["label"].type for some in (part, table[0]))
                raise InputError(f"'{file}' has {given} in '{self.label}', '{self.files[0]}' {first}; save both alike.")
        places = [f"row {row} of '{file}'" for file, part in parts for row in range(len(part))]
        rows = pa.concat_tables([part for _, part in parts]).combine_chunks()
        labels, names = _classes(rows["label"])
        count = sum(map(len, table))
        split = shared_out(count, self.validation, 0 if tested else self.test)
        return RawImages(
            contents=list(zip(rows["image"].to_pylist(), places, strict=True)),
            labels=labels,
            num_classes=len(names) or classes_of(labels),
            class_names=names,
            split=np.concatenate([split, np.full(len(rows) - count, TEST, np.uint8)]),
        )

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        """The images in some of the rows. Raises InputError for one that is missing, damaged, or of another size."""
        for image, place in contents:
            if not image:
                raise InputError(f"{place} has no image in '{self.image}'; add one, or take the row out.")
        return self.decoding.images([image for image, _ in contents], [place for _, place in contents])

    def _read(self, file: Path) -> pa.Table:
        """The file's two columns, as `image` (bytes) and `label`."""
        try:
            columns = pq.read_schema(file).names if file.suffix == ".parquet" else _opened(file).schema.names
            lacking = [name for name in (self.image, self.label) if name not in columns]
            if lacking:
                raise InputError(f"'{file}' has no column '{lacking[0]}'; it has {', '.join(columns)}.")
            table = (
                pq.read_table(file, columns=[self.image, self.label])
                if file.suffix == ".parquet"
                else _opened(file).read_all()
            )
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"'{file}' cannot be read ({error}). Name a whole Arrow or Parquet file.") from error
        images = table[self.image]
        if pa.types.is_struct(images.type) and (place := images.type.get_field_index("bytes")) >= 0:
            held = [chunk.field("bytes") for chunk in images.chunks]
            images = pa.chunked_array(held, images.type.field(place).type)
        if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
            raise InputError(f"'{file}' has {images.type} in '{self.image}'; expected bytes of PNG or JPEG files.")
        labels = self._labels(file, table[self.label])
        return pa.table({"image": images.cast(pa.large_binary()), "label": labels})

    def _labels(self, file: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """A file's classes as int64 or text, whatever holds them. Raises InputError for a row that has none."""
        if pa.types.is_dictionary(column.type):
            decoded = [chunk.dictionary_decode() for chunk in column.chunks]
            column = pa.chunked_array(decoded, column.type.value_type)
        if not is_text(column.type):
            return pa.chunked_array([whole_numbers(f"column '{self.label}' of '{file}'", column.to_numpy())])
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise InputError(f"row {row} of '{file}' has no label in '{self.label}'; add one, or take the row out.")
        return column.cast(pa.large_string())


def _opened(file: Path) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(file)))


def _classes(column: pa.ChunkedArray) -> tuple[Ids, tuple[str, ...]]:
    """Classes as numbers, and their names in alphabetical order where they come as names."""
    if not is_text(column.type):
        return column.to_numpy(), ()
    names, numbers = np.unique(np.asarray(column.to_pylist(), dtype=np.str_), return_inverse=True)
    return numbers.astype(np.int64), tuple(names.tolist())


def _of_bytes(image: Image.Image) -> Image.Image:
    """The image itself; of two bytes a pixel, 65535 being white, its 255ths: Pillow would make all above 255 white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(as_bytes(np.asarray(image).astype(np.uint16)[None])[0, ..., 0])


def _on_white(image: Image.Image) -> Image.Image:
    """The image before white, where it is transparent: what colour hides beneath is not meant to be seen."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _beneath(root: Path) -> Iterator[Path]:
    """All files beneath a folder; links are followed but where they lead back to a folder that they were found in."""
    for name, folders, files in os.walk(root, followlinks=True):
        here = Path(name)
        folders[:] = [folder for folder in folders if not _leads_back(here / folder, root)]
        yield from (here / file for file in files)


def _leads_back(folder: Path, root: Path) -> bool:
    if not folder.is_symlink():
        return False
    there = folder.resolve()
    return any(above.resolve().is_relative_to(there) for above in folder.parents if above.is_relative_to(root))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(file: Path | bytes) -> str:
    return f"an image of {len(file)} bytes" if isinstance(file, bytes) else f"'{file}'"

"""Preparing images: the same bytes whoever decodes them, nothing decoded twice, damage named."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_images import Stripes

from framework.data.dataset import TRAIN, is_of_raw_files
from framework.data.image_files import ImageFolder
from framework.data.image_sets import RawImages
from framework.errors import InputError, NewerVersionError, PluginError, StoreError
from framework.prepare import images as images_module
from framework.prepare.images import WORK, Piece, decode_piece, prepare_images
from framework.samples.images import ImageReader, ImageStore
from framework.store.manifest import MANIFEST
from launch.inspect import inspect


def prepared(images: Any, root: Path, **settings: Any) -> ImageStore:
    return prepare_images(images, root, **settings).store


def files_of(store: ImageStore) -> dict[str, bytes]:
    names = [path for path in store.path.rglob("*") if path.is_file()]
    return {str(path.relative_to(store.path)): path.read_bytes() for path in names}


def test_what_is_read_is_what_was_decoded(tmp_path: Path) -> None:
    images = Stripes(images=50)
    store = prepared(images, tmp_path, images_a_part=16)
    assert store.offsets.tolist() == [0, 16, 32, 48, 50]
    assert store.shape == (7, 6, 2)
    reader, raw = ImageReader(store), images.open()
    everything = np.stack([images.image(number) for number in range(50)])
    assert np.array_equal(reader.pixels(torch.arange(50)).numpy(), everything)
    some = torch.tensor([49, 3, 3, 20, 0, 31, 32])
    assert np.array_equal(reader.pixels(some).numpy(), everything[some.numpy()])
    assert reader.pixels(some[:0]).shape == (0, 7, 6, 2)
    assert np.array_equal(reader.labels.numpy(), raw.labels)
    assert np.array_equal(reader.split.numpy(), raw.split)
    assert raw.ids is not None
    assert store.raw_ids().to_pylist() == raw.ids.tolist()
    assert ImageStore.open(store.path).means == store.means


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typed:
    """Stripes whose labels are of another type."""

    type: str

    def fingerprint(self) -> str:
        return self.type

    def open(self) -> RawImages:
        raw = Stripes(images=20, classes=2).open()
        return dataclasses.replace(raw, labels=raw.labels.astype(self.type))

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        return Stripes(images=20, classes=2).decode(contents)


@pytest.mark.parametrize("type_", ["int32", "uint8", "bool", "float32"])
def test_labels_of_any_type_are_whole_numbers(tmp_path: Path, type_: str) -> None:
    labels = ImageReader(prepared(Typed(type=type_), tmp_path)).labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1] * 10


def test_inspect_tells_of_it(tmp_path: Path) -> None:
    store = prepared(Stripes(), tmp_path, images_a_part=32)
    found = inspect(store.path, verify=True)
    assert (found.kind, found.verified) == ("images", True)
    assert [found.facts[name] for name in ("images", "size", "classes", "parts")] == [70, "7 x 6 x 2", 3, 3]
    assert [part["images"] for part in found.parts] == [32, 32, 6]


def test_training_images_are_normalised(tmp_path: Path) -> None:
    store = prepared(Stripes(), tmp_path)
    reader = ImageReader(store)
    trained = torch.nonzero(reader.split == TRAIN).squeeze(1)
    x = reader.scaled(reader.pixels(trained), torch.float64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(2, dtype=x.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(x.std(dim=(0, 2, 3), correction=0), torch.ones(2, dtype=x.dtype), rtol=1e-12, atol=0)
    raw = reader.pixels(trained).double() / 255
    assert store.means == pytest.approx(raw.mean(dim=(0, 1, 2)).tolist(), rel=1e-12)
    half = prepared(Constant(shape=(2, 2, 2), changing=True), tmp_path)
    assert half.deviations == (pytest.approx(np.std([0, 1, 2]) / 255), 1.0)


def test_images_that_are_all_of_one_colour_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"every pixel of the 3 training images is 7, 7; expected .* which differ"):
        prepared(Constant(shape=(2, 2, 2)), tmp_path)
    assert not list(tmp_path.rglob(MANIFEST))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """Three images, of one colour; or each of another in the first channel."""

    dtype: str = "uint8"
    shape: tuple[int, ...] = (2, 2, 1)
    changing: bool = False

    def fingerprint(self) -> str:
        return f"constant {self}"

    def open(self) -> RawImages:
        labels = np.zeros(3, np.int64)
        return RawImages(contents=[0, 1, 2], labels=labels, split=np.full(3, TRAIN, np.uint8), num_classes=1)

    def decode(self, contents: Sequence[Any]) -> NDArray[Any]:
        pixels = np.full((len(contents), *self.shape), 7, self.dtype)
        if self.changing:
            pixels[..., 0] = np.asarray(contents)[:, None, None]
        return pixels


def test_it_is_made_once_and_where_parts_end_shows_in_no_image(tmp_path: Path) -> None:
    first, again = (prepare_images(Stripes(), tmp_path, images_a_part=16) for _ in range(2))
    assert (first.reused, again.reused) == (False, True)
    other = prepared(Stripes(), tmp_path, images_a_part=1000)
    assert other.path != first.store.path
    assert other.data_digest == first.store.data_digest
    everything = torch.arange(70)
    assert ImageReader(other).pixels(everything).equal(ImageReader(first.store).pixels(everything))
    assert (other.means, other.deviations) == (first.store.means, first.store.deviations)
    assert [path for path in (tmp_path / WORK).iterdir() if path.is_dir()] == []


class KilledError(Exception):
    """As a kill would end it."""


def test_what_was_decoded_before_a_kill_is_not_decoded_again(tmp_path: Path) -> None:
    whole = files_of(prepared(Stripes(), tmp_path / "whole", images_a_part=8))
    done: list[int] = []

    def dying(function: Callable[[Piece], None], pieces: Sequence[Piece]) -> Iterator[None]:
        for piece in pieces:
            if len(done) == 4:
                raise KilledError
            done.append(piece.first)
            yield function(piece)

    with pytest.raises(KilledError):
        prepared(Stripes(), tmp_path / "cut", images_a_part=8, mapper=dying)
    (torn,) = (tmp_path / "cut" / WORK).glob("*/00002.arrow")
    os.truncate(torn, torn.stat().st_size // 2)
    again: list[int] = []

    def noting(function: Callable[[Piece], None], pieces: Sequence[Piece]) -> Iterator[None]:
        for piece in pieces:
            again.append(piece.first)
            yield function(piece)

    assert files_of(prepared(Stripes(), tmp_path / "cut", images_a_part=8, mapper=noting)) == whole
    assert done == [0, 8, 16, 24]
    assert again == [16, 32, 40, 48, 56, 64]


def test_a_piece_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "00000.arrow"
    synced: list[str] = []

    def to_disk(path: Path) -> None:
        assert not file.exists()
        synced.append(path.name)

    monkeypatch.setattr(images_module, "to_disk", to_disk)
    decode_piece(Piece(image_set=Constant(), contents=[0], first=0, example=0, shape=(2, 2, 1), file=file))
    assert file.exists()
    assert len(synced) == 1
    assert file.name in synced[0]


def test_whoever_prepares_the_same_waits_and_decodes_nothing(tmp_path: Path) -> None:
    waiting = threading.Event()
    reused = []

    def told(step: str, fraction: float) -> None:
        if step.startswith("wait"):
            waiting.set()

    def second() -> None:
        reused.append(prepare_images(Stripes(), tmp_path, mapper=never, progress=told, images_a_part=16).reused)

    def never(function: Callable[[Piece], None], pieces: Sequence[Piece]) -> Iterator[None]:
        raise AssertionError("nothing is decoded twice")

    def mapper(function: Callable[[Piece], None], pieces: Sequence[Piece]) -> Iterator[None]:
        other.start()
        assert waiting.wait(60)
        yield from map(function, pieces)

    other = threading.Thread(target=second)
    assert not prepare_images(Stripes(), tmp_path, mapper=mapper, images_a_part=16).reused
    other.join(60)
    assert reused == [True]


def write_pictures(root: Path) -> None:
    """PNG and JPEG files in two folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 9, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        path = root / f"class{number % 2}" / f"{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.mark.slow
def test_ray_decodes_the_same_bytes_as_a_stream_or_by_tasks(tmp_path: Path) -> None:
    import ray

    from launch.ray import Ray
    from launch.ray_mapper import by_tasks

    write_pictures(tmp_path / "pictures")
    images = ImageFolder(path=str(tmp_path / "pictures"))
    here = files_of(prepared(images, tmp_path / "here", images_a_part=7))
    try:
        assert is_of_raw_files(decode_piece)  # and so a stream
        assert files_of(prepared(images, tmp_path / "stream", images_a_part=7, mapper=Ray().mapper())) == here
        assert files_of(prepared(images, tmp_path / "tasks", images_a_part=7, mapper=by_tasks)) == here
        damaged = tmp_path / "pictures" / "class1" / "7.png"
        damaged.write_bytes(damaged.read_bytes()[:60])
        with pytest.raises(InputError, match=r"class1/7.png' cannot be decoded"):
            prepared(images, tmp_path / "stream", images_a_part=7, mapper=Ray().mapper())
    finally:
        ray.shutdown()


def test_images_of_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    failed = r"image set .*Stripes. failed on 16 images from number 16 on: ValueError: all input array.*small_images.py"
    with pytest.raises(PluginError, match=failed):
        prepared(Stripes(broken=20), tmp_path, images_a_part=16)
    with pytest.raises(PluginError, match=r"made images of \(1, 1, 2\) from number 20 on; expected \(7, 6, 2\)"):
        prepared(Stripes(broken=20), tmp_path, images_a_part=1)
    with pytest.raises(PluginError, match=r"made float32 \(1, 2, 2, 1\) of 1 images from number 0 on; expected uint8"):
        prepared(Constant(dtype="float32"), tmp_path)
    with pytest.raises(PluginError, match=r"made uint8 \(1, 2, 2\)"):
        prepared(Constant(shape=(2, 2)), tmp_path)


def test_a_file_of_another_size_is_named_wherever_parts_end(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    for file in sorted((tmp_path / "pictures").glob("class1/*")):
        Image.open(file).resize((4, 3)).save(file)
    images = ImageFolder(path=str(tmp_path / "pictures"))
    for most in (15, 30):  # a class a part, and all in one
        with pytest.raises(
            InputError, match=r"class1/1.png' is 4 x 3 pixels; expected 9 x 8 .*--data.decoding.side for"
        ):
            prepared(images, tmp_path / "stores", images_a_part=most)


def test_a_piece_is_decoded_where_its_scratch_is_seen(tmp_path: Path) -> None:
    piece = Piece(
        image_set=Constant(), contents=[0], first=0, example=0, shape=(2, 2, 1), file=tmp_path / "no" / "a.arrow"
    )
    with pytest.raises(InputError, match="is not there on host"):
        decode_piece(piece)


def test_damage_is_named(tmp_path: Path) -> None:
    store = prepared(Stripes(), tmp_path, images_a_part=32)
    pixels = store.path / "part-00001" / "pixels.arrow"
    whole = pixels.read_bytes()
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    pixels.write_bytes(altered)
    with pytest.raises(StoreError, match=r"part-00001/pixels.arrow' was altered"):
        ImageStore.open(store.path).verify()
    ImageStore.open(store.path).verify(0)
    pixels.write_bytes(whole[:-8])
    with pytest.raises(StoreError, match=r"part-00001/pixels.arrow' has \d+ bytes; the manifest says"):
        ImageStore.open(store.path)
    pixels.unlink()
    with pytest.raises(StoreError, match=r"part-00001/pixels.arrow' is missing"):
        ImageStore.open(store.path)
    assert prepared(Stripes(), tmp_path, images_a_part=32).verify() is None  # made anew
    manifest = store.path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(NewerVersionError, match="is of format version 9"):
        ImageStore.open(store.path)
    with pytest.raises(StoreError, match="is no store of images: it has no manifest.json"):
        ImageStore.open(tmp_path)

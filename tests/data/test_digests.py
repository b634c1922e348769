"""Digests of raw files: kept where nothing changed, made anew where anything did."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from framework.data import digests
from framework.data.digests import FOLDER, file_digest, remembering
from framework.data.npz import Npz
from framework.prepare import prepare
from partitioners.random import Random

LATER = 60_000_000_000  # nanoseconds; the clock of these tests is so far ahead, so that files have settled


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order; every file is large, and none is new."""
    seen: list[Path] = []
    clock, read = time.time_ns, digests._read

    def noted(path: Path) -> str:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(digests, "_read", noted)
    monkeypatch.setattr(digests, "_WORTH", 1)
    monkeypatch.setattr(digests.time, "time_ns", lambda: clock() + LATER)
    return seen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(b"nodes and edges")
    return path


def remembered(path: Path) -> str:
    with remembering(path.parent / "stores"):
        return file_digest(path)


def test_a_file_is_read_once(file: Path, reads: list[Path]) -> None:
    assert [remembered(file), remembered(file)] == [hashlib.sha256(b"nodes and edges").hexdigest()] * 2
    assert reads == [file]
    assert file_digest(file) == remembered(file)
    assert len(reads) == 2  # nobody remembers outside


@pytest.mark.parametrize("content", [b"nodes, no edges", b"more nodes and edges"])
def test_a_changed_file_is_read_again(content: bytes, file: Path, reads: list[Path]) -> None:
    remembered(file)
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` would
    assert remembered(file) == hashlib.sha256(content).hexdigest()
    assert reads == [file, file]


def test_a_file_that_was_just_written_is_not_kept(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests.time, "time_ns", lambda: file.stat().st_ctime_ns + 1)
    remembered(file), remembered(file)
    assert reads == [file, file]


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"sha256": 3}', json.dumps({"sha256": "0" * 64})])
def test_a_note_that_is_not_whole_is_made_anew(torn: str, file: Path, reads: list[Path]) -> None:
    whole = remembered(file)
    (note,) = (file.parent / "stores" / FOLDER).iterdir()
    note.write_text(torn)
    assert [remembered(file), remembered(file)] == [whole, whole]
    assert reads == [file, file]


def test_a_folder_that_takes_no_notes_changes_nothing(file: Path) -> None:
    (file.parent / "stores").write_text("a file")
    assert remembered(file) == hashlib.sha256(b"nodes and edges").hexdigest()


def test_prepare_reads_raw_files_once(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "graph.npz"
    np.savez(path, edge_index=np.array([[0, 1], [1, 2]]))
    first, second = (prepare(Npz(path=str(path)), Random(), 2, tmp_path / "stores") for _ in range(2))
    assert (first.path, first.reused, second.reused) == (second.path, False, True)
    assert reads == [path]

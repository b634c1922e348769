"""A folder for unfinished work: one at a time, kept where something failed, gone where nothing did."""

import threading
import time
from pathlib import Path

import pytest

from framework.errors import InputError
from framework.store.folder import once, work_folder


def test_whoever_needs_the_same_waits_and_then_finds_it(tmp_path: Path) -> None:
    path, work, made = tmp_path / "made", tmp_path / "work" / "it", list[str]()

    def make(folder: Path) -> None:
        made.append(threading.current_thread().name)
        for number in range(5):
            (work / f"piece-{number}").write_text("done")
            time.sleep(0.02)
        assert len(list(work.iterdir())) == 5  # nobody has removed what is under way
        (folder / "whole").write_text("done")

    def walk() -> None:
        with work_folder(work):
            assert once(path, lambda folder: (folder / "whole").read_text() if folder.exists() else missing(), make)

    threads = [threading.Thread(target=walk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert list((tmp_path / "work").iterdir()) == []


def missing() -> str:
    from framework.errors import StoreError

    raise StoreError("nothing is there")


def test_what_failed_is_kept(tmp_path: Path) -> None:
    def fail() -> None:
        with work_folder(tmp_path / "it") as work:
            (work / "piece").write_text("done")
            raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        fail()
    with work_folder(tmp_path / "it") as work:
        assert (work / "piece").read_text() == "done"
    assert list(tmp_path.iterdir()) == []

"""Rows on disk are rows like others, take no memory while they rest, and come back as they were. Large tensors lie on
huge pages wherever the framework was imported before the first one was made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework.memory import RowsOnDisk

COUNT, COLUMNS = 1 << 14, 256  # 16 MiB


def resident_file_pages() -> int:
    """Bytes of files that are in this process's memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile:"))
    return int(line.split()[1]) * 1024


def test_rows_take_memory_while_they_are_used(tmp_path: Path) -> None:
    kept = RowsOnDisk(COUNT, COLUMNS, tmp_path)
    before = resident_file_pages()
    kept.rows.copy_(torch.arange(COUNT * COLUMNS, dtype=torch.float32).view(COUNT, COLUMNS))
    used = resident_file_pages()
    kept.rest()
    rested = resident_file_pages()
    assert used - before >= COUNT * COLUMNS * 4
    assert rested - before < COUNT * COLUMNS
    assert torch.equal(kept.rows, torch.arange(COUNT * COLUMNS, dtype=torch.float32).view(COUNT, COLUMNS))


def test_rows_leave_nothing_behind(tmp_path: Path) -> None:
    rows = RowsOnDisk(4, 2, tmp_path).rows
    assert list(tmp_path.iterdir()) == []
    rows[:] = 1
    assert float(rows.sum()) == 8


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (3, 0)])
def test_there_may_be_none(tmp_path: Path, count: int, columns: int) -> None:
    kept = RowsOnDisk(count, columns, tmp_path)
    kept.rest()
    assert kept.rows.shape == (count, columns)


def test_a_folder_that_takes_no_files_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RowsOnDisk(4, 2, tmp_path / "missing")


_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADE = """
import torch, framework
large = torch.ones(16 << 20)
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages:")))
"""


@pytest.mark.skipif(
    not _HUGE_PAGES.exists() or "[never]" in _HUGE_PAGES.read_text(), reason="this system has no huge pages to give"
)
@pytest.mark.parametrize(("chosen", "some"), [(None, True), ("0", False)])
def test_large_tensors_lie_on_huge_pages_unless_the_user_says_no(chosen: str | None, some: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), **({"THP_MEM_ALLOC_ENABLE": chosen} if chosen else {})}
    said = subprocess.run([sys.executable, "-c", _MADE], env=environment, capture_output=True, text=True, check=True)
    if "[always]" in _HUGE_PAGES.read_text():
        some = True
    assert (int(said.stdout) > 0) is some

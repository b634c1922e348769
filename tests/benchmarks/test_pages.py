"""The pages of benchmarks: each is what its rows give, and every file of rows has one."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEASURED = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "\nDOCUMENT = " in path.read_text())


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_is_what_its_rows_give(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    benchmark = importlib.import_module(f"benchmarks.{name}")
    page = tmp_path / benchmark.DOCUMENT.name
    benchmark.render(benchmark.ROWS, page)
    assert page.read_text() == benchmark.DOCUMENT.read_text(), f"python -m benchmarks.{name} renders it anew"


def test_every_file_of_rows_and_every_page_has_a_benchmark() -> None:
    rows = {path.stem for path in (ROOT / "benchmarks" / "rows").iterdir()}
    pages = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.md")}
    assert rows <= set(MEASURED)
    assert pages == set(MEASURED)

"""What every benchmark shares: rows of JSON, where they were taken, and tables made of them.

Assumptions: a row is one measurement, appended to a file of JSON lines as soon as it is there and never changed, so
that a run that was stopped goes on where it stopped. Tables and plots are rendered from rows and never typed.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scipy import stats

Row = dict[str, Any]

ROWS = Path(__file__).parent / "rows"
DOCUMENTS = Path(__file__).parents[1] / "docs" / "benchmarks"
_PACKAGES = ("shardyard", "torch", "numpy", "scipy", "pymetis", "dgl", "torch_geometric")


def environment(*, seed: int, run_digest: str, data_digest: str) -> Row:
    """Where and of what a row is taken: the part that all rows have."""
    return {
        "git": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "seed": seed,
        "run_digest": run_digest,
        "data_digest": data_digest,
    }


def append(path: Path, row: Row) -> None:
    """Add `row` to the JSON lines of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.write(json.dumps(row, sort_keys=True) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of `path`, oldest first; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of their fields `names`, in the order these first appear."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def median(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    """The median of `value` over `rows`."""
    return statistics.median(map(value, rows))


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median and the quartiles around it, which lie between values where they fall between two; one value alone."""
    if len(values) < 2:
        return f"{values[0]:{form}}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def interval(values: Sequence[float], digits: int = 2) -> str:
    """The mean of differences with its 95 % confidence interval (Student's), as text."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.{digits}f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"


def markdown(headers: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

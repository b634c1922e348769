"""What commands print for people: tables and facts on stdout, as wide as the terminal or, in a pipe, as needed."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 400  # a pipe has no width: lines are never folded there


def console() -> Console:
    """Where tables go: stdout."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


def show(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """A table; numbers go to the right."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, header in enumerate(headers):
        numeric = all(isinstance(row[column], int | float) for row in rows)
        table.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text(cell) for cell in row))
    console().print(table)


def facts(values: Mapping[str, Any], title: str = "") -> None:
    """Names and values, one a line."""
    show(["", ""], [[name, text(value)] for name, value in values.items()], title)


def text(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"


def size(count: float) -> str:
    """A number of bytes: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_json(value: Any) -> None:
    """A value for a script: JSON on stdout."""
    print(json.dumps(value, indent=2))

"""What commands print for people: tables and facts on stdout, as wide as the terminal or, in a pipe, as needed."""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.plain import to_json

_PIPE_WIDTH = 1000  # a pipe has no width: lines are not folded there


def show(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """A table; numbers go to the right. Headers that are all empty are left out."""
    lines_known = (sys.stdout.encoding or "").lower().startswith("utf")
    style = box.SIMPLE_HEAD if lines_known else box.ASCII2
    shown = Text(title, style="table.title") if title else None
    table = Table(title=shown, title_justify="left", box=style, pad_edge=False, show_header=any(headers))
    for column, header in enumerate(headers):
        numeric = all(isinstance(row[column], int | float) for row in rows)
        table.add_column(Text(header), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text(cell)) for cell in row))  # plain text: a name may hold what rich takes for markup
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    plain = Console(width=_PIPE_WIDTH, highlight=False, file=io.StringIO())
    with plain.capture() as captured:
        plain.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join(line for line in lines if line) + "\n", flush=True)


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
    print(to_json(value, indent=2))

"""Writes the pages of docs/ that the code makes: every command's help, every plug-in, and the surveys' taxonomy.

`python tools/docs.py` writes them; with `--check` it writes nothing and fails where one differs from the code. Plug-ins
of other packages that happen to be installed are left out.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import taxonomy

from framework.registry import REGISTRIES, Entry, Registry
from launch import cli
from launch.plugins import field_docs

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by tools/docs.py; change the code it is made from, then run it again. -->"
RECIPE, PIPELINE = "sage-debian", "nat-multi30k"
_OURS = ("framework", "launch", "partitioners")
_COLUMNS = "100"


def command_page() -> str:
    """Help of the program, of every command, of one recipe's run and of one that is a pipeline."""
    lines = ["# The command line", "", MADE, "", *_block(_help())]
    for name, about in cli.COMMANDS.items():
        lines += [f"## shardyard {name}", "", about, "", *_block(_help(name))]
        if name == "train":
            lines += [f"### shardyard train {RECIPE}", "", "Every field of the run is a flag:", ""]
            lines += _block(_help(name, RECIPE))
            lines += [f"### shardyard train {PIPELINE}", "", "A pipeline has flags for all steps, and for each:", ""]
            lines += _block(_help(name, PIPELINE))
    return "\n".join(lines)


def plugin_page() -> str:
    """Every built-in plug-in with its settings, by kind."""
    lines = ["# Plug-ins", "", MADE, "", "`shardyard list KIND` shows the same of what is installed.", ""]
    for kind, registry in REGISTRIES.items():
        entries = [entry for entry in registry.entries() if entry.module.partition(".")[0] in _OURS]
        lines += [
            f"## {kind.capitalize()}s",
            "",
            f"Other packages add to them by an entry point `{registry.group}`.",
            "",
        ]
        for entry in entries:
            lines += [f"**{entry.name}** (`{entry.module}`): {entry.summary}", *_fields(registry, entry), ""]
    return "\n".join(lines).rstrip() + "\n"


def taxonomy_page() -> str:
    """The surveys' categories against the plug-ins."""
    return taxonomy.page(MADE)


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_page,
    "plugins.md": plugin_page,
    "taxonomy.md": taxonomy_page,
}


def main(arguments: list[str]) -> int:
    """Writes or checks every page. Returns 1 where a checked one differs."""
    code = 0
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        written = path.read_text() if path.exists() else ""
        if arguments != ["--check"]:
            path.write_text(text)
        elif text != written:
            change = difflib.unified_diff(
                written.splitlines(), text.splitlines(), f"docs/{name}", "the code", lineterm=""
            )
            print("\n".join(list(change)[:20]))
            print(f"docs/{name} is not what the code says; run `python tools/docs.py`.")
            code = 1
    return code


def _help(*command: str) -> str:
    """What `--help` prints, at a fixed width."""
    os.environ["COLUMNS"] = _COLUMNS
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(printed):
        assert cli.main([*command, "--help"]) == 0
        printed.flush()
    return printed.buffer.getvalue().decode()


def _block(text: str) -> list[str]:
    return ["```text", *(line.rstrip() for line in text.strip().splitlines()), "```", ""]


def _fields(registry: Registry, entry: Entry) -> list[str]:
    """A line a setting: its name, its default, what it is."""
    plugin = registry.get(entry.name)
    if not isinstance(plugin, type) or not dataclasses.is_dataclass(plugin) or not entry.fields:
        return []
    docs = field_docs(plugin)
    return ["", *(f"- `{name}` = `{default}`: {docs.get(name, '')}" for name, default in entry.fields.items())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The program's one logger, `shardyard`: silent about detail unless asked, and never set up by an import.

A library user configures it as any other logger; the command line calls `configure` once.
"""

import logging
import os

from framework.errors import InputError

NAME = "shardyard"
LEVELS = ("debug", "info", "warning", "error")


def logger() -> logging.Logger:
    """The logger that every part of the program writes to."""
    return logging.getLogger(NAME)


def configure(level: str | None = None) -> None:
    """Show messages of `level` and above on stderr, one line each. None: SHARDYARD_LOG, else `warning`.

    Calling it again changes the level alone. Raises InputError for a level that there is not."""
    chosen = level or os.environ.get("SHARDYARD_LOG", "warning")
    if chosen not in LEVELS:
        raise InputError(f"the log level is '{chosen}'; expected one of {', '.join(LEVELS)}.")
    ours = logger()
    ours.setLevel(chosen.upper())
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        ours.addHandler(handler)
        ours.propagate = False

"""Data files that come inside other packages, and what to say where a package is missing."""

import importlib.util
from pathlib import Path

from framework.errors import InputError


def packaged_file(package: str, path: str, *, extra: str) -> Path:
    """The file `path` inside an installed package, which is not imported.

    `extra`: the one of ours that installs it. Raises InputError where the package, or the file in it, is not there."""
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:
        spec = None
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    found = [Path(folder, path) for folder in folders if Path(folder, path).is_file()]
    if not found:
        raise missing(package, extra, f"the file '{path}' inside it")
    return found[0]


def missing(package: str, extra: str, wanted: str) -> InputError:
    """The error of a package that is not installed for what is `wanted`."""
    return InputError(f"{package} is not there for {wanted}: pip install 'shardyard[{extra}]'.")

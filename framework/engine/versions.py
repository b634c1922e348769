"""What a result was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("shardyard", "torch", "ray", "pyarrow", "numpy", "scipy", "safetensors")


def versions() -> dict[str, str]:
    """Library -> version, Python's included; a library that is not installed is left out."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found

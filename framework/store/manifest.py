"""The manifest of a prepared folder: what the folder holds, size and digest of every file, and a checksum of itself.

Assumptions: a folder appears whole (by rename) and is never written again; the manifest is written last. Whoever makes
a kind of folder has a name for it (`format`) and raises its version whenever what is written changes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.errors import NewerVersionError, StoreError
from framework.store.columns import REMEDY, FileFacts

MANIFEST = "manifest.json"
_STEP = 16 << 20  # bytes that are read at once


def write_manifest(folder: Path, content: Mapping[str, Any], *, format: str, version: int) -> None:
    """Writes the manifest of `folder`: plain values, `files` (path inside the folder -> FileFacts). Raises OSError."""
    whole = {"format": format, "version": version, **content}
    whole["files"] = {name: dataclasses.asdict(facts) for name, facts in content["files"].items()}
    whole = json.loads(json.dumps(whole))  # as it will be read: keys that are numbers become text, in another order
    (folder / MANIFEST).write_text(json.dumps({**whole, "checksum": _checksum(whole)}, indent=1))


def read_manifest(
    folder: Path,
    *,
    format: str,
    versions: Collection[int],
    what: str,
    needs: Callable[[str], bool] | None = None,
) -> dict[str, Any]:
    """What `write_manifest` was given for `folder`, checked against its checksum and the sizes of its files.

    `what`: the kind of folder, as a user calls it. `needs`: whether a file, by its path inside the folder, has to be
    there; None: each has. Raises StoreError for a folder that is none, torn or altered, or of
    a version that is not one of `versions`; NewerVersionError for a version above all of them."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum", None)
        found, version = content["format"], content["version"]
    except FileNotFoundError as error:
        raise StoreError(f"'{folder}' is no {what}: it has no {MANIFEST}. Make one by `prepare`.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"'{path}' is torn or no manifest ({type(error).__name__}). {REMEDY}") from error
    newest = max(versions)
    if found != format:  # not ours to replace: perhaps a newer program knows it
        raise NewerVersionError(f"'{path}' is of a '{found}'; expected a '{format}', that is a {what}.")
    if not isinstance(version, int) or version > newest:
        raise NewerVersionError(
            f"'{path}' is of format version {version}; this program reads up to {newest}. "
            "Update shardyard, or prepare the store again."
        )
    if version not in versions:
        raise StoreError(f"'{path}' is of the old format version {version}; expected {newest}. {REMEDY}")
    if checksum != _checksum(content):
        raise StoreError(f"'{path}' was altered: its checksum is not that of its content. {REMEDY}")
    content["files"] = {name: FileFacts(**facts) for name, facts in content["files"].items()}
    for name, facts in content["files"].items():
        if needs is None or needs(name):
            _check_size(folder / name, facts)
    return {name: value for name, value in content.items() if name not in ("format", "version")}


def verify_files(folder: Path, files: Mapping[str, FileFacts], *, within: str = "") -> None:
    """Reads every byte of every file whose path begins with `within`. Raises StoreError naming one that is altered."""
    for _ in verifying(folder, {name: facts for name, facts in files.items() if name.startswith(within)}):
        pass


def verifying(folder: Path, files: Mapping[str, FileFacts]) -> Iterator[None]:
    """`verify_files` of all `files`, some megabytes a step."""
    for name, facts in files.items():
        path, digest = folder / name, hashlib.sha256()
        _check_size(path, facts)
        try:
            with path.open("rb") as file:
                while chunk := file.read(_STEP):
                    digest.update(chunk)
                    yield
        except OSError as error:
            raise StoreError(f"'{path}' cannot be read: {error.strerror}. {REMEDY}") from error
        if digest.hexdigest() != facts.sha256:
            raise StoreError(f"'{path}' was altered: its SHA-256 is not the manifest's. {REMEDY}")


def format_of(folder: Path) -> str:
    """The `format` that a folder's manifest names; empty where there is no manifest that can be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check_size(path: Path, facts: FileFacts) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"'{path}' is missing. {REMEDY}") from error
    if size != facts.bytes:
        raise StoreError(f"'{path}' has {size} bytes; the manifest says {facts.bytes}. {REMEDY}")


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

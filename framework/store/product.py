"""The folder of what a step of a pipeline made: its files, what it says of them, and a manifest over all.

Assumptions: the folder appears whole (by rename) and is never written again. Who makes it writes files, in folders of
its own choice, and no manifest: that is written last, over whatever files there are.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.errors import PluginError
from framework.store.columns import FileFacts
from framework.store.folder import LOCK
from framework.store.manifest import MANIFEST, read_manifest, verify_files, write_manifest

FORMAT = "shardyard-product"
VERSION = 1
"""Of the format: raised whenever what is written changes, so that an older folder is made again."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProductFolder:
    """What a step made, on disk."""

    path: Path
    """The folder."""
    digest: str
    """What it is a function of: the step's value, with the digests of the steps it depends on. 64 hex digits."""
    facts: Mapping[str, Any]
    """What the step says of it: plain values."""
    files: Mapping[str, FileFacts]
    """Every file but the manifest, by its path inside the folder."""

    @classmethod
    def open(cls, path: Path | str) -> "ProductFolder":
        """The product in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=[VERSION], what="product of a pipeline")
        return cls(path=path, **content)

    @classmethod
    def seal(cls, path: Path, *, digest: str, facts: Mapping[str, Any]) -> "ProductFolder":
        """Writes the manifest over the files of the folder `path`: the last step of making it.

        Raises OSError, and PluginError where somebody wrote a manifest already."""
        if (path / MANIFEST).exists():
            raise PluginError(f"a product wrote '{path / MANIFEST}' itself; expected its files alone, and facts.")
        named = sorted(file for file in path.rglob("*") if file.is_file() and file != path / LOCK)
        files = {str(file.relative_to(path)): FileFacts.of(file) for file in named}
        write_manifest(path, {"digest": digest, "facts": dict(facts), "files": files}, format=FORMAT, version=VERSION)
        return cls(path=path, digest=digest, facts=facts, files=files)

    def verify(self) -> None:
        """Reads every byte of every file. Raises StoreError that names one not as its digest says."""
        verify_files(self.path, self.files)

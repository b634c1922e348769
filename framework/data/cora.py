"""Cora, the citation graph that recipes are small on; its file is not in this package, but on the user's disk.

Assumption: the file is an archive as `Npz` reads it, every citation given once.
"""

import dataclasses
import os
from pathlib import Path

from framework import config
from framework.data.dataset import RawGraph
from framework.data.npz import Npz
from framework.errors import InputError
from framework.registry import DATASETS

VARIABLE = "SHARDYARD_CORA"
"""The environment variable that says where the file is."""
_HERE = "cora.npz"


@DATASETS.register("cora")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cora:
    """Cora with its Planetoid split, from an .npz file of yours."""

    path: str = config.placement("")
    """The file, as the data set `npz` reads it. Empty: $SHARDYARD_CORA, else ./cora.npz."""
    row_normalized: bool = False
    """Whether a node's words are divided by their number."""

    def fingerprint(self) -> str:
        """Digest of the file. Raises InputError where it is not there."""
        return self._archive().fingerprint()

    def open(self) -> RawGraph:
        """The graph. Raises InputError as Npz does."""
        return self._archive().open()

    def _archive(self) -> Npz:
        path = self.path or os.environ.get(VARIABLE) or _HERE
        if not Path(path).is_file():
            raise InputError(f"Cora's file '{path}' is not there; name it by --data.path or ${VARIABLE}.")
        return Npz(path=path, row_normalized=self.row_normalized)

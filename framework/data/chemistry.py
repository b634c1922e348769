"""RDKit for graphs: atoms' features, bonds, and conformers that are seeded, cached and the same in any process.

Assumptions: molecules come without explicit hydrogens; a conformer is a function of its molecule's canonical SMILES,
the seed, the steps of optimisation and RDKit's version, which name its file in the cache.
"""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.data.packaged import missing
from framework.graph.edges import Ids
from framework.random import Key

ATOMIC_NUMBERS = (5, 6, 7, 8, 9, 15, 16, 17, 35, 53)
"""Elements with a feature of their own; the others share one."""
MOST_BONDS, MOST_HYDROGENS = 5, 4
"""Atoms with more count as having so many."""
FEATURES = len(ATOMIC_NUMBERS) + 1 + MOST_BONDS + 1 + MOST_HYDROGENS + 1 + 3
"""Columns of `features_of`: 25."""
_SEEDS = (1 << 31) - 1


def library() -> Any:
    """RDKit. Raises InputError where it is not installed."""
    try:
        import rdkit
    except ImportError as error:
        raise missing("rdkit", "chem", "molecules") from error
    return rdkit


def parsed(text: str) -> Any | None:
    """The molecule of a SMILES or of a block of SDF, hydrogens taken off; None where it is none."""
    library()
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromMolBlock(text) if "\n" in text else Chem.MolFromSmiles(text)
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def canonical(molecule: Any) -> str:
    """The molecule's canonical SMILES."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule))


def features_of(molecule: Any) -> NDArray[np.float32]:
    """The atoms' features, [atoms, 25]: one-hot element (11), bonds (6) and hydrogens (5); charge, ring, aromatic."""
    rows = []
    for atom in molecule.GetAtoms():
        element = _one_hot(_place(atom.GetAtomicNum()), len(ATOMIC_NUMBERS) + 1)
        bonds = _one_hot(min(atom.GetDegree(), MOST_BONDS), MOST_BONDS + 1)
        hydrogens = _one_hot(min(atom.GetTotalNumHs(), MOST_HYDROGENS), MOST_HYDROGENS + 1)
        others = [atom.GetFormalCharge(), atom.IsInRing(), atom.GetIsAromatic()]
        rows.append([*element, *bonds, *hydrogens, *map(float, others)])
    return np.asarray(rows, np.float32).reshape(-1, FEATURES)


def bonds_of(molecule: Any) -> Ids:
    """Every bond once, as the numbers of its atoms: int64 [bonds, 2]."""
    pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def own_positions(molecule: Any) -> NDArray[np.float64] | str:
    """Where a molecule's file says that its atoms are, [atoms, 3]; or why that is not known."""
    if not molecule.GetNumConformers() or not molecule.GetConformer().Is3D():
        return "its file has no positions in three dimensions"
    return np.asarray(molecule.GetConformer().GetPositions(), np.float64)


def conformer(smiles: str, seed: int, steps: int, cache: Path) -> NDArray[np.float64] | str:
    """Where the atoms of a molecule are in one conformer, in angstroms, [atoms, 3]; or why there is none.

    Atoms are in the order of the SMILES. Hydrogens are added, distances embedded (ETKDG version 3; Wang et al., J.
    Chem. Inf. Model. 60(4), 2020), UFF takes `steps` at most, and hydrogens are left out. Answers, and refusals, are
    kept in `cache`."""
    name = hashlib.sha256(json.dumps([smiles, seed, steps, library().__version__]).encode()).hexdigest()
    file = cache / "conformers" / name[:2] / f"{name}.json"
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        known = _computed(smiles, Key.root(seed).fold(int(name[:16], 16)).value % _SEEDS, steps)
        file.parent.mkdir(parents=True, exist_ok=True)
        torn = file.with_name(f".{uuid.uuid4().hex}")
        torn.write_text(json.dumps(known))
        torn.replace(file)
    return known if isinstance(known, str) else np.asarray(known, np.float64)


def _computed(smiles: str, seed: int, steps: int) -> list[list[float]] | str:
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    molecule = parsed(smiles)
    if molecule is None:
        return f"rdkit cannot read the SMILES it gave, {smiles}"
    with rdBase.BlockLogs():
        whole = Chem.AddHs(molecule)  # hydrogens follow the atoms that are there
        settings: Any = rdDistGeom.ETKDGv3()
        settings.randomSeed, settings.numThreads = seed, 1
        if rdDistGeom.EmbedMolecule(whole, settings) != 0:
            settings.useRandomCoords = True  # slower, and finds what the usual start does not
            if rdDistGeom.EmbedMolecule(whole, settings) != 0:
                return "rdkit embeds no conformer"
        if steps and rdForceFieldHelpers.UFFHasAllMoleculeParams(whole):  # else the embedding stays as it is
            rdForceFieldHelpers.UFFOptimizeMolecule(whole, maxIters=steps)
    positions: list[list[float]] = whole.GetConformer().GetPositions()[: molecule.GetNumAtoms()].tolist()
    return positions


def _place(element: int) -> int:
    return ATOMIC_NUMBERS.index(element) if element in ATOMIC_NUMBERS else len(ATOMIC_NUMBERS)


def _one_hot(place: int, width: int) -> list[float]:
    return [float(column == place) for column in range(width)]

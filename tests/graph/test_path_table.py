"""Path tables: what is mapped is what was found, however it was cut into pieces, and damage is seen."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.errors import InputError, NewerVersionError, StoreError
from framework.graph.paths import PathTable, joined, write_edge_costs, write_piece
from framework.kernels.csr import build_csr
from framework.kernels.paths import CostRows, FoundPaths, PathRule, find_paths, sort_rows
from framework.store.columns import ALIGNMENT
from framework.store.manifest import MANIFEST

NODES, EDGES = 60, 240
RULE = PathRule(longest=4, degree_ratio=1.0)


@pytest.fixture(scope="module")
def rows() -> CostRows:
    generator = torch.Generator().manual_seed(0)
    graph = build_csr(*torch.randint(0, NODES - 5, (2, EDGES), generator=generator), NODES)
    return sort_rows(graph.indptr, graph.indices, torch.rand(EDGES, generator=generator))


def table_of(rows: CostRows, folder: Path, *starts: int) -> PathTable:
    folder.mkdir()
    files, counts = write_edge_costs(folder, torch.from_numpy(rows.costs)), []
    for number, (first, last) in enumerate(itertools.pairwise(starts)):
        found = find_paths(rows, np.arange(first, last), RULE)
        files |= write_piece(folder, number, found, RULE)
        counts.append(tuple(len(paths.costs) for paths in found.lengths))
    PathTable(
        path=folder, digest="d", graph_digest="g", rule=RULE, starts=starts, counts=tuple(counts), files=files
    ).seal()
    return PathTable.open(folder)


def assert_same(one: FoundPaths, other: FoundPaths) -> None:
    for ours, theirs in zip(one.lengths, other.lengths, strict=True):
        for field in dataclasses.fields(ours):
            assert torch.equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert torch.equal(one.radii, other.radii)


@pytest.mark.parametrize("starts", [(0, NODES), (0, 20, 20, 59, NODES), (0, 0, 13, 14, 30, NODES, NODES)])
def test_a_table_of_several_pieces_is_one_computed_whole(rows, tmp_path, starts):
    table = table_of(rows, tmp_path / "table", *starts)
    whole = find_paths(rows, np.arange(NODES), RULE)
    assert_same(table.between(0, NODES), whole)
    assert_same(joined([table.piece(number) for number in range(table.pieces)]), whole)
    for first, last in ((0, 7), (13, 14), (15, 55), (58, 60), (30, 30), (60, 60)):
        assert_same(table.between(first, last), find_paths(rows, np.arange(first, last), RULE))
    assert (table.num_nodes, table.pieces) == (NODES, len(starts) - 1)
    assert table.rule == RULE
    assert torch.equal(table.edge_costs(), torch.from_numpy(rows.costs))


@pytest.mark.parametrize("starts", [(0, NODES), (0, 13, 13, 30, NODES)])
def test_some_centres_in_any_order(rows, tmp_path, starts):
    table = table_of(rows, tmp_path / "table", *starts)
    generator = torch.Generator().manual_seed(1)
    some = torch.randperm(NODES, generator=generator)[:25]
    for centres in (some, some.sort().values, torch.arange(20, 41), some[:1], some[:0]):
        expected = find_paths(rows, centres.numpy(), RULE).lengths
        for ours, theirs in zip(table.of(centres), expected, strict=True):
            for field in dataclasses.fields(ours):
                assert torch.equal(getattr(ours, field.name), getattr(theirs, field.name))


def test_what_lies_in_one_piece_is_mapped(rows, tmp_path):
    table = table_of(rows, tmp_path / "table", 0, 30, NODES)
    found = table.between(30, NODES)
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for length, paths in zip(RULE.lengths, found.lengths, strict=True):
        for field in dataclasses.fields(paths):
            file = str(table.path / "part-00001" / f"{field.name}-{length}.arrow")
            ranges = [mapping[0].split("-") for mapping in mappings if mapping[-1] == file]
            pointer = getattr(paths, field.name).data_ptr()
            assert any(int(start, 16) <= pointer < int(end, 16) for start, end in ranges), file
            assert pointer % ALIGNMENT == 0


def test_damage_is_named(rows, tmp_path):
    table = table_of(rows, tmp_path / "table", 0, 30, NODES)
    victim = table.path / "part-00001" / "nodes-3.arrow"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(StoreError, match="nodes-3.arrow' was altered: its SHA-256 is not the manifest's"):
        PathTable.open(table.path)
    assert PathTable.open(table.path, verify=False).pieces == 2
    victim.write_bytes(content[:-8])
    with pytest.raises(StoreError, match="nodes-3.arrow' has .* bytes; the manifest says"):
        PathTable.open(table.path, verify=False)
    victim.unlink()
    with pytest.raises(StoreError, match="nodes-3.arrow' is missing"):
        PathTable.open(table.path, verify=False)


def test_a_folder_of_another_kind_or_version_is_refused(rows, tmp_path):
    with pytest.raises(StoreError, match="is no path table"):
        PathTable.open(tmp_path)
    table = table_of(rows, tmp_path / "table", 0, NODES)
    manifest = table.path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(NewerVersionError, match="format version 99"):
        PathTable.open(table.path)


def test_no_such_piece_or_centre(rows, tmp_path):
    table = table_of(rows, tmp_path / "table", 0, NODES)
    with pytest.raises(InputError, match="no piece 1; expected 0 to 0"):
        table.piece(1)
    with pytest.raises(InputError, match="no centres 3 to 61; expected 0 to 60"):
        table.between(3, 61)

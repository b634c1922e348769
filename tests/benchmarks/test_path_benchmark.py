"""The benchmark of the search for paths: what it is measured against finds the same paths, and rows become tables."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from framework.data.generators import Planted
from framework.kernels.paths import PathRule, find_paths, sort_rows


def test_the_scan_of_whole_trees_finds_as_many_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import paths

    graph, costs = paths._graph(Planted(nodes=400, edges=1600, blocks=4, classes=3, features=0))
    assert 0 < float(costs.min()) < 0.5 < float(costs.max()) <= 1
    matrix = csr_matrix((costs.double().numpy(), graph.indices.numpy(), graph.indptr.numpy()), (400, 400))
    centres = np.arange(0, 400, 9)
    _, before = dijkstra(matrix, indices=centres, return_predecessors=True)
    found = find_paths(sort_rows(graph.indptr, graph.indices, costs), centres, PathRule(degree_ratio=1e6))
    assert paths._scan(before, centres) == sum(len(of_length.costs) - len(centres) for of_length in found.lengths)


def test_the_tables_are_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import paths

    assert paths._longest([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    monkeypatch.setattr(paths, "SMALL", Planted(nodes=300, edges=1200, blocks=4, classes=3, features=0))
    monkeypatch.setattr(paths, "LARGE", Planted(nodes=500, edges=2000, blocks=4, classes=3, features=0))
    monkeypatch.setattr(paths, "SIZES", (100, 500))
    rows, table = tmp_path / "rows.jsonl", tmp_path / "table.md"
    for measure in (paths._beside, paths._sizes):
        measure(2, rows)
    paths.render(rows, table)
    text = table.read_text()
    assert "## Beside other ways: 300 nodes, 1,200 edges" in text
    assert text.count("| SciPy's Dijkstra | 200 |") == 1
    assert "| 500 |" in text

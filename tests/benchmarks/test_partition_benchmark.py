"""The partition benchmark measures in processes of its own, goes on where it stopped, and renders what it measured."""

import json
import sys
from pathlib import Path

import pytest

from framework.data.generators import Planted


def test_rows_are_measured_once_and_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import harness, partition

    graph = Planted(nodes=2_000, edges=30_000, blocks=16, classes=8, features=0)
    monkeypatch.setattr(partition, "PRESETS", {"planted": graph})
    rows, table = tmp_path / "rows.jsonl", tmp_path / "table.md"

    def run(*only: str) -> None:
        names = ["--graphs", "planted", "--parts", "4", "--only", *only, "--out", str(rows), "--render", str(table)]
        monkeypatch.setattr(sys, "argv", ["partition", *names])
        partition.main()

    run("random")
    first = rows.read_text()
    run("random", "dbh")
    assert rows.read_text().startswith(first)
    measured = harness.read(rows)
    assert [(row["name"], row["kind"]) for row in measured] == [("random", "edge-cut"), ("dbh", "vertex-cut")]
    assert measured[0]["data_digest"] == graph.fingerprint()
    assert measured[0]["plugin"] == {"plugin": "partitioner:random", "seed": 0}
    assert {"git", "versions", "cores", "seed", "run_digest"} <= set(measured[0])
    cut = json.loads(first)["quality"]["cut_ratio"]
    assert f"| random | {cut:.3f} |" in table.read_text()
    assert "## planted, 4 parts" in table.read_text()

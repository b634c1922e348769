"""A package of somebody else is installed; its partitioner is listed, made, checked and used by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "plugin_package"
ROOT = Path(__file__).parents[1]

SCRIPT = """
import dataclasses, json
from framework import config
from framework.conformance import check_partitioner
from framework.registry import PARTITIONERS

entry, = [entry for entry in PARTITIONERS.entries() if entry.name == "dealer"]
dealer = PARTITIONERS.get("dealer")(node_cost=3)
report = check_partitioner(dealer)
print(json.dumps({
    "entry": dataclasses.asdict(entry),
    "encoded": config.encode(dealer),
    "same": config.decode(config.encode(dealer)) == dealer,
    "checks": [dataclasses.asdict(check) for check in report.checks],
    "rated": [rated.name for rated in report.qualities],
    "edge_balance": report.qualities[0].quality.edge_balance if report.qualities else None,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package was installed into."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "shardyard_dealer.py"):
        (source / name).write_bytes((PACKAGE / name).read_bytes())
    target = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True)
    return target


def test_an_installed_plugin_is_as_good_as_a_builtin(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, cwd=installed, check=False
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["entry"] == {
        "name": "dealer",
        "module": "shardyard_dealer",
        "summary": "Balances in-edges as well as can be, and does not look at the cut.",
        "fields": {"node_cost": "1"},
    }
    assert found["encoded"] == {"plugin": "partitioner:dealer", "node_cost": 3}
    assert found["same"]
    assert [check for check in found["checks"] if not check["passed"]] == []
    assert found["rated"][0] == "dealer"
    assert {"metis", "spinner", "hdrf"} <= set(found["rated"])
    assert found["edge_balance"] < 1.001


def test_the_guide_shows_the_package_as_it_is() -> None:
    guide = (ROOT / "docs" / "guides" / "write-a-partitioner.md").read_text()
    for name in ("pyproject.toml", "shardyard_dealer.py"):
        assert (PACKAGE / name).read_text().strip() in guide

"""A run as a value: it comes back from its dict; a dict from elsewhere can neither call nor import what it likes."""

import dataclasses
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from line_workload import Line

from framework import registry
from framework.config import decode, encode
from framework.engine.folder import read_run
from framework.engine.run import Run
from framework.errors import InputError
from framework.models.node_model import Module
from framework.registry import PARTITIONERS, RECIPES, Registry

ROOT = Path(__file__).parents[1]

STRANGER = """
import dataclasses
open("imported", "w").close()

@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized:
    size: int = 1
"""


@dataclasses.dataclass(kw_only=True)
class Mutable:
    """A dataclass that is no plug-in."""


def harmless() -> None:
    """A function that is no plug-in."""


def test_a_run_comes_back_from_its_dict() -> None:
    run = Run(workload=Line(), workers=3, seed=7)
    assert decode(json.loads(json.dumps(encode(run)))) == run


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        {"plugin": "subprocess:run", "args": ["touch", "called"]},
        {"plugin": "recipe:os:system", "command": "touch called"},
        {"plugin": "partitioner:os:system", "command": "touch called"},
        {"plugin": "os:system", "command": "touch called"},
        {"plugin": "subprocess:Popen", "args": ["touch", "called"]},
        {"plugin": "recipe:sage-debian"},
        {"plugin": f"{__name__}:harmless"},
        {"plugin": f"{__name__}:Mutable"},
        {"plugin": f"{__name__}:Run", "workload": None},
        {"plugin": 5},
        {"plugin": None},
        {"plugin": ["partitioner:fennel"]},
    ],
)
def test_what_is_no_plug_in_is_not_called(
    payload: dict[str, Any], trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        decode(payload, trusted=trusted)
    with pytest.raises(InputError):
        decode({"plugin": "framework.engine.run:Run", "workload": [payload]}, trusted=trusted)
    (tmp_path / "run.json").write_text(json.dumps(payload))
    with pytest.raises(InputError):
        read_run(tmp_path, trusted=trusted)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("plugin", ["stranger:Sized", "partitioner:stranger:Sized"])
def test_a_strangers_module_is_imported_only_when_trusted(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError):
        decode({"plugin": plugin, "size": 2})
    assert not (tmp_path / "imported").exists()
    if plugin == "stranger:Sized":
        with pytest.raises(InputError, match="no installed plug-in announces.*--trust"):
            decode({"plugin": plugin, "size": 2})
        assert encode(decode({"plugin": plugin, "size": 2}, trusted=True)) == {"plugin": plugin, "size": 2}
        assert decode({"plugin": plugin, "size": 3}).size == 3, "it is imported by now"
        del sys.modules["stranger"]


def test_a_network_of_a_strangers_module_is_refused_alike() -> None:
    model = Module(network="stranger_networks:Net")
    assert decode(encode(model), trusted=True) == model
    with pytest.raises(InputError, match="'stranger_networks:Net' is of a module that no installed plug-in"):
        decode(encode(model))
    with pytest.raises(InputError, match="name is 5; expected text"):
        decode({**encode(model), "network": 5})
    with pytest.raises(InputError, match="'torch.nn:Bilinear' is of a module that no installed plug-in"):
        decode(encode(Module(network="torch.nn:Bilinear")))  # imported already, and would be called
    known = Module(network="framework.models.nodes:NodeNetwork")
    assert decode(encode(known)) == known


def test_encoding_a_run_imports_no_kind_that_it_does_not_hold() -> None:
    script = (
        "import sys\nfrom framework.config import encode\nfrom partitioners.fennel import Fennel\n"
        "assert encode(Fennel())['plugin'] == 'partitioner:fennel'\n"
        "strange = sorted(name for name in sys.modules if name.partition('.')[0] == 'launch')\n"
        "assert not strange, strange\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


class _Distribution:
    """An installed package that announces what cannot be imported, and something that can."""

    entry_points = (
        EntryPoint(name="broken", value="no_such_module:Thing", group="shardyard.partitioners"),
        EntryPoint(name="whole", value="line_workload:Line", group="shardyard.partitioners"),
        EntryPoint(name="whole", value="of_a_second_package:Line", group="shardyard.partitioners"),
        EntryPoint(name="module", value="line_workload", group="shardyard.partitioners"),
        EntryPoint(name="script", value="leaving_script:Thing", group="shardyard.partitioners"),
    )


def test_a_broken_entry_point_is_listed_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_script.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "distributions", lambda: [_Distribution()])
    registry._entry_points.cache_clear()
    try:
        entries = {entry.name: entry for entry in PARTITIONERS.entries()}
        assert entries["broken"].summary.startswith("broken: partitioner 'broken' (no_such_module:Thing) could not be")
        assert (entries["broken"].module, entries["broken"].fields) == ("no_such_module", {})
        assert entries["whole"].module == "line_workload"
        assert (
            "(line_workload) is a module; expected a class: give the entry point as MODULE:"
            in entries["module"].summary
        )
        assert entries["script"].summary.endswith("could not be imported: SystemExit: 3")
        assert "fennel" in entries
        assert PARTITIONERS.name_of(Line) == "whole"
        assert encode(Line())["plugin"] == "partitioner:whole"
        assert registry.is_known("no_such_module.inner")
        assert not registry.is_known("another_module")
        with pytest.raises(InputError, match="could not be imported: ModuleNotFoundError"):
            PARTITIONERS.get("broken")
    finally:
        registry._entry_points.cache_clear()


THINGS = """
from framework.registry import Registry

THINGS = Registry("thing", builtin="thing_package")
"""
THING = """
import time
from things import THINGS

assert THINGS.names() == [], "a module may ask, and has no whole answer yet"
time.sleep(0.3)

@THINGS.register("one")
class One: pass
"""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry of the one built-in that `thing_package/one.py` beneath the path registers."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "thing_package").mkdir()
    (tmp_path / "things.py").write_text(THINGS)
    (tmp_path / "thing_package" / "one.py").write_text(THING)
    yield importlib.import_module("things").THINGS
    for name in ("things", "thing_package", "thing_package.one"):
        sys.modules.pop(name, None)


def test_who_asks_while_built_ins_are_imported_waits(things: Registry) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(things.names)
        while "thing_package.one" not in sys.modules and not first.done():
            time.sleep(0.01)
        assert things.names() == ["one"]
        assert first.result() == ["one"]


def test_built_ins_that_failed_once_are_imported_again(things: Registry, tmp_path: Path) -> None:
    file = tmp_path / "thing_package" / "one.py"
    file.write_text("raise ValueError('not today')")
    with pytest.raises(ValueError, match="not today"):
        things.names()
    file.write_text(THING)
    assert things.names() == ["one"]


def test_entry_points_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    RECIPES.names()
    monkeypatch.setattr(registry, "distributions", lambda: pytest.fail("read again"))
    encode(Run(workload=Line()))
    RECIPES.names()

"""Errors of a user's own code are told with the user's file and line, not with a library's or ours."""

import importlib
import re
from pathlib import Path

import pytest

from framework.config import decode, encode, load
from framework.conformance import small_graph
from framework.errors import InputError, is_foreign, told
from framework.models.node_model import Module
from framework.partition import place
from launch import cli

MODULE = """
import dataclasses
import json

import torch
from torch import nn


def torn():
    json.loads("{")


def crooked():
    nn.Linear(3, 2)(torch.ones(1, 4))


class Short(nn.Module):
    def __init__(self, columns, classes, depth):
        super().__init__()
        self.linear = nn.Linear(columns + {more}, classes + 1)

    def forward(self, blocks, x):
        return self.linear(x)[: blocks[-1].num_targets]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken:
    def owners(self, graph, parts):
        return None + parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokenEdges:
    def edge_owners(self, graph, parts):
        for source, _ in graph:
            yield source[parts + len(source)]
"""
SMALL = ["--data=planted", "--data.nodes=200", "--data.edges=1000", "--data.blocks=4", "--parts=2", "--epochs=1"]


@pytest.fixture
def _mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of a user's own: one whose network takes the wrong number of columns, one whose answer is too wide."""
    (tmp_path / "crooked_code.py").write_text(MODULE.replace("{more}", "1"))
    (tmp_path / "wide_code.py").write_text(MODULE.replace("{more}", "0"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_mine")
@pytest.mark.parametrize(
    ("function", "expected"),
    [("torn", "JSONDecodeError: Expecting property"), ("crooked", "RuntimeError: mat1 and mat2")],
)
def test_the_deepest_frame_of_a_users_code_is_named(function: str, expected: str) -> None:
    module = importlib.import_module("crooked_code")
    with pytest.raises((ValueError, RuntimeError)) as caught:
        getattr(module, function)()
    assert told(caught.value).startswith(expected)
    assert told(caught.value).endswith(f", in {function})")
    assert "(crooked_code.py:" in told(caught.value)


def test_an_error_of_ours_is_named_by_our_frame_and_is_not_foreign() -> None:
    with pytest.raises(AttributeError) as caught:
        load(3, "class")  # type: ignore[arg-type]
    assert is_foreign(caught.value)  # by this test's own frame
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert not is_foreign(error)
    assert re.search(r" \(registry.py:\d+, in load\)$", told(error))


@pytest.mark.usefixtures("_mine")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Broken", r"partitioner 'crooked_code:Broken' failed: TypeError: .* \(crooked_code.py:\d+, in owners\)\."),
        ("BrokenEdges", r"'crooked_code:BrokenEdges' failed: IndexError: .* \(crooked_code.py:\d+, in edge_owners\)\."),
    ],
)
def test_a_partitioner_that_raises_is_named(name: str, expected: str) -> None:
    partitioner = getattr(importlib.import_module("crooked_code"), name)()
    with pytest.raises(InputError, match=expected):
        place(partitioner, small_graph(), 3)


@pytest.mark.usefixtures("_mine")
def test_prepare_says_which_partitioner_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", "sage-debian", *SMALL, "--partitioner", "crooked_code:Broken"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: partitioner 'crooked_code:Broken' failed: TypeError: ")
    assert said.endswith("`shardyard check partitioner crooked_code:Broken` tries it on small graphs.\n")
    assert "defect" not in said


@pytest.mark.usefixtures("_mine")
@pytest.mark.parametrize(
    ("network", "code", "expected"),
    [
        ("crooked_code:Short", 1, "RuntimeError: mat1 and mat2 shapes"),
        ("crooked_code:Short", 1, "(crooked_code.py:23, in forward)"),
        ("wide_code:Short", 2, "answered (105, 41); expected (105, 40), a row a target of the last block."),
    ],
)
def test_train_says_where_a_network_fails(
    network: str, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--model", "module", "--model.network", network]
    assert cli.main(["train", "sage-debian", *SMALL, *chosen]) == code
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("network", ["os:getpid", "ctypes:memmove", "torch:relu"])
def test_a_stranger_s_network_is_of_a_package_that_announces_some(network: str) -> None:
    """It is called: that its module is there already does not make it one."""
    record = encode(Module(network=network))
    with pytest.raises(InputError, match=f"'{network}' is of a module that no installed plug-in announces"):
        decode(record)
    assert decode(record, trusted=True) == Module(network=network)

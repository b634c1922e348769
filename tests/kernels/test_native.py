"""Finding, refusing and calling the compiled kernels."""

import logging
import subprocess
import sys

import pytest
import torch

from framework.errors import ShardyardError
from framework.kernels import native
from framework.kernels.csr import degrees

# What the keyed sample below drew when it was first written: results must not change between versions unnoticed.
EXPECTED = "[2, 5, 6, 3, 7, 8, 6, 7, 8, 4, 6, 7, 0, 5, 8]"

compiled = pytest.mark.skipif(not native.available(), reason="no compiled kernels here")


@compiled
def test_the_environment_forces_the_twins(monkeypatch):
    assert native.usable(torch.empty(1), None)
    monkeypatch.setenv("SHARDYARD_KERNELS", "torch")
    assert not native.available()
    assert not native.usable(torch.empty(1))


@compiled
def test_tensors_elsewhere_take_the_twins():
    assert not native.usable(torch.empty(1), torch.empty(1, device="meta"))


@compiled
def test_a_function_that_is_not_there_says_what_to_do():
    with pytest.raises(ShardyardError, match="have no 'nothing'.*setup.py build_ext --inplace"):
        native.call("nothing")


def test_a_name_has_the_types_of_its_instance():
    assert native.typed("spmm", torch.empty(1), torch.empty(1, dtype=torch.int32)) == "spmm_float32_int32"


def test_without_a_compiled_part_the_twins_work_and_it_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(native, "_PATH", tmp_path / "_native.so")
    native._library.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="shardyard"):
            assert degrees(torch.tensor([1, 1]), 3).tolist() == [0, 2, 0]
            assert not native.available()
        assert caplog.text.count("no compiled kernels") == 1
    finally:
        native._library.cache_clear()


def test_an_unreadable_compiled_part_is_no_failure(tmp_path, monkeypatch, caplog):
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "_PATH", broken)
    native._library.cache_clear()
    try:
        assert not native.available()
        assert "cannot be loaded" in caplog.text
    finally:
        native._library.cache_clear()


@pytest.mark.parametrize("choice", ["torch", ""])
def test_both_choices_give_the_same_bits_in_a_process_of_their_own(choice):
    code = (
        "import torch; from framework.kernels.sample import sample_neighbors; from framework.random import Key\n"
        "s = sample_neighbors(torch.tensor([0, 9]), torch.arange(9), torch.zeros(5, dtype=torch.int64),"
        " torch.arange(5), 3, Key(1))\nprint(s.indices.tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"SHARDYARD_KERNELS": choice, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == EXPECTED


@compiled
def test_memory_elsewhere_is_refused_before_it_is_written():
    with pytest.raises(ShardyardError, match="memory of meta: torch.set_default_device is not for these workers"):
        native.call("degrees_int64", torch.empty(3, device="meta", dtype=torch.int64), 3, 3, torch.zeros(3).long())

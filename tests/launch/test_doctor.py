"""The doctor finds what is there, names what is not, and never waits."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from launch import cli, doctor


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_it_lists_versions_devices_and_our_packages(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--skip-ray", "--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["torch"]["text"] == version("torch")
    assert {"python", "ray", "pyarrow", "numpy", "cpu", "cuda", "kernels", "compiler", "disk"} <= set(findings)
    for name in doctor.PACKAGES:
        assert findings[name]["text"].startswith("ours")
    assert code == any(finding["state"] == "broken" for finding in findings.values())


def test_a_package_of_the_same_name_in_front_of_ours_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "partitioners").mkdir()
    (tmp_path / "partitioners" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "partitioners")
    findings = {finding.name: finding for finding in doctor.our_packages()}
    assert findings["partitioners"].state == "broken"
    assert str(tmp_path) in findings["partitioners"].text
    assert findings["framework"].state == "good"


def test_no_compiler_is_a_warning_and_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.native, "available", lambda: False)
    monkeypatch.delenv("SHARDYARD_KERNELS", raising=False)
    kernels, compiler = doctor.kernels()
    assert (kernels.state, compiler.state) == ("warning", "warning")
    assert "install a C++ compiler" in kernels.text


def test_an_interface_that_is_not_there_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    (finding,) = doctor.network()
    assert finding.state == "broken"
    assert "no-such-interface" in finding.text


def test_an_address_where_nobody_listens_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    finding = doctor.ray_cluster(f"127.0.0.1:{port}")
    assert finding.state == "broken"
    assert f"127.0.0.1:{port}" in finding.text
    assert time.monotonic() - began < 5


def test_somebody_who_never_answers_is_given_up_at_the_deadline(silent_port: int) -> None:
    began = time.monotonic()
    finding = doctor.ray_cluster(f"127.0.0.1:{silent_port}", deadline=2.0)
    assert finding.state == "broken"
    assert time.monotonic() - began < 5


def test_an_address_of_another_form_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--address", "nowhere"]) == 2
    expected = "error: --address is 'nowhere'; expected HOST:PORT, as `ray start --head` prints it.\n"
    assert capsys.readouterr().err == expected


def test_a_cluster_that_is_not_to_be_asked_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--skip-ray", "--address", "nonsense"]) == 2
    assert "--address is 'nonsense', but --skip-ray leaves Ray out; leave one of them out." in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get("RAY_ADDRESS") is not None, reason="RAY_ADDRESS names a cluster")
def test_a_start_of_ray_that_takes_too_long_is_ended_and_is_no_defect() -> None:
    began = time.monotonic()
    finding = doctor.ray_here(deadline=0.5)
    assert finding.state == "warning"
    assert time.monotonic() - began < 4

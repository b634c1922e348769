"""Staging: the folder arrives whole on hosts without it, once a host, checked; or nowhere, with one error."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_processes import together

from framework.comm import stage as staging
from framework.comm.group import Group
from framework.comm.stage import stage
from framework.errors import StoreError

FILES = {"part-0/a.arrow": b"x" * 5000, "part-1/b.arrow": os.urandom(70_001), "part-1/empty.arrow": b""}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    path: Path


def make(path: Path, extra: bytes = b"", seconds: float = 1.0) -> None:
    """A prepared folder, made in so many seconds."""
    facts = {}
    for name, content in {**FILES, "extra": extra}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
        facts[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({"files": facts, "seconds": seconds}))


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def on_hosts(
    group: Group, root: Path, hosts: list[int], fault: str = "", needs: list[str] | None = None, shared: bool = False
) -> tuple[str, int]:
    """Stages as if worker r were on host hosts[r], each with a folder of its own. The error, and the bytes sent.

    `needs`: what begins the names of files that each worker's host reads; `shared`: hosts above 0 have one folder."""
    group.hosts = tuple(f"host{number}/0" for number in hosts)
    staging._CHUNK = 4096
    group.exchange = _bounded(group.exchange)  # type: ignore[method-assign]
    mine = root / f"host{min(1, hosts[group.rank]) if shared else hosts[group.rank]}" / "store"
    wanted = needs and needs[group.rank]
    if fault == "altered" and group.rank == 0:
        file = mine / "part-0/a.arrow"
        file.write_bytes(b"y" + file.read_bytes()[1:])
    if fault == "full" and group.rank == 1:
        staging.replace_file = _full
    if fault == "no room" and group.rank == 1:
        Path.open = _refusing(Path.open, "ab", errno.ENOSPC)  # type: ignore[method-assign]
    if fault == "unreadable" and group.rank == 1:
        Path.open = _refusing(Path.open, "rb", errno.EACCES, "a.arrow")  # type: ignore[method-assign]
    if fault == "hidden" and group.rank == 1:
        Path.open = _refusing(Path.open, "rb", errno.EACCES, "manifest.json")  # type: ignore[method-assign]
    if fault == "slow":
        staging._MEETING = 2 * staging._CHUNK
        staging._Copy._read = _slow(staging._Copy._read)  # type: ignore[method-assign]
    try:
        reads = None if wanted is None else lambda name: name.startswith(wanted)
        assert stage(group, Folder(path=mine), reads).path == mine
    except StoreError as error:
        return str(error), group.sent.get("stage", 0)
    return "", group.sent.get("stage", 0)


def _bounded(exchange: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`exchange`, which may not be given more than a chunk."""

    def bounded(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert rows.numel() <= staging._CHUNK
        return exchange(rows, *rest)

    return bounded


def _full(file: Path, path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _refusing(opens: Callable[..., Any], refused: str, number: int, name: str = "") -> Callable[..., Any]:
    """`Path.open` with an error for files that are opened so, all or those of a name."""

    def refusing(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode == refused and path.name.endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return opens(path, mode, *rest, **more)

    return refusing


def _slow(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def slow(*arguments: Any) -> torch.Tensor:
        time.sleep(0.4)
        return read(*arguments)

    return slow


def test_hosts_without_the_folder_receive_it_once(tmp_path: Path) -> None:
    source = tmp_path / "host1" / "store"
    make(source)
    torn = tmp_path / "host2" / "store"
    make(torn)
    (torn / "part-0/a.arrow").write_bytes(b"torn")
    left = torn.parent / f".store-{socket.gethostname()}-of-a-killed-process"
    left.mkdir()
    (left / "lock").touch()
    answers = together(4, on_hosts, tmp_path, [0, 1, 2, 2])
    assert [error for error, _ in answers] == [""] * 4
    for number in (0, 2):
        folder = tmp_path / f"host{number}"
        assert content(folder / "store") == content(source)
        assert [entry.name for entry in folder.iterdir()] == ["store"], "no scratch is left"
    payload = sum(len(data) for data in FILES.values()) + len(FILES["part-0/a.arrow"])
    assert payload < answers[1][1] < payload + 5000, "a host took all files, one the torn one; the manifest is small"
    assert max(sent for rank, (_, sent) in enumerate(answers) if rank != 1) < 1000


def test_nothing_is_sent_where_every_host_has_it(tmp_path: Path) -> None:
    for number in (0, 1):  # each made its own, and was not equally fast
        make(tmp_path / f"host{number}" / "store", seconds=number)
    for error, sent in together(2, on_hosts, tmp_path, [0, 1]):
        assert error == ""
        assert sent < 200


def test_hosts_receive_what_they_read(tmp_path: Path) -> None:
    source = tmp_path / "host0" / "store"
    make(source)
    whole = content(source)
    a, b = (len(FILES[name]) for name in ("part-0/a.arrow", "part-1/b.arrow"))
    answers = together(4, on_hosts, tmp_path, [0, 1, 2, 2], "", ["part-0", "part-1", "part-0", "part-0"])
    assert [error for error, _ in answers] == [""] * 4
    assert a + b < answers[0][1] < a + b + 5000
    for number, part in ((1, "part-1"), (2, "part-0")):
        held = {name: data for name, data in whole.items() if name.startswith((part, "manifest"))}
        assert content(tmp_path / f"host{number}" / "store") == held
    again = together(4, on_hosts, tmp_path, [0, 1, 2, 2], "", ["part-0", "part-1", "part-0", "part-0"])
    assert max(sent for _, sent in again) < 1000, "nothing is sent again"
    # Who reads more later receives that alone, from whoever has it, the source of the first time or not.
    (source / "part-1/b.arrow").unlink()
    answers = together(3, on_hosts, tmp_path, [0, 1, 2], "", ["part-1", "part-1", "part"])
    assert [error for error, _ in answers] == [""] * 3
    assert 2 * b < answers[1][1] < 2 * b + 5000
    assert content(source) == whole
    assert content(tmp_path / "host2" / "store") == {name: data for name, data in whole.items() if name != "extra"}
    for number in (0, 1, 2):
        assert [entry.name for entry in (tmp_path / f"host{number}").iterdir()] == ["store"], "no scratch is left"


def test_hosts_that_share_a_disk_fill_one_folder(tmp_path: Path) -> None:
    make(tmp_path / "host0" / "store")
    answers = together(3, on_hosts, tmp_path, [0, 1, 2], "", ["part", "part-0", "part-1"], True)
    assert [error for error, _ in answers] == [""] * 3
    found = content(tmp_path / "host1" / "store")
    assert found == {name: data for name, data in content(tmp_path / "host0" / "store").items() if name != "extra"}
    assert [entry.name for entry in (tmp_path / "host1").iterdir()] == ["store"]


def test_a_file_that_no_host_has_is_named(tmp_path: Path) -> None:
    for number in (0, 1):
        make(tmp_path / f"host{number}" / "store")
        (tmp_path / f"host{number}" / "store" / "part-0/a.arrow").unlink()
    for needs in (None, ["part-0", "part-1"]):
        for error, _ in together(2, on_hosts, tmp_path, [0, 1], "", needs):
            assert "none of the run's hosts (host0, host1) has 'part-0/a.arrow' of" in error
    assert {error for error, _ in together(2, on_hosts, tmp_path, [0, 1], "", ["part-1", "extra"])} == {""}
    assert {error for error, _ in together(2, on_hosts, tmp_path, [0, 0])} == {""}, "for the reader to miss"


def test_without_any_manifest_nothing_happens(tmp_path: Path) -> None:
    assert [error for error, _ in together(2, on_hosts, tmp_path, [0, 1])] == ["", ""]
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_is_refused_by_all(tmp_path: Path) -> None:
    make(tmp_path / "host0" / "store")
    answers = together(2, on_hosts, tmp_path, [0, 1], "altered")
    assert answers[0][0] == answers[1][0]
    assert "on host host1 was sent 'part-0/a.arrow' altered by host host0" in answers[0][0]
    assert "Remove the folder on host0 and prepare it again." in answers[0][0], "`prepare` alone would find it whole"
    assert {*content(tmp_path / "host1" / "store")} == {"extra", "manifest.json"}, "what came before it stays"


def test_a_host_that_cannot_write_is_named(tmp_path: Path) -> None:
    make(tmp_path / "host0" / "store")
    (tmp_path / "host1").write_text("a file where a folder is wanted")
    answers = together(2, on_hosts, tmp_path, [0, 1])
    assert answers[0][0] == answers[1][0]
    assert "on host host1 cannot be written" in answers[0][0]


def test_two_different_folders_are_not_mixed(tmp_path: Path) -> None:
    make(tmp_path / "host0" / "store")
    make(tmp_path / "host1" / "store", extra=b"another")
    make(tmp_path / "host3" / "store", extra=b"another")
    answers = together(4, on_hosts, tmp_path, [0, 1, 2, 3])
    for error, _ in answers:
        assert re.search(r"not the same on all hosts: \w{8} on host0; \w{8} on host1, host3\. Remove", error)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("full", "on host host1 cannot be put in place: No space left on device"),
        ("no room", "on host host1 cannot be copied there: No space left on device. Free some space"),
    ],
)
def test_a_disk_that_is_full_is_told_to_all(tmp_path: Path, fault: str, told: str) -> None:
    make(tmp_path / "host0" / "store")
    answers = together(3, on_hosts, tmp_path, [0, 1, 2], fault)
    assert len({error for error, _ in answers}) == 1
    assert told in answers[0][0]
    assert [entry.name for entry in (tmp_path / "host1").iterdir()] in ([], ["store"]), "no scratch is left"
    assert content(tmp_path / "host2" / "store") == content(tmp_path / "host0" / "store")
    # Where there is room again, what is lacking is sent, and no more.
    assert [error for error, _ in together(3, on_hosts, tmp_path, [0, 1, 2])] == [""] * 3
    assert content(tmp_path / "host1" / "store") == content(tmp_path / "host0" / "store")


def test_a_file_that_its_host_cannot_read_is_no_altered_one(tmp_path: Path) -> None:
    make(tmp_path / "host1" / "store")
    for error, _ in together(2, on_hosts, tmp_path, [0, 1], "unreadable"):
        assert "on host host1 cannot be read: 'part-0/a.arrow': Permission denied" in error
        assert "altered" not in error


def test_a_manifest_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    for number in (0, 1):
        make(tmp_path / f"host{number}" / "store")
    for error, _ in together(2, on_hosts, tmp_path, [0, 1], "hidden"):
        assert re.search(r"manifest.json' on host host1 cannot be read: Permission denied", error)
    assert content(tmp_path / "host1" / "store") == content(tmp_path / "host0" / "store")


def test_files_beside_a_torn_manifest_stay(tmp_path: Path) -> None:
    for number in (0, 1):
        make(tmp_path / f"host{number}" / "store")
    (tmp_path / "host0" / "store" / "part-1/b.arrow").unlink()  # the only one is beside the torn manifest
    whole = content(tmp_path / "host1" / "store")
    torn = tmp_path / "host1" / "store" / "manifest.json"
    torn.write_bytes(torn.read_bytes()[:40])
    answers = together(2, on_hosts, tmp_path, [0, 1], "", ["part-0", "part-0"])
    assert [error for error, _ in answers] == ["", ""]
    assert content(tmp_path / "host1" / "store") == whole


@pytest.mark.parametrize(
    ("hosts", "needs"), [([0, 0, 1, 1], None), ([0, 1, 2], ["part", "part-0", "part-1"])], ids=["idle", "unequal"]
)
def test_what_takes_longer_than_the_deadline_arrives(tmp_path: Path, hosts: list[int], needs: list[str] | None) -> None:
    """Workers without a part in it wait for as long as it takes, with one deadline from chunk to chunk."""
    make(tmp_path / "host0" / "store")
    answers = together(len(hosts), on_hosts, tmp_path, hosts, "slow", needs, deadline=3.0)  # which takes eight seconds
    assert [error for error, _ in answers] == [""] * len(hosts)


def test_a_folder_that_no_host_has_is_named_where_parts_are_read(tmp_path: Path) -> None:
    for error, _ in together(2, on_hosts, tmp_path, [0, 1], "", ["part-0", "part-1"]):
        assert "none of the run's hosts (host0, host1) has 'manifest.json' of" in error


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="inside its folder"):
        staging._files({"files": {"../outside": {"bytes": 0, "sha256": ""}}})

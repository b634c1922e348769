"""Work of unlike length: whoever is done early waits, for longer than a deadline; a host's files are verified."""

import time
from collections.abc import Iterator
from pathlib import Path

from worker_processes import together

from framework.comm.group import Group
from framework.comm.meeting import finish_together, verify_together
from framework.errors import StoreError
from framework.store.columns import FileFacts


def unlike(group: Group) -> int:
    """The second worker works for longer than the deadline; the others have nothing to do. The steps that were done."""
    done = 0

    def steps() -> Iterator[None]:
        nonlocal done
        for _ in range(12 if group.rank == 1 else 0):
            time.sleep(0.25)
            done += 1
            yield

    finish_together(group, steps())
    return done


def test_nobody_is_lost_while_another_works() -> None:
    assert together(3, unlike, deadline=1.5) == [0, 12, 0]
    assert unlike(Group.alone()) == 0


def verified(group: Group, folder: Path, hosts: list[int]) -> str:
    """Verifies as if worker r were on host hosts[r]: the error."""
    group.hosts = tuple(f"host{number}" for number in hosts)
    mine = folder / group.hosts[group.rank]
    files = {name: FileFacts(bytes=5, sha256=_DIGEST) for name in ("a", "b", "c")}
    try:
        verify_together(group, mine, files)
    except StoreError as error:
        return str(error)
    return ""


_DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of hello


def test_every_file_of_every_host_is_verified(tmp_path: Path) -> None:
    hosts = [0, 1, 1]
    for number in set(hosts):
        (tmp_path / f"host{number}").mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / f"host{number}" / name).write_text("hello")
    assert together(3, verified, tmp_path, hosts) == ["", "", ""]
    for number in set(hosts):
        for name in ("a", "b", "c"):
            file = tmp_path / f"host{number}" / name
            file.write_text("hallo")
            told = set(together(3, verified, tmp_path, hosts))
            assert len(told) == 1
            assert f"host{number}/{name}' was altered" in told.pop()
            file.unlink()
            assert "is missing" in together(3, verified, tmp_path, hosts)[0]
            file.write_text("hello")

"""Staging: hosts that lack files of a prepared folder receive them from one that has them.

Assumptions: the folder has the same path on every host; its `manifest.json` holds, under `files`, the bytes and SHA-256
of every other file by its path inside, beside facts of how it was made, which may differ between folders that hold the
same. A host may hold some of the files alone, those that its workers read: the manifest comes first, and each file
appears whole or not at all, so that what was sent before a kill is not sent again. What holds no manifest anywhere is
not ours to copy, nor is what a run of one host lacks: the workload that opens the folder will say what is missing.
Workers of a host share its files, so the host's leader receives for all of them. All workers meet after every
`_MEETING` bytes: whoever has nothing to send or to take waits for no longer than those take.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from framework.comm.group import Group, as_tensor
from framework.errors import InputError, StoreError
from framework.store.folder import replace_file, temporary_folder

MANIFEST = "manifest.json"
PURPOSE = "stage"
_CHUNK = 16 << 20
"""Bytes that the source holds at once, for all takers together."""
_MEETING = 64 << 20
"""Bytes that are sent, and put on a disk, between two meetings of all workers."""
_PLACING = 1 << 20
"""A file's share of those, beside its own bytes: a disk takes as long to have it in its place as to write that many."""
Needs = Callable[[str], bool]
"""Whether workers of this host read the file of that path inside the folder."""


class Located(Protocol):
    """Whatever lies in a folder."""

    @property
    def path(self) -> Path:
        """The folder."""


L = TypeVar("L", bound=Located)


def stage(group: Group, prepared: L, needs: Needs | None = None) -> L:
    """`prepared`, of whose folder every host has what its workers need when this returns, or all of it where `needs` is
    not given; nothing is sent where it is already.

    Every worker calls it. Raises StoreError, the same on all of them, where a host cannot take a file, none of several
    has one that is needed, or they hold different folders under its path; LostWorkerError."""
    path = prepared.path
    mine, trouble = _fingerprint(path)
    told = group.gather_json([mine, trouble], PURPOSE)
    held: list[str | None] = [fingerprint for fingerprint, _ in told]
    for host, (_, unread) in zip(group.hosts, told, strict=True):
        if unread is not None:
            raise StoreError(f"'{path / MANIFEST}' on host {_host_name(host)} cannot be read: {unread}.")
    _refuse_different(path, group.hosts, held)
    if held.count(None) == len(held):
        if needs is not None and len(set(group.hosts)) > 1:
            raise _held_elsewhere(path, "manifest.json", group.hosts)
        return prepared
    manifest = _manifest(group, path, held)
    files = dict(sorted(_files(json.loads(manifest)).items()))
    transfers = _transfers(group, path, files, needs)
    if not transfers and None not in held:
        return prepared
    copy = _Copy(group, path, files, manifest if mine is None and group.leader else None)
    copy.run(transfers)
    troubles: list[tuple[int, str]] = [told for told in group.gather_json(copy.trouble, PURPOSE) if told is not None]
    if troubles:
        raise StoreError(min(troubles, key=lambda told: told[0])[1])
    return prepared


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Transfer:
    """One file on its way."""

    name: str
    source: int
    takers: list[int]


def _manifest(group: Group, path: Path, held: Sequence[str | None]) -> bytes:
    """The folder's manifest: one's own, or that of the first worker that has one."""
    source = next(rank for rank, fingerprint in enumerate(held) if fingerprint is not None)
    mine = (path / MANIFEST).read_bytes() if held[group.rank] is not None else None
    if None not in held:
        assert mine is not None
        return mine
    return group.broadcast_bytes(mine if group.rank == source else None, source, PURPOSE)


def _transfers(group: Group, path: Path, files: dict[str, dict[str, Any]], needs: Needs | None) -> list[_Transfer]:
    """What every host lacks and which worker has it, the same on all workers; holders of a file take turns.

    Raises StoreError as `stage`."""
    missing, lacking = list[int](), list[int]()
    for number, (name, facts) in enumerate(files.items()) if group.leader else ():
        if not _is_whole(path / name, facts):
            missing.append(number)
            if needs is None or needs(name):
                lacking.append(number)
    told = [(set(missing), set(lacking)) for missing, lacking in group.gather_json([missing, lacking], PURPOSE)]
    leaders = [rank for rank, host in enumerate(group.hosts) if group.hosts.index(host) == rank]
    transfers = []
    for number, name in enumerate(files):
        takers = [rank for rank in leaders if number in told[rank][1]]
        sources = [rank for rank in leaders if number not in told[rank][0]]
        if takers and sources:
            transfers.append(_Transfer(name=name, source=sources[number % len(sources)], takers=takers))
        elif takers and len(leaders) > 1:
            raise _held_elsewhere(path, name, [group.hosts[rank] for rank in leaders])
    return transfers


def _held_elsewhere(path: Path, name: str, hosts: Sequence[str]) -> StoreError:
    """What to say of a file that no host of the run has."""
    names = ", ".join(_host_name(host) for host in dict.fromkeys(hosts))
    return StoreError(
        f"none of the run's hosts ({names}) has '{name}' of '{path}'. A host that received "
        "a store holds the parts that its workers read alone: let the host where it was prepared have a worker, or "
        "remove the folder on one of these and start the run there, which prepares it again."
    )


class _Copy:
    """Files of a folder on their way, in lockstep on all workers.

    A worker with trouble goes on taking part, or the others would wait for it; it tells of the trouble at the end."""

    def __init__(self, group: Group, path: Path, files: dict[str, dict[str, Any]], manifest: bytes | None) -> None:
        """`manifest`: for the leader of a host that has none."""
        self.group, self.path, self.files, self.manifest = group, path, files, manifest
        self.trouble: tuple[int, str] | None = None
        self._sent = 0  # bytes since all workers have met
        self._unsynced = 0  # bytes that are not on the disk yet

    def run(self, transfers: Sequence[_Transfer]) -> None:
        """Copies, the manifest first."""
        taking = any(self.group.rank in transfer.takers for transfer in transfers)
        with contextlib.ExitStack() as stack:
            scratch = self._scratch(stack) if taking or self.manifest is not None else None
            for transfer in transfers:
                self._file(transfer, scratch)

    def _scratch(self, stack: contextlib.ExitStack) -> Path | None:
        """A folder for files that are not whole yet, with the folder itself beside it."""
        try:
            scratch = stack.enter_context(temporary_folder(self.path.parent, self.path.name))
        except InputError as error:
            self._note(f"cannot be written: {error}")
            return None
        try:
            if self.manifest is not None:
                (scratch / MANIFEST).write_bytes(self.manifest)
                replace_file(scratch / MANIFEST, self.path / MANIFEST)
        except OSError as error:
            self._note(f"cannot be put in place: {error.strerror}.")
        return scratch

    def _file(self, transfer: _Transfer, scratch: Path | None) -> None:
        """One file, chunk by chunk, checked and put in its place at the end."""
        name, facts, digest = transfer.name, self.files[transfer.name], hashlib.sha256()
        target = scratch / name if scratch is not None and self.group.rank in transfer.takers else None
        step = max(1, _CHUNK // len(transfer.takers))
        for begin in range(0, max(1, facts["bytes"]), step):  # an empty file is one empty chunk
            length = min(step, facts["bytes"] - begin)
            chunk = self._chunk(transfer, begin, length)
            if target is not None and self.trouble is None:
                digest.update(chunk.numpy().data)
                self._write(target, chunk)
            self._meet(length)
        if target is not None and self.trouble is None:
            if digest.hexdigest() == facts["sha256"]:
                self._place(target, self.path / name)
            else:
                source = _host_name(self.group.hosts[transfer.source])
                self._note(
                    f"was sent '{name}' altered by host {source}: its SHA-256 is not the manifest's. Remove the folder "
                    f"on {source} and prepare it again."
                )
        self._meet(_PLACING)

    def _meet(self, sent: int) -> None:
        """Meets the others where enough was sent since the last time."""
        self._sent += sent
        if self._sent >= _MEETING:
            self.group.barrier()
            self._sent = 0

    def _chunk(self, transfer: _Transfer, begin: int, length: int) -> Tensor:
        """A chunk from the source to the takers, which all receive at once; empty on the others."""
        group, sends = self.group, self.group.rank == transfer.source
        sending = [length if sends and rank in transfer.takers else 0 for rank in range(group.size)]
        takes = group.rank in transfer.takers
        coming = [length if takes and rank == transfer.source else 0 for rank in range(group.size)]
        rows = torch.empty(0, dtype=torch.uint8)
        if sends:
            rows = self._read(transfer.name, begin, length).repeat(len(transfer.takers))
        return group.exchange(rows, sending, coming, PURPOSE)

    def _read(self, name: str, begin: int, length: int) -> Tensor:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(begin)
                data = file.read(length)
        except OSError as error:
            self._note(f"cannot be read: '{name}': {error.strerror}.", first=True)
            data = b""
        return as_tensor(data.ljust(length, b"\0"))

    def _write(self, target: Path, chunk: Tensor) -> None:
        """Adds a chunk to a file. What was written goes to the disk now and then, for the end not to take long."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(chunk.numpy().data)
                self._unsynced += len(chunk)
                if self._unsynced >= _MEETING:
                    file.flush()
                    os.fsync(file.fileno())
                    self._unsynced = 0
        except OSError as error:
            self._note(f"cannot be copied there: {error.strerror}. Free some space or name another --store.")

    def _place(self, target: Path, path: Path) -> None:
        try:
            replace_file(target, path)
        except OSError as error:
            self._note(f"cannot be put in place: {error.strerror}.")

    def _note(self, text: str, *, first: bool = False) -> None:
        """Remembers this worker's first trouble; `first`: it is what others' may come from."""
        if self.trouble is None:
            host = _host_name(self.group.hosts[self.group.rank])
            self.trouble = (0 if first else 1, f"'{self.path}' on host {host} {text}")


def _fingerprint(path: Path) -> tuple[str | None, str | None]:
    """SHA-256 of what a folder's manifest says of its content, times and hosts of its making left aside; None where
    there is no manifest, or a torn one. Else why what is there cannot be read."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in _files(manifest).items()}
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:  # not ours to replace: what it belongs to may be whole
        return None, error.strerror
    except (ValueError, KeyError, TypeError, AttributeError, StoreError):
        return None, None
    content = [files, *(manifest.get(name) for name in ("format", "version", "digest"))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), None


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(path.stat().st_size == facts["bytes"])
    except OSError:
        return False


def _refuse_different(path: Path, hosts: Sequence[str], held: Sequence[str | None]) -> None:
    """Raises StoreError, naming who holds what, where folders of more than one content are held."""
    holders: dict[str, set[str]] = {}
    for host, fingerprint in zip(hosts, held, strict=True):
        if fingerprint is not None:
            holders.setdefault(fingerprint, set()).add(_host_name(host))
    if len(holders) > 1:
        copies = [f"{fingerprint[:8]} on {', '.join(sorted(names))}" for fingerprint, names in holders.items()]
        raise StoreError(f"'{path}' is not the same on all hosts: {'; '.join(copies)}. Remove all but one.")


def _host_name(identity: str) -> str:
    """The part of a host's identity that people know it by."""
    return identity.partition("/")[0]


def _files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's files. Raises StoreError for a name that would lead out of the folder."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise StoreError(f"a manifest names the file '{name}'; expected a path inside its folder.")
    return files

"""Staging: hosts that lack a prepared folder receive it from one that has it.

Assumptions: the folder has the same path on every host; its `manifest.json` holds, under `files`, the bytes and SHA-256
of every other file by its path inside, beside facts of how it was made, which may differ between folders that hold the
same; a folder appears whole or not at all. What holds no manifest anywhere is not
ours to copy: the workload that opens it will say what is missing. Workers of a host share its files, so the host's
leader receives for all of them.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from framework.comm.group import Group, as_tensor
from framework.errors import InputError, StoreError
from framework.store.folder import publish, temporary_folder

MANIFEST = "manifest.json"
PURPOSE = "stage"
_CHUNK = 16 << 20
"""Bytes that the source holds at once, for all takers together."""


class Located(Protocol):
    """Whatever lies in a folder."""

    @property
    def path(self) -> Path:
        """The folder."""


L = TypeVar("L", bound=Located)


def stage(group: Group, prepared: L) -> L:
    """`prepared`, whose folder is on every host of the group when this returns; nothing is sent where it is already.

    Every worker calls it. Raises StoreError, the same on all of them, where a host cannot take the folder or hosts
    hold different ones under its path; LostWorkerError."""
    path = prepared.path
    held: list[str | None] = group.gather_json(_fingerprint(path), PURPOSE)
    _refuse_different(path, group.hosts, held)
    if held.count(None) in (0, len(held)):
        return prepared
    source = next(rank for rank, fingerprint in enumerate(held) if fingerprint is not None)
    lacking = [rank for rank, fingerprint in enumerate(held) if fingerprint is None]
    takers = [rank for rank in lacking if group.hosts.index(group.hosts[rank]) == rank]
    trouble = _Copy(group, path, source, takers).run()
    troubles = [text for text in group.gather_json(trouble, PURPOSE) if text is not None]
    if troubles:
        raise StoreError(troubles[0])
    return prepared


class _Copy:
    """One folder on its way from one worker to some others, in lockstep with the rest.

    A worker with trouble goes on taking part, or the others would wait for it; it tells of the trouble at the end."""

    def __init__(self, group: Group, path: Path, source: int, takers: list[int]) -> None:
        self.group, self.path, self.source, self.takers = group, path, source, takers
        self.sends, self.takes = group.rank == source, group.rank in takers
        self.trouble: str | None = None

    def run(self) -> str | None:
        """Copies; returns this worker's trouble."""
        text = (self.path / MANIFEST).read_bytes() if self.sends else None
        manifest = self.group.broadcast_bytes(text, self.source, PURPOSE)
        with contextlib.ExitStack() as stack:
            scratch = self._scratch(stack) if self.takes else None
            for name, facts in sorted(_files(json.loads(manifest)).items()):
                self._file(name, facts, scratch)
            if scratch is not None and self.trouble is None:
                self._publish(scratch, manifest)
        return self.trouble

    def _scratch(self, stack: contextlib.ExitStack) -> Path | None:
        try:
            return stack.enter_context(temporary_folder(self.path.parent, self.path.name))
        except InputError as error:
            self._note(f"cannot be written: {error}")
            return None

    def _file(self, name: str, facts: dict[str, Any], scratch: Path | None) -> None:
        """One file, chunk by chunk, checked at the end."""
        digest = hashlib.sha256()
        target = scratch / name if scratch is not None else None
        step = max(1, _CHUNK // len(self.takers))
        for begin in range(0, max(1, facts["bytes"]), step):  # an empty file is one empty chunk
            length = min(step, facts["bytes"] - begin)
            chunk = self._chunk(self._read(name, begin, length) if self.sends else None, length)
            if target is not None and self.trouble is None:
                digest.update(chunk.numpy().data)
                self._write(target, chunk)
        if target is not None and self.trouble is None and digest.hexdigest() != facts["sha256"]:
            self._note(f"arrived with '{name}' altered; its SHA-256 is not the manifest's. Prepare it again.")

    def _chunk(self, mine: Tensor | None, length: int) -> Tensor:
        """A chunk from the source to the takers, which all receive at once; empty on the others."""
        group = self.group
        sending = [length if mine is not None and rank in self.takers else 0 for rank in range(group.size)]
        coming = [length if self.takes and rank == self.source else 0 for rank in range(group.size)]
        rows = mine.repeat(len(self.takers)) if mine is not None else torch.empty(0, dtype=torch.uint8)
        return group.exchange(rows, sending, coming, PURPOSE)

    def _read(self, name: str, begin: int, length: int) -> Tensor:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(begin)
                data = file.read(length)
        except OSError as error:
            self._note(f"cannot be read: '{name}': {error.strerror}.")
            data = b""
        return as_tensor(data.ljust(length, b"\0"))

    def _write(self, target: Path, chunk: Tensor) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as file:
                file.write(chunk.numpy().data)
        except OSError as error:
            self._note(f"cannot be copied there: {error.strerror}. Free some space or name another --store.")

    def _publish(self, scratch: Path, manifest: bytes) -> None:
        """Renames the finished folder into place; a torn one that was there goes, a whole one stays."""
        try:
            (scratch / MANIFEST).write_bytes(manifest)
            publish(scratch, self.path, whole=_fingerprint)
        except OSError as error:
            if _fingerprint(self.path) is None:  # else another host that shares our disk was faster
                self._note(f"cannot be put in place: {error.strerror}.")

    def _note(self, text: str) -> None:
        if self.trouble is None:
            self.trouble = f"'{self.path}' on host {_host_name(self.group.hosts[self.group.rank])} {text}"


def _fingerprint(path: Path) -> str | None:
    """SHA-256 of what a folder's manifest says of its content, times and hosts of its making left aside; None where
    there is no manifest, or a file of it is missing or has another length."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in _files(manifest).items()}
        if any((path / name).stat().st_size != size for name, (size, _) in files.items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError):
        return None
    content = [files, *(manifest.get(name) for name in ("format", "version", "digest"))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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

"""Checkpoints: everything a run needs to go on as if it had never stopped, in a folder that appears whole.

A checkpoint holds tensors as safetensors and all else as JSON, each file with a digest; nothing of it depends on how
many workers wrote it. The first worker of every host keeps one, so a host that is lost takes no checkpoint with it; on
a start the newest one any worker sees is read there and sent to those who lack it. One that cannot be read is set
aside, never deleted.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from framework.comm.group import Group
from framework.engine.files import named_errors, replacing
from framework.errors import NewerVersionError, StoreError

FORMAT, VERSION = "shardyard-checkpoint", 1
KEPT = 2  # so that a checkpoint torn by a dying disk still leaves the one before


class DamagedError(StoreError):
    """A checkpoint whose bytes are not those that were written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A point of a run."""

    run_digest: str
    """What the run learns: the digest of Run.continued()."""
    data_digest: str
    """What it learns it from."""
    epoch: int
    """Epochs completed."""
    step: int
    """Steps completed of the epoch after."""
    facts: dict[str, Any]
    """Plain values: losses so far, optimiser groups, scheduler, best metric."""
    tensors: dict[str, dict[str, Tensor]]
    """File name -> tensor name -> tensor: `model`, `optimizer`, `best`."""

    @property
    def place(self) -> tuple[int, int]:
        """How far the run had come."""
        return self.epoch, self.step

    @property
    def name(self) -> str:
        """The checkpoint's folder name; names sort as places do."""
        return f"{self.epoch:06d}-{self.step:08d}"


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes `checkpoint` into a folder of its own beneath `folder`, whole or not at all, and drops older ones."""
    final = folder / checkpoint.name
    if final.exists():  # another host's leader, on a file system that both see; `tidy` has read what was there before
        return final
    torn = folder / f".{checkpoint.name}.{uuid.uuid4().hex}"
    try:
        with named_errors(final):
            torn.mkdir(parents=True)
            for name, data in files_of(checkpoint).items():
                with (torn / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _publish(torn, final)
    finally:
        shutil.rmtree(torn, ignore_errors=True)
    before = [name for name in places(folder) if name < checkpoint.name]
    for old in before[: len(before) - KEPT + 1]:
        shutil.rmtree(folder / old, ignore_errors=True)
    return final


def write_weights(folder: Path, weights: dict[str, Tensor]) -> Path:
    """Writes a run's result as `model.safetensors` in its folder, whole or not at all."""
    with replacing(folder / "model.safetensors") as torn:
        torn.write_bytes(save(weights))
    return folder / "model.safetensors"


def tidy(folder: Path) -> list[str]:
    """Removes what a killed writer left, and sets aside what cannot be read. While nobody writes, once a host.

    Returns the names set aside. Raises NewerVersionError for a checkpoint that a newer program wrote."""
    damaged = []
    for torn in folder.glob(".[0-9]*"):
        shutil.rmtree(torn, ignore_errors=True)
    for name in places(folder):
        try:
            read(folder / name)
        except (DamagedError, OSError):
            _set_aside(folder / name)
            damaged.append(name)
    return damaged


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises StoreError that names the file that is missing, altered or too new."""
    names = [path.name for path in sorted(folder.iterdir())] if folder.is_dir() else []
    if "checkpoint.json" not in names:
        raise StoreError(f"{folder} is no checkpoint: it has no checkpoint.json.")
    return parse({name: (folder / name).read_bytes() for name in names}, str(folder))


def places(folder: Path) -> list[str]:
    """Names of the whole checkpoints beneath `folder`, oldest first."""
    return sorted(path.parent.name for path in folder.glob("[0-9]*/checkpoint.json"))


def newest(folder: Path, group: Group) -> Checkpoint | None:
    """The newest checkpoint that any worker sees in its `folder`. All workers call this together.

    Raises StoreError where the newest one is damaged: `tidy` first, where the one before will do."""
    names = places(folder)
    mine = read(folder / names[-1]) if names else None
    seen: list[list[int] | None] = group.gather_json(list(mine.place) if mine else None)
    places_seen = [tuple(place) for place in seen if place is not None]
    if not places_seen:
        return None
    best = max(places_seen)
    source = seen.index(list(best))
    if all(place == list(best) for place in seen):
        return mine
    data = None
    if group.rank == source:
        assert mine is not None
        data = _framed(files_of(mine))
    return parse(_unframed(group.broadcast_bytes(data, source, "state")), f"checkpoint of worker {source}")


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of a checkpoint, `checkpoint.json` last."""
    files = {f"{name}.safetensors": save(tensors) for name, tensors in sorted(checkpoint.tensors.items())}
    index = {
        "format": FORMAT,
        "version": VERSION,
        "run_digest": checkpoint.run_digest,
        "data_digest": checkpoint.data_digest,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "facts": checkpoint.facts,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return {**files, "checkpoint.json": json.dumps({**index, "sha256": _digest(index)}, sort_keys=True).encode()}


def parse(files: dict[str, bytes], where: str) -> Checkpoint:
    """The checkpoint that `files_of` wrote. Raises StoreError; `where` names it in the message."""
    try:
        index = json.loads(files["checkpoint.json"])
        if index["format"] != FORMAT:
            raise KeyError("format")
        if index["version"] > VERSION:
            raise NewerVersionError(
                f"{where} has version {index['version']}; this Shardyard reads up to {VERSION}: upgrade it."
            )
        if index.pop("sha256") != _digest(index):
            raise DamagedError(f"{where}/checkpoint.json is damaged: its digest differs; remove the checkpoint.")
        tensors = {}
        for name, sha256 in index["files"].items():
            if hashlib.sha256(files[name]).hexdigest() != sha256:
                raise DamagedError(f"{where}/{name} is damaged: its digest differs; remove the checkpoint.")
            tensors[name.removesuffix(".safetensors")] = load(files[name])
        return Checkpoint(
            run_digest=index["run_digest"],
            data_digest=index["data_digest"],
            epoch=index["epoch"],
            step=index["step"],
            facts=index["facts"],
            tensors=tensors,
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedError(f"{where} is damaged ({type(error).__name__}: {error}); remove the checkpoint.") from error


def _publish(torn: Path, final: Path) -> None:
    """Gives a written folder its name, unless another host's leader was first, and makes the name last."""
    try:
        torn.rename(final)
    except OSError:
        if not final.exists():
            raise
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # or a power cut could take the name back
    finally:
        os.close(descriptor)


def _set_aside(folder: Path) -> None:
    """Takes a checkpoint out of the line, kept for whoever wants to look."""
    with contextlib.suppress(OSError):
        folder.rename(folder.with_name(f"damaged-{folder.name}-{uuid.uuid4().hex[:8]}"))


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _framed(files: dict[str, bytes]) -> bytes:
    """Several files as one message: a JSON line of names and lengths, then their bytes."""
    head = json.dumps({name: len(data) for name, data in files.items()}).encode()
    return head + b"\n" + b"".join(files.values())


def _unframed(message: bytes) -> dict[str, bytes]:
    head, _, body = message.partition(b"\n")
    files, start = {}, 0
    for name, length in json.loads(head).items():
        files[name] = body[start : start + length]
        start += length
    return files

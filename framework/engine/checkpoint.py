"""Checkpoints: everything a run needs to go on as if it had never stopped, in a folder that appears whole.

A checkpoint holds tensors as safetensors and all else as JSON, with a digest a file; nothing of it depends on how many
workers wrote it. The first worker of every host keeps one, so a host that is lost takes no checkpoint with it; on a
start the newest one any worker sees is read there and sent to those who lack it.
"""

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
from framework.errors import InputError, StoreError

FORMAT, VERSION = "shardyard-checkpoint", 1
KEPT = 2  # so that a checkpoint torn by a dying disk still leaves the one before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A point of a run."""

    run_digest: str
    """What the run learns: Run.digest() without its number of epochs."""
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
    """Writes `checkpoint` into a folder of its own beneath `folder`, whole or not at all, and drops old ones."""
    final = folder / checkpoint.name
    if final.exists():
        return final
    torn = folder / f".{checkpoint.name}.{uuid.uuid4().hex}"
    torn.mkdir(parents=True)
    try:
        for name, data in files_of(checkpoint).items():
            with (torn / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        torn.rename(final)
    except OSError as error:
        shutil.rmtree(torn, ignore_errors=True)
        if final.exists():  # a worker of another host that shares this file system was first: the bytes are the same
            return final
        raise InputError(
            f"checkpoint {final} could not be written: {error.strerror}; free space or change --out."
        ) from error
    for old in places(folder)[:-KEPT]:
        shutil.rmtree(folder / old, ignore_errors=True)
    return final


def write_weights(folder: Path, weights: dict[str, Tensor]) -> Path:
    """Writes a run's result as `model.safetensors` in its folder, whole or not at all."""
    final, torn = folder / "model.safetensors", folder / f".model.{uuid.uuid4().hex}"
    folder.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(save(weights))
    torn.replace(final)
    return final


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
    """The newest whole checkpoint that any worker sees in its `folder`. All workers call this together.

    A damaged one is passed over for the one before it."""
    mine = _newest_readable(folder)
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
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "facts": checkpoint.facts,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return {**files, "checkpoint.json": json.dumps(index, sort_keys=True).encode()}


def parse(files: dict[str, bytes], where: str) -> Checkpoint:
    """The checkpoint that `files_of` wrote. Raises StoreError; `where` names it in the message."""
    try:
        index = json.loads(files["checkpoint.json"])
        version = index["version"]
        if index["format"] != FORMAT:
            raise KeyError("format")
        if version > VERSION:
            raise StoreError(f"{where} has version {version}; this Shardyard reads up to {VERSION}: upgrade it.")
        tensors = {}
        for name, sha256 in index["files"].items():
            if hashlib.sha256(files[name]).hexdigest() != sha256:
                raise StoreError(f"{where}/{name} is damaged: its digest differs; remove the checkpoint.")
            tensors[name.removesuffix(".safetensors")] = load(files[name])
        return Checkpoint(
            run_digest=index["run_digest"],
            epoch=index["epoch"],
            step=index["step"],
            facts=index["facts"],
            tensors=tensors,
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise StoreError(f"{where} is damaged ({type(error).__name__}: {error}); remove the checkpoint.") from error


def _newest_readable(folder: Path) -> Checkpoint | None:
    for name in reversed(places(folder)):
        try:
            return read(folder / name)
        except StoreError:
            continue
    return None


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

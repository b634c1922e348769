"""A checkpoint on a disk: everything a run needs to go on as if it had never stopped, in a folder that appears whole.

It holds tensors as safetensors and all else as JSON, each file with a digest. What all workers share is in it once;
what a worker keeps for itself (a stale cache, a residual, its shard of an optimiser) is in a file of that worker, and
where nobody keeps any, nothing depends on how many workers wrote it. One that cannot be read is set aside, never
deleted. How the workers of a run write and find them together is in `kept.py`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from framework.engine.files import remove_torn, replacing
from framework.errors import InputError, NewerVersionError, StoreError

FORMAT, VERSION = "shardyard-checkpoint", 3
INDEX = "checkpoint.json"
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
    """File name -> tensor name -> tensor: `model`, `optimizer`, `best`; `worker-0` and so on where they were read."""
    workers: int = 0
    """How many workers wrote it; 0 where it was not written yet."""
    own: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    """Worker -> whose state it keeps for itself: the first words of its tensors' names. Who keeps none is left out."""

    @property
    def place(self) -> tuple[int, int]:
        """How far the run had come."""
        return self.epoch, self.step

    @property
    def name(self) -> str:
        """The checkpoint's folder name; names sort as places do."""
        return f"{self.epoch:06d}-{self.step:08d}"


def write_file(path: Path, data: bytes) -> str:
    """Writes a file that outlives a power cut; returns its SHA-256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return sha256(data)


def sha256(data: bytes) -> str:
    """The digest that a checkpoint keeps of a file, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def publish(torn: Path, final: Path) -> None:
    """Gives a written folder its name, makes the name last, and drops older checkpoints beside it."""
    shutil.rmtree(final, ignore_errors=True)  # of a place that the run came to before, but could not be resumed from
    torn.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # or a power cut could take the name back
    finally:
        os.close(descriptor)
    before = [name for name in places(final.parent) if name < final.name]
    for old in before[: len(before) - KEPT + 1]:
        hidden = final.parent / f".{old}.{uuid.uuid4().hex}"  # or a kill would leave a part of it under its name
        with contextlib.suppress(OSError):
            (final.parent / old).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def write_weights(folder: Path, weights: dict[str, Tensor]) -> Path:
    """Writes a run's result as `model.safetensors` in its folder, whole or not at all."""
    with replacing(folder / "model.safetensors") as torn:
        torn.write_bytes(save(weights))
    return folder / "model.safetensors"


def tidy(folder: Path) -> list[str]:
    """Removes what killed writers left here and beside it, and sets aside what cannot be read. While nobody writes;
    several hosts that see the folder may tidy it at once.

    Returns the names set aside. Raises NewerVersionError for a checkpoint that a newer program wrote, InputError where
    a disk gives no answer: what it holds may be whole."""
    damaged = []
    remove_torn(folder.parent)
    for torn in folder.glob(".[0-9]*"):
        shutil.rmtree(torn, ignore_errors=True)
    for name in places(folder):
        try:
            read(folder / name)
        except DamagedError:
            _set_aside(folder / name)
            damaged.append(name)
    return damaged


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises StoreError that names the file that is missing, altered or too new."""
    index = read_index(folder)
    return parse(index, {name: _bytes(folder, name) for name in index["files"]}, str(folder))


def read_common(folder: Path) -> Checkpoint:
    """As `read`, without the files of workers."""
    index = read_index(folder)
    return parse(index, {name: _bytes(folder, name) for name in index["files"] if not is_own(name)}, str(folder))


def read_file(folder: Path, name: str) -> bytes:
    """One file of a checkpoint. Raises StoreError where it is altered."""
    data = _bytes(folder, name)
    _check(data, read_index(folder)["files"][name], f"{folder}/{name}")
    return data


def read_index(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises StoreError."""
    if not (folder / INDEX).is_file():
        raise DamagedError(f"{folder} is no checkpoint: it has no {INDEX}.")
    return parse_index(_bytes(folder, INDEX), str(folder))


def places(folder: Path) -> list[str]:
    """Names of the whole checkpoints beneath `folder`, oldest first."""
    return sorted(path.parent.name for path in folder.glob(f"[0-9]*/{INDEX}"))


def own_file(rank: int) -> str:
    """The name of the file with what worker `rank` keeps for itself."""
    return f"worker-{rank}.safetensors"


def is_own(name: str) -> bool:
    """Whether a file of this name is a worker's."""
    return name.startswith("worker-")


def identity(index: Mapping[str, Any]) -> str:
    """What is the same in all hosts' copies of a checkpoint, as 64 hex digits: each holds its own workers' files."""
    shared = {name: digest for name, digest in index["files"].items() if not is_own(name)}
    place = {name: index[name] for name in ("run_digest", "data_digest", "epoch", "step", "workers", "own")}
    return _digest({**place, "files": shared})


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The files of all that a checkpoint's tensors are."""
    return {f"{name}.safetensors": save(tensors) for name, tensors in sorted(checkpoint.tensors.items())}


def index_of(checkpoint: Checkpoint, files: Mapping[str, str]) -> bytes:
    """`checkpoint.json` over files of these names and digests."""
    index = {
        "format": FORMAT,
        "version": VERSION,
        "run_digest": checkpoint.run_digest,
        "data_digest": checkpoint.data_digest,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "facts": checkpoint.facts,
        "workers": checkpoint.workers,
        "own": {str(rank): kinds for rank, kinds in checkpoint.own.items()},
        "files": dict(files),
    }
    return json.dumps({**index, "sha256": _digest(index)}, sort_keys=True).encode()


def parse_index(text: bytes, where: str) -> dict[str, Any]:
    """What `index_of` wrote. Raises StoreError; `where` names the checkpoint in the message."""
    with _naming_damage(where):
        index: dict[str, Any] = json.loads(text)
        if index["format"] != FORMAT:
            raise KeyError("format")
        if index["version"] > VERSION:
            raise NewerVersionError(
                f"{where} has version {index['version']}; this Shardyard reads up to {VERSION}: upgrade it."
            )
        if index["version"] < VERSION:
            raise StoreError(
                f"{where} has version {index['version']}, of an older Shardyard; this one reads {VERSION}: finish the "
                "run with that one, or choose another --out."
            )
        if index.pop("sha256") != _digest(index):
            raise DamagedError(f"{where}/{INDEX} is damaged: its digest differs; remove the checkpoint.")
        return index


def parse(index: Mapping[str, Any], files: Mapping[str, bytes], where: str) -> Checkpoint:
    """The checkpoint of an index and of files that it names. Raises StoreError, with `where`."""
    with _naming_damage(where):
        tensors = {}
        for name, data in files.items():
            _check(data, index["files"][name], f"{where}/{name}")
            tensors[name.removesuffix(".safetensors")] = load(data)
        return Checkpoint(
            run_digest=index["run_digest"],
            data_digest=index["data_digest"],
            epoch=index["epoch"],
            step=index["step"],
            facts=index["facts"],
            tensors=tensors,
            workers=index["workers"],
            own={int(rank): kinds for rank, kinds in index["own"].items()},
        )


@contextlib.contextmanager
def _naming_damage(where: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedError(f"{where} is damaged ({type(error).__name__}: {error}); remove the checkpoint.") from error


def _check(data: bytes, digest: str, where: str) -> None:
    if sha256(data) != digest:
        raise DamagedError(f"{where} is damaged: its digest differs; remove the checkpoint.")


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f"{folder}/{name} is missing; remove the checkpoint.") from error
    except OSError as error:
        raise InputError(
            f"{folder}/{name} cannot be read: {error.strerror}; look at the disk, then start again."
        ) from error


def _set_aside(folder: Path) -> None:
    """Takes a checkpoint out of the line, kept for whoever wants to look."""
    with contextlib.suppress(OSError):
        folder.rename(folder.with_name(f"damaged-{folder.name}-{uuid.uuid4().hex[:8]}"))


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()

"""Checkpoints as the workers of a run keep them: written by all of them together, found by all of them together.

Every host keeps a checkpoint with its own workers' files, so a host that is lost takes no shared weights with it; hosts
that see the same disk keep one together. Nobody gives a checkpoint its name before all workers have written theirs, and
two are kept: so whenever a run is killed, one of them is whole over all hosts. On a start the newest such is read where
it is and sent to those who lack it.
"""

import dataclasses
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from framework.comm.group import Group
from framework.engine import checkpoint as checkpoints
from framework.engine.checkpoint import Checkpoint, own_file
from framework.engine.files import named_errors
from framework.engine.state import on_host
from framework.errors import InputError


def keep(folder: Path, checkpoint: Checkpoint, own: Mapping[str, Tensor], group: Group) -> None:
    """Writes `checkpoint` and what every worker keeps for itself, `own`, in a folder beneath `folder`.

    All workers call this together; a host's leader alone needs the checkpoint's tensors. `own` has dotted names, whose
    first word says whose state it is. Raises InputError, on all workers the same, where a disk refuses."""
    final = folder / checkpoint.name
    mine = folder / f".{checkpoint.name}.{uuid.uuid4().hex}"
    kinds = sorted({name.partition(".")[0] for name in own})

    def begin() -> str:
        mine.mkdir(parents=True)
        return mine.name

    def write_own() -> str:
        return checkpoints.write_file(torn / own_file(group.rank), save(on_host(own)))

    def write_common() -> None:
        files = {own_file(rank): digests[rank] for rank in kept if places[rank] == torn.name}
        for name, data in checkpoints.files_of(whole).items():
            files[name] = checkpoints.write_file(torn / name, data)
        checkpoints.write_file(torn / checkpoints.INDEX, checkpoints.index_of(whole, files))

    try:
        begun = _everywhere(group, final, begin if group.leader else None)
        # Of the folders begun, the first that this worker sees: the same one for all who see the same disk.
        torn = next(folder / name for name in begun if name and (folder / name).is_dir())
        digests = _everywhere(group, final, write_own if own else None)
        places: list[str] = group.gather_json(torn.name)
        kept = {rank: words for rank, words in enumerate(group.gather_json(kinds)) if words}
        whole = dataclasses.replace(checkpoint, workers=group.size, own=kept)
        _everywhere(group, final, write_common if torn == mine else None)
        _everywhere(group, final, (lambda: checkpoints.publish(torn, final)) if torn == mine else None)
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def newest(folder: Path, group: Group) -> Checkpoint | None:
    """The newest checkpoint that any worker sees in its `folder`, without workers' own state: what was learned so far.

    All workers call this together. Raises StoreError where the newest one is damaged: `tidy` first, where the one
    before will do."""
    last: list[list[str]] = group.gather_json(checkpoints.places(folder)[-1:])
    found = max((name for names in last for name in names), default=None)
    return _common(folder, found, group) if found else None


def resumable(folder: Path, group: Group) -> Checkpoint | None:
    """As `newest`, but whole: every worker's own state is somewhere. Raises InputError where none is, but one was."""
    mine = {}
    for name in checkpoints.places(folder):
        index = checkpoints.read_index(folder / name)
        mine[name] = {
            "wanted": [own_file(int(rank)) for rank in index["own"]],
            "held": [file for file in index["files"] if checkpoints.is_own(file)],
        }
    lacking: dict[str, set[str]] = {}
    seen: list[dict[str, dict[str, list[str]]]] = group.gather_json(mine)
    for name in {name for one in seen for name in one}:
        copies = [one[name] for one in seen if name in one]
        lacking[name] = set(copies[0]["wanted"]).difference(*(copy["held"] for copy in copies))
    if not lacking:
        return None
    found = max((name for name in lacking if not lacking[name]), default=None)
    if found is None:
        last = max(lacking)
        raise InputError(
            f"checkpoint '{folder / last}' lacks {', '.join(sorted(lacking[last]))}: a host that kept them is not "
            "here. Start with the hosts that the run had, or choose another --out."
        )
    return _common(folder, found, group)


def own_state(folder: Path, found: Checkpoint, group: Group) -> dict[str, Tensor]:
    """What this worker kept for itself in a `resumable` checkpoint; of one whose file is elsewhere, it is sent.

    All workers call this together, as many as wrote the checkpoint."""
    place, mine = folder / found.name, b""
    files = checkpoints.read_index(place)["files"] if (place / checkpoints.INDEX).exists() else {}
    holders: list[list[str]] = group.gather_json([name for name in files if checkpoints.is_own(name)])
    for rank in sorted(found.own):
        name = own_file(rank)
        if name in holders[rank]:
            data = checkpoints.read_file(place, name) if rank == group.rank else b""
        else:
            source = next(holder for holder, names in enumerate(holders) if name in names)
            sent = checkpoints.read_file(place, name) if source == group.rank else None
            data = group.broadcast_bytes(sent, source, "state")
        mine = data if rank == group.rank else mine
    return load(mine) if mine else {}


def _common(folder: Path, name: str, group: Group) -> Checkpoint:
    """The shared part of checkpoint `name`: read, or sent by the first worker that sees it."""
    place = folder / name
    here = (place / checkpoints.INDEX).exists()
    found = checkpoints.read_common(place) if here else None
    seen: list[bool] = group.gather_json(here)
    if all(seen):
        assert found is not None
        return found
    source = seen.index(True)
    data = None
    if group.rank == source:
        assert found is not None
        data = _framed(found)
    return _unframed(group.broadcast_bytes(data, source, "state"), f"checkpoint of worker {source}")


def _everywhere(group: Group, final: Path, action: Callable[[], Any] | None) -> list[Any]:
    """What `action` gave on every worker, None where there was none; an InputError on all where one's disk refused."""
    told = {}
    try:
        with named_errors(final):
            told = {"value": action() if action else None}
    except InputError as error:
        told = {"trouble": str(error)}
    answers: list[dict[str, Any]] = group.gather_json(told)
    for answer in answers:
        if "trouble" in answer:
            raise InputError(answer["trouble"])
    return [answer["value"] for answer in answers]


def _framed(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as one message: a JSON line of names and lengths, then the files, the index first."""
    files = checkpoints.files_of(checkpoint)
    digests = {name: checkpoints.sha256(data) for name, data in files.items()}
    files = {checkpoints.INDEX: checkpoints.index_of(checkpoint, digests), **files}
    head = json.dumps({name: len(data) for name, data in files.items()}).encode()
    return head + b"\n" + b"".join(files.values())


def _unframed(message: bytes, where: str) -> Checkpoint:
    head, _, body = message.partition(b"\n")
    files, start = {}, 0
    for name, length in json.loads(head).items():
        files[name] = body[start : start + length]
        start += length
    return checkpoints.parse(checkpoints.parse_index(files.pop(checkpoints.INDEX), where), files, where)

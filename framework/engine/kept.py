"""Checkpoints as the workers of a run keep them: written by all of them together, found by all of them together.

Every host keeps a checkpoint with its own workers' files, so a host that is lost takes no shared weights with it; hosts
that see the same disk keep one together. Nobody gives a checkpoint its name before all workers have written theirs, and
two are kept: so whenever a run is killed, one of them is whole over all hosts. On a start the newest such is read where
it is and sent to those who lack it, or have another of that name, which an attempt without the others left.
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
from framework.engine.checkpoint import Checkpoint, DamagedError, own_file
from framework.engine.files import named_errors
from framework.engine.state import on_host
from framework.errors import InputError, StoreError


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

    All workers call this together, also while others train there, and drop what is older. Raises StoreError where the
    newest one is damaged: `tidy` first, where the one before will do."""
    for _ in range(_TRIES):
        seen = group.gather_json(_copies(folder, checkpoints.places(folder)[-1:]))
        last = max((name for one in seen for name in one), default=None)
        if last is None:
            return None
        identity = next(one[last]["identity"] for one in seen if last in one)
        found = _common(folder, last, identity, group)
        if found is not None:
            return found
    raise StoreError(f"checkpoints in '{folder}' went while they were read, {_TRIES} times. Ask again.")


def resumable(folder: Path, group: Group) -> Checkpoint | None:
    """As `newest`, but whole: every worker's own state is somewhere. Raises InputError where none is, but one was."""
    seen = group.gather_json(_copies(folder, checkpoints.places(folder)))
    lacking = _lacking(seen)
    if not lacking:
        return None
    chosen = _chosen(lacking)
    if chosen is None:
        last = max(lacking, key=lambda copy: copy[0])
        raise InputError(
            f"checkpoint '{folder / last[0]}' lacks {', '.join(sorted(lacking[last]))}: a host that kept them is not "
            "here. Start with the hosts that the run had, or choose another --out."
        )
    found = _common(folder, *chosen, group)
    if found is None:
        raise StoreError(f"checkpoint '{folder / chosen[0]}' went while it was read: who else writes there?")
    return found


def own_state(folder: Path, found: Checkpoint, group: Group) -> dict[str, Tensor]:
    """What this worker kept for itself in a `resumable` checkpoint; of one whose file is elsewhere, it is sent.

    All workers call this together, as many as wrote the checkpoint."""
    place, mine = folder / found.name, b""
    seen = group.gather_json(_copies(folder, [found.name]))
    chosen = _chosen(_lacking(seen))
    assert chosen is not None, "it is resumable"
    held = [one.get(found.name, _NONE) for one in seen]
    holders: list[list[str]] = [copy["held"] if copy["identity"] == chosen[1] else [] for copy in held]
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


_TRIES = 10
_NONE: dict[str, Any] = {"identity": None, "held": []}
_Copy = tuple[str, str]
"""The name of a checkpoint, and which of those called so it is: attempts that were cut may each have left one."""


def _copies(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """What this worker sees of the checkpoints `names`: which they are, which files of workers they want, and hold."""
    copies = {}
    for name in names:
        if not (folder / name / checkpoints.INDEX).exists():
            continue
        try:
            index = checkpoints.read_index(folder / name)
        except (DamagedError, FileNotFoundError):
            if (folder / name).exists():
                raise
            continue  # dropped meanwhile
        copies[name] = {
            "identity": checkpoints.identity(index),
            "wanted": [own_file(int(rank)) for rank in index["own"]],
            "held": [file for file in index["files"] if checkpoints.is_own(file)],
        }
    return copies


def _lacking(seen: list[dict[str, dict[str, Any]]]) -> dict[_Copy, set[str]]:
    """Files of workers that no worker sees, of every checkpoint; in the order of the workers that see them."""
    lacking: dict[_Copy, set[str]] = {}
    for one in seen:
        for name, copy in one.items():
            which = (name, copy["identity"])
            lacking[which] = lacking.get(which, set(copy["wanted"])).difference(copy["held"])
    return lacking


def _chosen(lacking: dict[_Copy, set[str]]) -> _Copy | None:
    """The newest checkpoint that is whole; of several that are called so, the first worker's."""
    whole = [copy for copy, files in lacking.items() if not files]
    return max(whole, key=lambda copy: copy[0], default=None)  # the first of equal ones


def _common(folder: Path, name: str, identity: str, group: Group) -> Checkpoint | None:
    """The shared part of a checkpoint: read, or sent by the first worker that has it. None where it is gone."""
    place, found = folder / name, None
    if _copies(folder, [name]).get(name, _NONE)["identity"] == identity:
        try:
            found = checkpoints.read_common(place)
        except DamagedError:
            if (place / checkpoints.INDEX).exists():
                raise
    has: list[bool] = group.gather_json(found is not None)
    if not any(has) or all(has):
        return found
    source = has.index(True)
    data = None
    if group.rank == source:
        assert found is not None
        data = _framed(found)
    sent = group.broadcast_bytes(data, source, "state")
    return found if found is not None else _unframed(sent, f"checkpoint of worker {source}")


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

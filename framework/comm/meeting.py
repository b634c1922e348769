"""Work of unlike length on the workers of a group: whoever is done early waits, and is told that others go on.

Assumption: a step takes far less time than `--deadline`, which every wait of the group is held to; the whole of the
work may take longer.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from framework.comm.group import Group
from framework.errors import StoreError
from framework.store.columns import FileFacts
from framework.store.manifest import verifying

_SHARE = 0.1  # of the deadline, that a worker works before it meets the others


def finish_together(group: Group, work: Iterable[object]) -> None:
    """Goes through `work` and returns when all workers have done with theirs. All workers call this together.

    An exception of the work leaves the others waiting: it should end its steps instead, and tell afterwards."""
    steps, going = iter(work), True
    while going:
        until, mine = time.monotonic() + _SHARE * group.deadline, next(steps, steps) is not steps
        while mine and time.monotonic() < until:
            mine = next(steps, steps) is not steps
        going = bool(group.all_reduce(torch.tensor([int(mine)]), "state", "max"))


def verify_together(group: Group, folder: Path, files: Mapping[str, FileFacts]) -> None:
    """Reads every byte of `files`, those that workers of this host read: a byte that a disk has changed would be
    learned from in silence. A host's workers share its files out. All workers call this together.

    Raises StoreError, the same on all of them, naming a file that is altered or missing."""
    beside = [rank for rank, host in enumerate(group.hosts) if host == group.hosts[group.rank]]
    by_size = sorted(files, key=lambda name: (-files[name].bytes, name))
    mine = by_size[beside.index(group.rank) :: len(beside)]
    trouble = None

    def steps() -> Iterator[None]:
        nonlocal trouble
        try:
            yield from verifying(folder, {name: files[name] for name in mine})
        except StoreError as error:
            trouble = str(error)

    finish_together(group, steps())
    troubles = [told for told in group.gather_json(trouble) if told is not None]
    if troubles:
        raise StoreError(troubles[0])

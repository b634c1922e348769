"""What a run's folder says that it is of, beside the run as it is read now: nothing that the record names is imported.

A record is what `encode` once gave. A program that knew fewer settings wrote fewer; what says where something runs is
left out, for that may be another at every start.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from framework.config import digest, says_what_is_asked, says_where
from framework.engine.run import Run


def recorded(record: Mapping[str, Any], run: Run) -> Any:
    """The record as checkpoints of its run know it, where `run` is what it is read as now: as Run.continued()."""
    result = like(record, run)
    return result if run.epochs_matter else {**result, "epochs": 0}


def recorded_digest(record: Mapping[str, Any], run: Run) -> str:
    """The digest of the run that was recorded, `run` as it is read now: of a program that knew fewer settings, too."""
    return digest(like(record, run))


def like(record: Any, value: Any, *, asked_too: bool = True, among: Any = None) -> Any:
    """`record`, what `encode` once gave of a value like `value`, without fields that say where something runs and,
    without `asked_too`, what is asked; without those that are not in `among` either, an older record, where given."""

    def inner(record: Any, value: Any, among: Any) -> Any:
        return like(record, value, asked_too=asked_too, among=among)

    older = among if isinstance(among, dict | list) else None
    if isinstance(record, list) and isinstance(value, Sequence) and len(record) == len(value):
        others = older if isinstance(older, list) and len(older) == len(record) else [None] * len(record)
        return [inner(*each) for each in zip(record, value, others, strict=True)]
    if isinstance(record, dict) and isinstance(value, Mapping):
        within = older if isinstance(older, dict) else {}
        return {name: inner(one, value.get(name), within.get(name)) for name, one in record.items()}
    if not isinstance(record, dict) or not dataclasses.is_dataclass(value):
        return record
    fields = dataclasses.fields(value)
    left = {field.name for field in fields if says_where(field) or (says_what_is_asked(field) and not asked_too)}
    known = older if isinstance(older, dict) else None
    return {
        name: inner(one, getattr(value, name, None), known and known[name])
        for name, one in record.items()
        if name not in left and (known is None or name in known)
    }

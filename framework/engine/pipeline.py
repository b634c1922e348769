"""A pipeline: named steps in order, each a run or a product, whose inputs are what earlier steps made.

Assumption: a step says `Made(step="teacher")`, anywhere inside its value, where it needs what `teacher` made. A walk
fills in what that is and where. A digest stands in it then, and so in the digest of the step: what a step makes is a
function of everything before it that it depends on, and of nothing else. Here are the values; `launch/walk.py` walks.
"""

import dataclasses
import difflib
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from framework import config
from framework.engine.run import Event, Mapper, Run
from framework.errors import InputError
from framework.made import Made
from framework.store import product

V = TypeVar("V")

_TAKEN = ("shared", "workload")  # what flags leave out, for all steps or a run
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@runtime_checkable
class Product(Protocol):
    """A step that makes a folder of files from data and earlier steps. A plug-in: its fields are its configuration.

    What is made is found again by the digest of the value, so it may depend on nothing else."""

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Fills the empty `folder`, but for its manifest, and returns facts for that: plain values.

        `work` is a folder that outlives a kill: whoever is started again finds there what was finished."""


@runtime_checkable
class Agreeing(Protocol):
    """A product, or a run's workload, that has to agree with the steps that it uses."""

    def agree(self, steps: Mapping[str, Run | Product]) -> None:
        """Raises InputError where what `steps`, all by name, will have made is not what this one can use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps by name, in the order in which they are walked."""

    steps: Mapping[str, Run | Product]
    """Each may use what those before it made."""

    def __post_init__(self) -> None:
        """Refuses names that cannot be flags, and steps that use what is not made before them or not for them."""
        if not self.steps:
            raise InputError("a pipeline has no steps; expected at least one.")
        names = list(self.steps)
        for place, (name, step) in enumerate(self.steps.items()):
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"a step is called '{name}'; expected small letters and digits, with hyphens in between."
                )
            if keyword.iskeyword(name) or name in _TAKEN:
                raise InputError(f"a step is called '{name}', which flags cannot be; call it otherwise.")
            if not isinstance(step, Run | Product):
                raise InputError(f"step '{name}' is a {type(step).__name__}; expected a Run, or a product with make().")
            for used in uses(step):
                _require_earlier(used, name, names, place)
        for name, step in self.steps.items():
            value = step.workload if isinstance(step, Run) else step
            if isinstance(value, Agreeing):
                try:
                    value.agree(self.steps)
                except InputError as error:
                    raise InputError(f"step '{name}': {error}") from error

    def digest(self) -> str:
        """SHA-256 over everything that the results depend on."""
        return config.digest(self, result_only=True)


def uses(value: Any) -> Iterator[str]:
    """The names of the steps that `value` mentions, wherever inside it."""
    if isinstance(value, Made):
        yield value.step
    else:
        for inner in _inside(value).values():
            yield from uses(inner)


def resolved(value: V, made: Mapping[str, Made]) -> V:
    """`value` with what the steps it mentions have made."""
    if isinstance(value, Made):
        return made[value.step]  # type: ignore[return-value]
    changed = {name: new for name, old in _inside(value).items() if (new := resolved(old, made)) is not old}
    if not changed:
        return value
    if isinstance(value, Mapping):
        return {**value, **changed}  # type: ignore[return-value]
    if isinstance(value, Sequence):
        return tuple(changed.get(place, old) for place, old in enumerate(value))  # type: ignore[return-value]
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def run_digest(step: Run, data_digest: str) -> str:
    """What the result of a run, in which every step it uses is resolved, is a function of; with its prepared data's."""
    return config.digest([step.digest(), data_digest])


def product_digest(step: Product) -> str:
    """What the folder of a product, in which every step it uses is resolved, is a function of."""
    return config.digest([config.encode(step, result_only=True), product.VERSION])


def _inside(value: Any) -> dict[Any, Any]:
    """What a value holds, by field, key or place."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return dict(enumerate(value))
    return {}


def _require_earlier(used: str, user: str, names: Sequence[str], place: int) -> None:
    """Raises InputError where the step that `user`, at `place`, uses is none, or not before it."""
    if used in names[:place]:
        return
    if used in names:
        which = "itself" if used == user else f"'{used}', which comes after it"
        raise InputError(f"step '{user}' uses {which}; a step can use only those before it: list it behind them.")
    near = difflib.get_close_matches(used, names[:place], n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    before = f"before it are {', '.join(names[:place])}" if place else "it is the first"
    raise InputError(f"step '{user}' uses '{used}', which is no step.{guess} Expected one before it; {before}.")

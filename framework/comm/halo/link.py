"""The wire under a halo strategy: rows go from worker to worker along lanes, and are counted by lane.

Assumptions: a strategy says what is sent and when; a link says in which form. Links wrap links: one that compresses
gives its bytes to the one beneath, and the lowest is the group. All workers send along the same lanes in the same
order. A link's state is what it must not lose between two steps.
"""

import dataclasses
from typing import Literal, Protocol

from torch import Tensor

from framework.comm.group import Group
from framework.random import Key

Towards = Literal["halo", "owners"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The place in the run that a strategy may depend on."""

    epoch: int
    """The epoch, from 0."""
    number: int
    """The step of the epoch, from 0."""
    key: Key
    """What draws of this step are keyed by, the same on all workers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """Which rows are under way."""

    layer: int
    """The layer that needs them, from 0."""
    towards: Towards
    """From owners to whoever has the rows in its halo, or back."""
    backward: bool
    """Whether they are gradients."""
    apart: bool = False
    """Whether the copies of a row differ, or each has to arrive: they are neither shared nor summed on the way."""
    leg: str = ""
    """A part of the way, where rows go by several."""

    @property
    def name(self) -> str:
        """What bytes are counted under, and state is kept under: `1/forward`, `1/forward/between`."""
        name = f"{self.layer}/{'backward' if self.backward else 'forward'}"
        return f"{name}/{self.leg}" if self.leg else name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """How many rows go to each worker and come from each, and which rows of the plan they are."""

    sent: list[int]
    """Rows to each worker."""
    received: list[int]
    """Rows from each worker."""
    sent_slots: Tensor | None = None
    """int64 [sum of sent]: which of the plan's rows to send these are. None: all of them, in order."""
    received_slots: Tensor | None = None
    """int64 [sum of received]: the same of those received."""
    sent_original: Tensor | None = None
    """int64 [sum of sent]: original ids of the rows sent, on the host, where these are not the plan's but the same in
    every step (rows passed on for others, or those for one worker). None: the plan's, by their slots."""


class Arrival(Protocol):
    """Rows on their way."""

    def wait(self) -> Tensor:
        """The rows, [sum of received, columns]. Raises LostWorkerError."""


class Link(Protocol):
    """Carries rows."""

    def begin(self, step: Step) -> None:
        """A step begins. All workers call this together."""

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Sets rows [sum of sent, columns] under way; they must not change until they have been waited for."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""


class DirectLink:
    """Rows as they are, over the group."""

    def __init__(self, group: Group, purpose: str = "halo") -> None:
        self.group, self.purpose = group, purpose

    def begin(self, step: Step) -> None:
        """Nothing depends on it."""

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Counted under purpose, layer and direction."""
        return self.group.exchange_async(rows, route.sent, route.received, f"{self.purpose}/{lane.name}")

    def state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Arrived:
    """Rows that are there already (an Arrival)."""

    rows: Tensor
    """The rows."""

    def wait(self) -> Tensor:
        """At once."""
        return self.rows

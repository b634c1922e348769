"""Pipelining: a layer computes with the halo rows that were sent a step ago, while those of this step are under way.

Wan et al., "PipeGCN: Efficient full-graph training of graph convolutional networks with pipelined feature
communication", ICLR 2022; gradients of halo rows come as late. Nobody waits for a message before the step that uses it,
so a transfer has a whole step to hide behind. The paper begins with zeros; here the first steps take the oldest rows
there are, which in step 0 are its own, so that no layer ever learns from rows that nobody sent: the age of rows is 0,
1, ... up to `staleness`, and then stays.

Smoothing is the paper's: what is used is a moving average of what came, rows and gradients by one weight. Exact limit:
staleness=0 without smoothing. A checkpoint waits for what is under way, and keeps it.
"""

import dataclasses
from collections import deque
from typing import Literal

import torch
from torch import Tensor

from framework.comm.halo.lanes import Visits, load_link, with_link
from framework.comm.halo.link import Arrival, Arrived, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.errors import InputError
from framework.graph.block import Block
from framework.registry import HALOS

Smoothed = Literal["both", "features", "gradients"]


@HALOS.register("pipelined")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipelined:
    """Rows of the step before, this step's under way (PipeGCN; Wan et al., ICLR 2022). staleness=0: exact."""

    staleness: int = 1
    """Steps between sending rows and using them; each holds one more halo's rows a layer in memory."""
    smoothing: float = 0.0
    """The weight of what came before in a moving average of what comes, below 1; the paper takes 0.95. 0: none."""
    smoothed: Smoothed = "both"
    """What is smoothed: `features`, `gradients` or `both`."""

    def __post_init__(self) -> None:
        if self.staleness < 0:
            raise InputError(f"--halo.staleness is {self.staleness!r}; expected a number of steps, at least 0.")
        if not 0 <= self.smoothing < 1:
            raise InputError(f"--halo.smoothing is {self.smoothing!r}; expected a weight from 0 to below 1.")
        if self.smoothed not in ("both", "features", "gradients"):
            raise InputError(f"--halo.smoothed is {self.smoothed!r}; expected both, features or gradients.")

    def smoothing_of(self, lane: Lane) -> float:
        """The weight of the past in a lane."""
        return self.smoothing if self.smoothed in ("both", "gradients" if lane.backward else "features") else 0.0

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return PipelinedExchange(self, plan, link)


class PipelinedExchange:
    """Rows to the halos and gradients to the owners, each used some steps after it was sent."""

    share = 1.0

    def __init__(self, strategy: Pipelined, plan: HaloPlan, link: Link) -> None:
        self.strategy, self.plan, self.link = strategy, plan, link
        self.staleness: dict[str, int] = {}  # lane -> steps since the rows that it used last were sent
        self._queues: dict[str, _Queue] = {}
        self._visits = Visits()

    def begin(self, step: Step) -> None:
        """Every step is alike."""
        self.link.begin(step)
        self._visits.begin()

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns], for a later step -> [h, columns] of an earlier one."""
        return self._late(self.link.send(copies, self.plan.route("halo"), lane), lane)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns], for a later step -> [sent, columns] of an earlier one."""
        return self._late(self.link.send(halo, self.plan.route("owners"), lane), lane)

    def _late(self, sent: Arrival, lane: Lane) -> Arrival:
        queue = self._queues.setdefault(self._visits.name(lane), _Queue())
        late, self.staleness[lane.name] = queue.exchanged(sent, self.strategy.staleness)
        weight = self.strategy.smoothing_of(lane)
        return _Averaged(late=late, queue=queue, weight=weight) if weight else late

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """Every lane's rows that are yet to be used, once they are here, and its moving average."""
        own = {f"{name}/{part}": rows for name, queue in self._queues.items() for part, rows in queue.state().items()}
        return with_link(own, self.link)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        for path, rows in sorted(load_link(state, self.link).items()):
            name, _, part = path.rpartition("/")
            self._queues.setdefault(name, _Queue()).load(part, rows.to(self.plan.wanted.device))


class _Queue:
    """What was sent in one lane and is yet to be used, the oldest first."""

    def __init__(self) -> None:
        self._messages: deque[Arrival] = deque()
        self.average: Tensor | None = None

    def exchanged(self, sent: Arrival, staleness: int) -> tuple[Arrival, int]:
        """Takes what was sent; gives what is to be used instead, and how many steps ago that was sent."""
        self._messages.append(sent)
        age = len(self._messages) - 1
        return (self._messages.popleft() if age == staleness else self._messages[0]), age

    def state(self) -> dict[str, Tensor]:
        """`0`, `1`, ...: the messages; `average`."""
        state = {f"{place:04d}": message.wait() for place, message in enumerate(self._messages)}
        return state if self.average is None else {**state, "average": self.average}

    def load(self, part: str, rows: Tensor) -> None:
        """One entry of `state`; messages in their order."""
        if part == "average":
            self.average = rows
        else:
            self._messages.append(Arrived(rows=rows))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Averaged:
    """Late rows, and with them the average of all that came before (an Arrival, waited for once a step)."""

    late: Arrival
    """The rows."""
    queue: _Queue
    """Where the average is kept."""
    weight: float
    """The weight of what came before."""

    def wait(self) -> Tensor:
        """The new average. The first rows are their own; rows that come again while the pipeline fills change nothing,
        for lerp of equals is their value to the bit."""
        rows, average = self.late.wait(), self.queue.average
        self.queue.average = rows if average is None else torch.lerp(rows, average, self.weight)
        return self.queue.average

"""Local steps without a halo, then a few with all of it: what a worker learns from its own graph is corrected.

Ramezani et al., "Learn locally, correct globally: A distributed algorithm for training graph neural networks" (LLCG),
ICLR 2022. Together with `--gradient corrected`, which averages weights between the two, it is that algorithm. What
differs: the paper's server alone corrects, on samples of the whole graph that it holds, with an optimiser of its own;
here no machine holds the graph, and all workers take the global steps together, each with its part of the batch, whole
neighbourhoods and the run's optimiser. A worker's local loss counts by its share of the batch.

Exact limit: local_steps=0. A checkpoint keeps the place in the rounds.
"""

import dataclasses

from torch import Tensor

from framework.comm.halo.exact import ExactExchange
from framework.comm.halo.lanes import load_link, with_link
from framework.comm.halo.link import Arrival, Lane, Link, Step
from framework.comm.halo.never import NoExchange
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.comm.rounds import Calendar, Rounds
from framework.graph.block import Block
from framework.registry import HALOS


@HALOS.register("corrected")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """Steps on each worker's own graph, then steps on all (LLCG; Ramezani et al., ICLR 2022). local_steps=0: exact."""

    local_steps: int = 4
    """Steps of the first round in which every worker trains on the graph between its own nodes."""
    global_steps: int = 1
    """Steps of a round in which all rows are exchanged. 0: never (PSGD-PA)."""
    growth: float = 1.0
    """Each round's local part is so many times as long as that of the round before; above 1 in the paper."""

    def __post_init__(self) -> None:
        self.rounds.check("halo")

    @property
    def rounds(self) -> Rounds:
        """How long rounds are."""
        return Rounds(local_steps=self.local_steps, global_steps=self.global_steps, growth=self.growth)

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return CorrectedExchange(self.rounds, plan, link)


class CorrectedExchange:
    """No exchange or the exact one, by the calendar (Secluding)."""

    share = 1.0

    def __init__(self, rounds: Rounds, plan: HaloPlan, link: Link) -> None:
        self.link, self.calendar = link, Calendar(rounds)
        self._without, self._with = NoExchange(plan), ExactExchange(plan, link)
        self.secluded = self.calendar.local

    @property
    def _now(self) -> HaloExchange:
        return self._without if self.secluded else self._with

    def begin(self, step: Step) -> None:
        """Turns to what the step is."""
        self._with.begin(step)
        self.secluded = self.calendar.local
        self.calendar.advance()

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns]."""
        return self._now.to_halo(copies, lane)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns]."""
        return self._now.to_owners(halo, lane)

    def block(self, local: Block) -> Block:
        """The edges of this step."""
        return self._now.block(local)

    def state(self) -> dict[str, Tensor]:
        """The place in the rounds."""
        return with_link({"calendar": self.calendar.state()}, self.link)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        own = load_link(state, self.link)
        if own:
            self.calendar.load(own["calendar"])

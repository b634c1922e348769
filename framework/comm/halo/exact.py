"""Exact halo exchange: every row, every layer, forward and backward; training equals that of one process."""

import dataclasses

from torch import Tensor

from framework.comm.halo.link import Arrival, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Block
from framework.registry import HALOS


@HALOS.register("exact")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
    """Every boundary row before every layer, and its gradient back."""

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return ExactExchange(plan, link)


class ExactExchange:
    """Rows to whoever has them in its halo; gradients of the halo's rows back to their owners."""

    share = 1.0

    def __init__(self, plan: HaloPlan, link: Link) -> None:
        self.plan, self.link = plan, link

    def begin(self, step: Step) -> None:
        """Every step is alike."""
        self.link.begin(step)

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns]."""
        return self.link.send(copies, self.plan.route("halo"), lane)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns]."""
        return self.link.send(halo, self.plan.route("owners"), lane)

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """The link's."""
        return self.link.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The link's."""
        self.link.load_state(state)

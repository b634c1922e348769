"""Rematerialised halo: one other worker's rows at a time, in hidden layers no worker holds its whole halo.

Mostafa, "Sequential aggregation and rematerialization: distributed full-batch training of graph neural networks on
large graphs" (SAR), MLSys 2022. Rows are aggregated as they come and freed; where the backward pass needs them they
come once more. Sums do not need them: they send what the exact halo sends. Attention has them come twice, so its bytes
are half as many again. At its worst moment a hidden layer holds 1 + `ahead` workers' rows of the halo instead of all.

A layer that is written on edges (`GraphBlock.whole`) has the whole halo at once, as has every layer on a vertex-cut.
"""

import dataclasses
from typing import ClassVar

from torch import Tensor

from framework.comm.halo.exact import ExactExchange
from framework.comm.halo.link import Arrival, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.comm.halo.turns import Turn
from framework.errors import InputError
from framework.graph.block import Block
from framework.registry import HALOS


@HALOS.register("rematerialized")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rematerialized:
    """One other worker's rows at a time, freed when aggregated, fetched again for gradients (SAR, 2022). Exact."""

    faithful: ClassVar[bool] = True
    """Every row comes as it is."""
    ahead: int = 0
    """Workers whose rows are under way while those of an earlier one are aggregated: time for memory."""

    def __post_init__(self) -> None:
        if self.ahead < 0:
            raise InputError(f"--halo.ahead is {self.ahead}; expected 0 or a number of workers.")

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return RematerializedExchange(self.ahead, plan, link)


class RematerializedExchange:
    """The exact exchange, and the same rows by turns (InTurns)."""

    share = 1.0

    def __init__(self, ahead: int, plan: HaloPlan, link: Link) -> None:
        self.ahead, self.turns = ahead, Turn.all_of(plan, link)
        self._whole = ExactExchange(plan, link)

    def begin(self, step: Step) -> None:
        """Every step is alike."""
        self._whole.begin(step)

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns], all at once."""
        return self._whole.to_halo(copies, lane)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns], all at once."""
        return self._whole.to_owners(halo, lane)

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """The link's."""
        return self._whole.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The link's."""
        self._whole.load_state(state)

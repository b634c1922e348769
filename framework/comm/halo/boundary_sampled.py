"""Boundary sampling: in a step each worker sends a random share of its boundary rows, and gets their gradients back.

Wan et al., "BNS-GCN: Efficient full-graph training of graph convolutional networks with partition-parallelism and
random boundary node sampling", MLSys 2022. Of B rows that an owner has for a peer, p B are drawn without replacement,
anew in every step; their number is rounded up or down at random so that a row comes with a chance of exactly p, and a
sum divided by p is unbiased for any B. Both workers draw alike, by the rows' original ids and the step's key: nobody
says what was drawn. Attention cannot be scaled so; it is a softmax over the sources that came.

The first layer's halo is complete: features are fetched once and kept, whatever the strategy. p=1 is exact; p=0 sends
nothing.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.halo.chosen import KeptEdges, Slots, Spread, send_some
from framework.comm.halo.link import Arrival, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.errors import InputError
from framework.graph.block import Block
from framework.random import Key, bits, uniform
from framework.registry import HALOS

SAMPLING = 11  # the purpose that a step's key is folded by
_ROUNDING, _CHOOSING = 0, 1  # streams of a pair's key


@HALOS.register("boundary-sampled")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BoundarySampled:
    """A random share of the boundary in every step (BNS-GCN; Wan et al., MLSys 2022). p=1: exact."""

    p: float = 0.1
    """The share of boundary rows that a step sends, from 0 to 1; bytes are the exact halo's times p."""

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise InputError(f"--halo.p is {self.p!r}; expected a share of the boundary, from 0 to 1.")

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return SampledExchange(self.p, plan, link)


class SampledExchange:
    """The rows of a step's draw to the halos, the others 0; gradients of those rows back to their owners."""

    def __init__(self, p: float, plan: HaloPlan, link: Link) -> None:
        self.p, self.plan, self.link = p, plan, link
        self.share = p or 1.0  # nothing comes at p=0, so nothing is there to be scaled

    def begin(self, step: Step) -> None:
        """Draws the rows of this step."""
        self.link.begin(step)
        plan, key, me = self.plan, step.key.fold(SAMPLING), self.plan.group.rank

        def to_send(peer: int, rows: slice) -> Tensor:
            return drawn(self.p, plan.wanted_original[rows], key.fold(me, peer))

        def to_come(owner: int, rows: slice) -> Tensor:
            return drawn(self.p, plan.halo_original[rows], key.fold(owner, me))

        device = plan.wanted.device
        self._owned = Slots.choose(plan.sent, to_send, device)
        self._halo = Slots.choose(plan.received, to_come, device)
        came = torch.zeros(plan.num_halo, dtype=torch.bool, device=device)
        came[self._halo.places] = True
        self._edges = KeptEdges(came)

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns], 0 where nothing comes."""
        return Spread(some=send_some(copies, self._owned, self._halo, self.link, lane), slots=self._halo)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns], 0 where nothing comes."""
        return Spread(some=send_some(halo, self._halo, self._owned, self.link, lane), slots=self._owned)

    def block(self, local: Block) -> Block:
        """The edges from owned nodes, and from halo nodes that come in this step."""
        return self._edges.of(local)

    def state(self) -> dict[str, Tensor]:
        """The link's: a draw is a function of the step."""
        return self.link.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The link's."""
        self.link.load_state(state)


def drawn(p: float, original: Tensor, key: Key) -> Tensor:
    """Places of the rows that come of those with `original` ids, each with chance p: int64, increasing.

    Their number is p times the rows, its fraction rounded up with the chance that it is. `original`: int64 [rows]."""
    expected = p * len(original)
    number = int(expected + float(uniform(key, torch.zeros(1, dtype=torch.int64), stream=_ROUNDING)))
    if number >= len(original):
        return torch.arange(len(original))
    return bits(key, original, stream=_CHOOSING).topk(number, largest=False).indices.sort().values

"""No exchange: every worker trains on the graph between its own nodes, and only weights are agreed on.

The edges between workers are left out of every layer, the first one included, and degrees are those of what is left:
the local training of Ramezani et al., "Learn locally, correct globally: A distributed algorithm for training graph
neural networks" (LLCG), ICLR 2022, and its baseline PSGD-PA. On a vertex-cut rows of other workers read as 0 instead,
and partial sums stay where they are, much as DistGNN's 0c (Md et al., SC 2021), whose copies of a node go on by
themselves.

Exact limit: no edge joins two workers' nodes. What it costs away from there is what the cut cuts.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.halo.chosen import KeptEdges
from framework.comm.halo.link import Arrival, Arrived, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Block
from framework.registry import HALOS


@HALOS.register("never")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Never:
    """Every worker its own nodes' graph (LLCG's local steps; Ramezani et al., ICLR 2022). No cut edges: exact."""

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`."""
        return NoExchange(plan)


class NoExchange:
    """Nothing goes, and zeros come (Secluding)."""

    share, secluded = 1.0, True

    def __init__(self, plan: HaloPlan) -> None:
        self.plan = plan
        self._edges = KeptEdges(torch.zeros(plan.num_halo, dtype=torch.bool, device=plan.wanted.device))

    def begin(self, step: Step) -> None:
        """Every step is alike."""

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns] -> [h, columns] of zeros."""
        return Arrived(rows=copies.new_zeros(self.plan.num_halo, *copies.shape[1:]))

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns] of zeros."""
        return Arrived(rows=halo.new_zeros(len(self.plan.wanted), *halo.shape[1:]))

    def block(self, local: Block) -> Block:
        """The edges from owned nodes."""
        return self._edges.of(local)

    def state(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """There is none."""

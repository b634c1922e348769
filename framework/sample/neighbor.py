"""Node-wise neighbour sampling (Hamilton et al., "Inductive representation learning on large graphs", 2017).

A node that is met twice in one step, on one worker or on two, draws the same neighbours: draws are keyed by step, hop
and original id.
"""

import dataclasses

from framework.graph.block import Block, Nodes
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.hops import check_numbers, expand
from framework.sample.sampler import SAMPLING, GraphView


@SAMPLERS.register("neighbor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbor:
    """A fixed number of neighbours a node and hop, uniform without replacement."""

    fanouts: tuple[int, ...] = (15, 10)
    """Neighbours a node, the hop from the seeds first; -1 takes all."""

    def __post_init__(self) -> None:
        check_numbers("fanouts", self.fanouts)

    @property
    def depth(self) -> int:
        """One block a hop."""
        return len(self.fanouts)

    @property
    def whole(self) -> bool:
        """Blocks end at the seeds."""
        return False

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> list[Block]:
        """The blocks of `seeds`, the input layer's first."""
        return expand(
            seeds,
            self.depth,
            key,
            lambda frontier, hop: graph.neighbors(frontier, self.fanouts[hop], key.fold(SAMPLING, hop)),
        )

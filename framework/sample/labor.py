"""Layer-neighbour sampling: as many neighbours a node as node-wise sampling draws, but far fewer different ones.

Balin, Catalyurek, "Layer-neighbor sampling: defusing neighborhood explosion in GNNs", NeurIPS 2023. Every node of the
graph has one draw a hop, and each node of the frontier takes those of its neighbours that have the lowest. For one node
that is a uniform sample without replacement, as node-wise sampling has it, and a mean over it has the same variance;
two nodes with common neighbours choose the same of them, so that a step has fewer rows to fetch and to compute. This is
the paper's LABOR-0 with sequential Poisson draws, which take an exact number. Its importance sampling (LABOR-1 and on)
looks at all nodes of one worker's frontier, and so its draws would depend on how many workers there are.
"""

import dataclasses

from framework.graph.block import Block, Nodes
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.hops import check_numbers, expand
from framework.sample.sampler import SAMPLING, GraphView


@SAMPLERS.register("labor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Labor:
    """A fixed number of neighbours a node and hop, by draws that nodes share: fewer different neighbours a step."""

    fanouts: tuple[int, ...] = (15, 10)
    """Neighbours a node, the hop from the seeds first; -1 takes all."""
    layer_dependent: bool = False
    """Whether hops share their draws, too: fewer different nodes still, but layers see much the same of them."""

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
        keys = [key.fold(SAMPLING, 0 if self.layer_dependent else hop) for hop in range(self.depth)]
        return expand(
            seeds,
            self.depth,
            key,
            lambda frontier, hop: graph.neighbors(frontier, self.fanouts[hop], keys[hop], shared=True),
        )

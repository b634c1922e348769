"""Layer-wise sampling: a hop has about as many different neighbours as it is given, however large the batch is.

Zou, Hu, Wang, Jiang, Sun, Gu, "Layer-dependent importance sampling for training deep and large graph convolutional
networks" (LADIES), NeurIPS 2019, in the form of Balin, Catalyurek, "Layer-neighbor sampling", NeurIPS 2023 (PLADIES):
all neighbours of a hop's frontier are candidates, a candidate is drawn by one coin, whose chance grows with what the
frontier's means have of it, and every edge from one that is drawn is kept. So the rows of a step grow with depth times
budget and not with the product of fanouts. `framework.sample.chances` has the formula.

The budget is of the global batch, over all workers together: the frontier of a hop is that of all of them, so that what
is drawn does not depend on how many there are. They send each other their frontiers in every hop, wherever shards are
mapped. Weights that a graph's edges have do not count in the chances.

An edge counts by the inverse of its source's chance, beside the others of its target (`Block.importance`): rows are
normalised, as in the paper. That estimate of a mean is a ratio of two sums without bias, so it is consistent, exact for
a target all of whose neighbours are certain, and has a bias that vanishes as the budget grows. A target none of whose
neighbours was drawn has none in that step: budgets are to be some times the batch. A node's edges to itself take
nothing from the budget: they are always kept, and are no estimate.
"""

import dataclasses

from framework.graph.block import Block, Nodes
from framework.random import Key
from framework.registry import SAMPLERS
from framework.sample.hops import check_numbers, expand
from framework.sample.sampler import SAMPLING, GraphView, Neighbors


@SAMPLERS.register("ladies")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladies:
    """A number of different neighbours a hop of the whole batch, those that its nodes have most of more likely."""

    budgets: tuple[int, ...] = (1024, 1024)
    """Different neighbours a hop on average, over all workers together, the hop from the seeds first; -1 takes all."""

    def __post_init__(self) -> None:
        check_numbers("budgets", self.budgets)

    @property
    def depth(self) -> int:
        """One block a hop."""
        return len(self.budgets)

    @property
    def whole(self) -> bool:
        """Blocks end at the seeds."""
        return False

    def sample(self, graph: GraphView, seeds: Nodes, key: Key) -> list[Block]:
        """The blocks of `seeds`, the input layer's first."""

        def draw(frontier: Nodes, hop: int) -> Neighbors:
            budget, coins = self.budgets[hop], key.fold(SAMPLING, hop)
            if budget < 0:
                return graph.neighbors(frontier, budget, coins)
            return graph.neighbors_together(frontier, budget, coins)

        return expand(seeds, self.depth, key, draw)

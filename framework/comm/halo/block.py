"""One layer over all nodes of a worker, as a network sees it: rows of owned nodes in, rows of owned nodes out.

The rows of the halo come by the halo strategy, behind the sums and the attention that a layer asks for. Before the
first layer nothing has to come: features of the halo are fetched once and kept, so the halo is among the sources there.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.halo.strategy import HaloExchange
from framework.graph.block import Block, Nodes
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnedBlock:
    """A layer of the whole graph, as far as this worker owns it (a GraphBlock). n owned nodes, h halo nodes."""

    local: Block
    """The owned nodes' edges; sources: n owned nodes, then h halo nodes. Serves all steps."""
    exchange: HaloExchange | None
    """Brings the halo's rows. None: they are given, the sources are all n + h."""
    layer: int
    """The layer's number, from 0."""
    key: Key | None
    """What this layer's draws are keyed by."""

    @property
    def sources(self) -> Nodes:
        """The nodes whose rows go in: n, or n + h where nothing is exchanged."""
        return self.local.sources if self.exchange is None else self.local.targets

    @property
    def num_targets(self) -> int:
        """n."""
        return self.local.num_targets

    @property
    def targets(self) -> Nodes:
        """The owned nodes."""
        return self.local.targets

    @property
    def drawn(self) -> Tensor:
        """All edges: int64 [n]."""
        return self.local.drawn

    @property
    def weighted(self) -> bool:
        """Whether edges have weights."""
        return self.local.weighted

    @property
    def without_self_loops(self) -> "OwnedBlock":
        """As GraphBlock's."""
        return dataclasses.replace(self, local=self.local.without_self_loops)

    def sum(self, x: Tensor, *, mean: bool = False) -> Tensor:
        """As GraphBlock's."""
        return self.local.sum(self._filled(x), mean=mean)

    def attend(
        self, values: Tensor, source_scores: Tensor, target_scores: Tensor, *, negative_slope: float, dropout: float
    ) -> Tensor:
        """As GraphBlock's. Values and scores of a row travel together."""
        heads, columns = values.shape[1:]
        rows = self._filled(torch.cat([values.flatten(1), source_scores], dim=1))
        return self.local.attend_keyed(
            self.key,
            rows[:, : heads * columns].reshape(-1, heads, columns),
            rows[:, heads * columns :].contiguous(),
            target_scores,
            negative_slope=negative_slope,
            dropout=dropout,
        )

    def whole(self, x: Tensor) -> tuple[Block, Tensor]:
        """As GraphBlock's."""
        return self.local, self._filled(x)

    def _filled(self, x: Tensor) -> Tensor:
        return x if self.exchange is None else self.exchange.fill(x, self.layer)

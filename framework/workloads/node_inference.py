"""A network's answer for all nodes that a worker owns, every neighbour counted.

Layer by layer where the network can do that, else from the whole neighbourhoods of some nodes at a time. Where the
sampler decides what a network sees (Scoped), from what it draws for some nodes at a time, the same every time.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework.comm.topology import Topology
from framework.errors import InputError
from framework.graph.block import GraphBlock
from framework.models.node_model import LayerwiseNetwork, NodeModel, forward_layers
from framework.random import Key
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import Sampler, Scoped
from framework.workloads.node_rows import Begun, NodeRows, finished
from framework.workloads.samples import evaluating, row_of_each

WHOLE_BATCH = 4096  # nodes evaluated at a time where every layer has to be gathered for them, and no size is given
LAYER_BATCH = 65536  # nodes evaluated at a time where the first layer alone is


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inference:
    """Scores and embeddings of a worker's nodes. All workers call its methods together."""

    model: NodeModel
    """What made the network, for messages."""
    sampler: Sampler
    """That of training: how many layers there are, and whether they are of the whole graph."""
    batch_size: int
    """Nodes whose neighbourhoods are gathered at a time; 0: WHOLE_BATCH."""
    topology: Topology
    """The graph."""
    rows: NodeRows
    """Its features."""
    first_replaced: Callable[[Sequence[GraphBlock]], Sequence[Any]]
    """The layers as the network is given them."""
    key: Key
    """What a Scoped sampler draws by; others draw nothing: all neighbours are taken."""
    ahead: int
    """Pieces that are gathered before they are needed."""

    @property
    def scoped(self) -> bool:
        """Whether the network sees what the sampler draws, here as in training."""
        return isinstance(self.sampler, Scoped)

    def scores(self, model: nn.Module) -> Tensor:
        """Class scores of the owned nodes: float [n, classes]."""
        with torch.no_grad(), evaluating(model):
            if self.scoped:
                scores = torch.cat([model(blocks, rows) for blocks, rows in self._gathered(self.sampler, self._size)])
            elif isinstance(model, LayerwiseNetwork):
                scores = self._layers(model, self.sampler.depth)
            elif self.sampler.whole:
                blocks = self.topology.layers([None] * self.sampler.depth, self.topology.exact)
                blocks = self.first_replaced(blocks)
                scores = model(blocks, self.rows.of_layer(blocks[0]))
            else:
                scores = self._sampled_whole(model)
            self.rows.rest()
            return self.checked(scores, len(self.topology.owned))

    def embeddings(self, model: nn.Module) -> Tensor:
        """The last layer's input of the owned nodes: float [n, columns]. Raises InputError where there is none."""
        if not isinstance(model, LayerwiseNetwork):
            raise InputError(f"{type(model).__name__} has no forward_layer(); embeddings need one. Predict classes.")
        with torch.no_grad(), evaluating(model):
            if self.scoped:
                return torch.cat([_before_last(model, *each) for each in self._gathered(self.sampler, self._size)])
            return self._layers(model, self.sampler.depth - 1)

    def first_layers(self) -> Iterator[tuple[Any, Tensor]]:
        """The first layer of all owned nodes, every neighbour counted, with its rows: as a whole, or piece by piece.

        Features of all nodes may not fit in memory where none are kept."""
        if self.sampler.whole:
            (first,) = self.first_replaced(self.topology.layers([None], self.topology.exact))
            yield first, self.rows.of_layer(first)
        else:
            yield from ((block, rows) for (block,), rows in self._gathered(_all_neighbors(1), LAYER_BATCH))

    def checked(self, scores: Any, targets: int) -> Tensor:
        """A network's answer. Raises InputError where it is not one row of class scores a target."""
        classes = self.topology.shards.store.num_classes
        return row_of_each(scores, targets, classes, model=self.model, sample="target of the last block")

    def _layers(self, model: LayerwiseNetwork, depth: int) -> Tensor:
        """The first `depth` layers over all owned nodes: float [n, columns]."""
        if depth == 0:
            return self.rows.of(self.topology.owned)
        pieces = [model.forward_layer(0, first, rows) for first, rows in self.first_layers()]
        x = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        for block in self.topology.layers([None] * depth, self.topology.exact)[1:]:
            x = model.forward_layer(block.layer, block, x)
        return x

    def _sampled_whole(self, model: nn.Module) -> Tensor:
        """For a network without `forward_layer`: whole neighbourhoods of batches of owned nodes."""
        gathered = self._gathered(_all_neighbors(self.sampler.depth), self._size)
        return torch.cat([model(blocks, rows) for blocks, rows in gathered])

    @property
    def _size(self) -> int:
        return self.batch_size or WHOLE_BATCH

    def _gathered(self, sampler: Sampler, size: int) -> Iterator[tuple[list[Any], Tensor]]:
        """What `sampler` draws for all owned nodes, `size` of them at a time, without dropout; and their features."""
        return finished(self._begun(sampler, size), self.ahead)

    def _begun(self, sampler: Sampler, size: int) -> Iterator[Begun[tuple[list[Any], Tensor]]]:
        owned = self.topology.owned
        for step in range(max(self.topology.shards.group.gather_json(-(-len(owned) // size)))):
            drawn: Sequence[Any] = sampler.sample(self.topology, owned[step * size : (step + 1) * size], self.key)
            yield self._layers_and_rows([dataclasses.replace(block, key=None) for block in self.first_replaced(drawn)])

    def _layers_and_rows(self, blocks: list[Any]) -> Begun[tuple[list[Any], Tensor]]:
        """Asks for the rows of a first layer; what is returned waits for them."""
        under_way, rows = self.rows.asked(blocks[0].sources, repeated=self.scoped)
        return under_way, lambda: ([block.to(self.rows.device) for block in blocks], rows())


def _all_neighbors(hops: int) -> Neighbor:
    return Neighbor(fanouts=(-1,) * hops)


def _before_last(model: LayerwiseNetwork, blocks: Sequence[Any], x: Tensor) -> Tensor:
    """What goes into the last layer for its own targets: [targets, columns]."""
    x = forward_layers(model, blocks[:-1], x)
    return x[: blocks[-1].num_targets]

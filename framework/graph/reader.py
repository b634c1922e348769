"""Batches of a collection's graphs, gathered from its mapped parts: what is not asked for is not read.

Assumption: one number a sample fits in memory (its nodes, its split, its class or targets); rows of nodes do not.
"""

import torch
from torch import Tensor

from framework.graph.batch import GraphBatch
from framework.graph.collection import Collection, Graphs
from framework.kernels.csr import offsets
from framework.random import Key


class GraphReader:
    """Reads samples by their numbers, wherever they lie."""

    def __init__(self, collection: Collection) -> None:
        """Maps all parts. Raises StoreError for a damaged file."""
        self.collection = collection
        self._parts = [collection.part(number) for number in range(collection.parts)]
        self._first_nodes = offsets(torch.tensor([counts.nodes for counts in collection.counts]))
        self.nodes = torch.cat([part.node_offsets.diff() for part in self._parts])
        """Nodes of every sample: int64 [s]."""
        self.split = torch.cat([part.split for part in self._parts])
        """What every sample is for: uint8 [s]."""

    def labels(self) -> Tensor:
        """The class of every sample: int64 [s]; the samples have classes."""
        return torch.cat([part.labels for part in self._parts if part.labels is not None])

    def targets(self) -> Tensor:
        """The targets of every sample, each with the training samples' mean taken off and in their standard deviations:
        float64 [s, targets]; the samples have targets."""
        raw = torch.cat([part.targets for part in self._parts if part.targets is not None])
        means, deviations = self.collection.target_means, self.collection.target_deviations
        return (raw - torch.tensor(means, dtype=raw.dtype)) / torch.tensor(deviations, dtype=raw.dtype)

    def batch(self, samples: Tensor, dtype: torch.dtype, key: Key | None = None) -> GraphBatch:
        """The graphs of `samples` (int64 [g], increasing, at least one), features and positions as `dtype`.

        `key`: what the draws of the step are keyed by."""
        part_of = torch.searchsorted(self.collection.offsets, samples, right=True) - 1
        pieces = [self._piece(part, samples[part_of == part]) for part in sorted(set(part_of.tolist()))]
        x, positions, original, nodes, degrees, indices, edges, weights = (
            torch.cat(column) for column in zip(*pieces, strict=True)
        )
        first = offsets(nodes)
        return GraphBatch(
            x=x.to(dtype),
            positions=positions.to(dtype),
            indptr=offsets(degrees),
            indices=indices + torch.repeat_interleave(first[:-1], edges),
            weight=weights.to(dtype) if "weights" in self.collection.columns else None,
            offsets=first,
            original=original,
            samples=samples,
            key=key,
        )

    def _piece(self, number: int, samples: Tensor) -> tuple[Tensor, ...]:
        """Of samples that are all in one part: rows, positions and numbers of their nodes, how many nodes each has; the
        nodes' degrees, sources as numbers in their graph, how many edges each graph has, and the edges' weights."""
        part: Graphs = self._parts[number]
        local = samples - self.collection.offsets[number]
        begin, end = part.node_offsets[local], part.node_offsets[local + 1]
        nodes = _spans(begin, end - begin)
        edges = part.indptr[end] - part.indptr[begin]
        entries = _spans(part.indptr[begin], edges)
        return (
            part.features[nodes],
            part.positions[nodes],
            nodes + self._first_nodes[number],
            end - begin,
            part.indptr[nodes + 1] - part.indptr[nodes],
            part.indices[entries].long(),
            edges,
            part.features.new_empty(0) if part.weights is None else part.weights[entries],
        )


def _spans(starts: Tensor, counts: Tensor) -> Tensor:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those of starts[1], and so on: int64 [sum of counts]."""
    before = offsets(counts)
    total = int(before[-1])
    return torch.repeat_interleave(starts - before[:-1], counts, output_size=total) + torch.arange(total)

"""Batches of small random graphs, and one graph out of such a batch."""

import dataclasses

import torch
from torch import Tensor

from framework.graph.batch import GraphBatch
from framework.kernels.csr import build_csr, offsets
from framework.random import Key

_PLACES = 1 << 20  # originals of a sample


def small_graphs(
    sizes: list[int], *, columns: int = 5, dimensions: int = 2, density: float = 0.3, weighted: bool = False,
    whole: bool = False, seed: int = 0, key: Key | None = None,
) -> GraphBatch:  # fmt: skip
    """Undirected graphs of so many nodes, float64. `whole`: positions are whole numbers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    starts = offsets(torch.tensor(sizes, dtype=torch.int64))
    nodes = int(starts[-1])
    graph_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    numbers = torch.rand(nodes, nodes, generator=generator)
    joined = (numbers < density).triu(1) & (graph_of[:, None] == graph_of)
    targets, sources = torch.nonzero(joined | joined.t(), as_tuple=True)
    matrix = build_csr(targets, sources, nodes)
    weights = draw(nodes, nodes).abs() + 0.1
    samples = 1000 + 7 * torch.arange(len(sizes))
    positions = draw(nodes, dimensions) * 4
    return GraphBatch(
        x=draw(nodes, columns),
        positions=positions.round() if whole else positions,
        indptr=matrix.indptr,
        indices=matrix.indices,
        weight=(weights + weights.t())[targets, sources] if weighted else None,
        offsets=starts,
        original=samples[graph_of] * _PLACES + torch.arange(nodes) - starts[graph_of],
        samples=samples,
        key=key,
    )


def alone(graph: GraphBatch, number: int) -> GraphBatch:
    """The graph `number` of a batch as a batch of its own."""
    begin, end = graph.offsets[number : number + 2].tolist()
    entries = slice(int(graph.indptr[begin]), int(graph.indptr[end]))
    return dataclasses.replace(
        graph,
        x=graph.x[begin:end],
        positions=graph.positions[begin:end],
        indptr=graph.indptr[begin : end + 1] - graph.indptr[begin],
        indices=graph.indices[entries] - begin,
        weight=None if graph.weight is None else graph.weight[entries],
        offsets=torch.tensor([0, end - begin]),
        original=graph.original[begin:end],
        samples=graph.samples[number : number + 1],
    )

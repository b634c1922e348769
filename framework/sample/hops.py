"""Blocks hop by hop: what the samplers that draw neighbours share, however they draw them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.sample import unique_relabel
from framework.kernels.segments import segment_sum
from framework.random import Key
from framework.sample.sampler import DRAWING, Neighbors


def check_numbers(name: str, numbers: Sequence[int]) -> None:
    """Raises InputError that names the flag where there is no hop, or a hop of no neighbours."""
    if not numbers or any(number < -1 or number == 0 for number in numbers):
        raise InputError(f"--sampler.{name} is {numbers}; expected one number a hop, each positive or -1.")


def expand(seeds: Nodes, hops: int, key: Key, draw: Callable[[Nodes, int], Neighbors]) -> list[Block]:
    """The blocks of `seeds`, the input layer's first. `draw`: in-neighbours of a frontier, at a hop counted from 0."""
    blocks: list[Block] = []
    frontier = seeds
    for hop in range(hops):
        drawn = draw(frontier, hop)
        _, indices, first = unique_relabel(frontier.ids, drawn.sources.ids)
        sources = Nodes.concatenate([frontier, drawn.sources[first]])
        blocks.append(
            Block(
                sources=sources,
                num_targets=len(frontier),
                indptr=drawn.indptr,
                indices=indices,
                edge_weights=drawn.edge_weights,
                importance=None if drawn.chances is None else _importance(drawn, indices, frontier.degree),
                key=key.fold(DRAWING, hops - 1 - hop),
            )
        )
        frontier = sources
    return blocks[::-1]


def _importance(drawn: Neighbors, indices: Tensor, degree: Tensor) -> Tensor:
    """How much each edge counts beside the others of its target: float64 [edges], of mean 1 over each target's.

    `indices`: where an edge's source is, as its target is there itself, at its row; `degree`: int64 [targets], of the
    whole graph. An edge from another node counts by the inverse of its chance, and all of them together as often as
    the graph has such edges; one from the node itself counts once. Exactly 1 where all edges are there with 1."""
    assert drawn.chances is not None
    rows, counts = row_of_entries(drawn.indptr, len(indices)), drawn.indptr.diff()
    loops = indices == rows
    inverse = drawn.chances.reciprocal().masked_fill(loops, 0)
    own = offsets(loops)[drawn.indptr].diff()
    others = (counts - own).clamp(min=1)
    standing = (counts * degree).double() / ((own + degree) * others).clamp(min=1)  # whole numbers, so that 1 is 1
    share = standing * (others / segment_sum(drawn.indptr, inverse).clamp(min=1))
    of_loops = torch.where(counts > own, counts.double() / (own + degree).clamp(min=1), 1)
    return torch.where(loops, of_loops[rows], inverse * share[rows])

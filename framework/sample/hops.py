"""Blocks hop by hop: what the samplers that draw neighbours share, however they draw them."""

from collections.abc import Callable, Sequence

from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.kernels.sample import unique_relabel
from framework.random import Key
from framework.sample.sampler import DRAWING, Neighbors


def check_fanouts(fanouts: Sequence[int]) -> None:
    """Raises InputError where there is no hop, or a hop of no neighbours."""
    if not fanouts or any(fanout < -1 or fanout == 0 for fanout in fanouts):
        raise InputError(f"--sampler.fanouts is {fanouts}; expected one number a hop, each positive or -1.")


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
                key=key.fold(DRAWING, hops - 1 - hop),
            )
        )
        frontier = sources
    return blocks[::-1]

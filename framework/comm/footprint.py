"""How much memory full-graph training of a graph convolutional network takes on one worker, term by term.

Assumptions: an edge-cut without duplicate edges or self-loops, no edge weights, on the CPU; every inner layer has
dropout and an activation, none before the first. What lives through the run adds up; of what lives for a part of a
step, the worst moment counts. Moments of the forward pass are never the worst: the backward pass of the same layer
holds as much, and gradients. Optimizer state, messages of a few bytes a node and the interpreter are left out.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

INDEX, PLACE = 8, 4  # bytes of an id or of where a row begins, and of an edge's end
STORED = 4  # bytes of a feature in the store; features of another type are held as copies, these are on disk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of the graph a worker has, in numbers of nodes, edges and rows."""

    owned: int
    """Nodes it owns, n."""
    halo: int
    """Nodes of others that its edges come from, h."""
    edges: int
    """Edges of the owned nodes, e."""
    sent: int
    """Rows it sends before a layer, s: an owned node counts once for each worker that wants it."""
    training: int
    """Training nodes of all workers, t: each worker knows them all."""
    coming: int
    """Rows of the halo under way at a time: h, or those of one other worker where they come by turns."""
    going: int
    """Rows sent at a time: s, or those to one other worker."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """What lives at one moment of a step, in values."""

    rows: int
    """Rows of owned nodes: activations kept for the backward pass, gradients, sums."""
    halo: int
    """Rows that are received and sent."""


def footprint(extent: Extent, widths: Sequence[int], *, value: int = 4) -> dict[str, int]:
    """Bytes by term; their sum is the peak. `widths`: the features' columns, then what every layer gives.

    `value`: bytes of a feature, an activation or a weight."""
    n, h, s, first = extent.owned, extent.halo, extent.sent, widths[0]
    looped = extent.edges + n  # the convolution gives every node an edge to itself
    entries = looped * (PLACE + value)
    split = entries if h else 0  # edges from owned nodes apart from others; without a halo they are all of them
    kept = _summed_first(first, widths[1])
    worst = max(_moments(extent, widths), key=lambda moment: moment.rows + moment.halo)
    return {
        "features": 0 if kept and value == STORED else (n + h) * first * value,
        "sums of features": n * first * value if kept else 0,
        "mapped shard": extent.edges * PLACE + (4 * n + 3 * h) * INDEX + n,
        "edges": 2 * entries + split + (6 * n + h) * INDEX,
        "edges of features": 0 if kept else looped * (PLACE + INDEX),
        "nodes": (6 * n + 3 * h) * INDEX + s * (3 * INDEX + PLACE) + extent.training * 6 * INDEX,
        "rows of owned nodes": worst.rows * value,
        "rows of the halo": worst.halo * value,
    }


def _summed_first(columns: int, out: int) -> bool:
    """Whether a layer sums over neighbours before it multiplies by its weights: on whichever side is narrower."""
    return out >= columns


def _moments(extent: Extent, widths: Sequence[int]) -> Iterator[Moment]:
    """Of the backward pass, from the first layer to the last."""
    n, saved = extent.owned, 0  # values a node that layers have kept until their backward pass
    layers = list(itertools.pairwise(widths))
    for number, (columns, out) in enumerate(layers):
        last = number == len(layers) - 1
        moved = columns if _summed_first(columns, out) else out
        if number:  # the sum's gradient: it, what goes to the halo's owners, the inner edges' share, what comes
            halo = (extent.coming + extent.going) * moved
            yield Moment(rows=n * (saved + 2 * moved), halo=halo)
        elif not _summed_first(columns, out):  # all rows are here; the halo's have gradients, too
            yield Moment(rows=n * (saved + 2 * out), halo=extent.halo * out)
        if number and _summed_first(columns, out):
            saved += columns  # the sums
        if not last:
            saved += out  # the activations
            yield Moment(rows=n * (saved + 2 * out), halo=0)  # the activation's gradient, before and after

"""From owners to shards: the numbering that a partition gives the nodes, and the columns of one part.

Assumptions: what has one number a node fits in memory, and so do the edges of one part.
"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from framework.graph.edges import Ids
from framework.graph.shard import Kind
from framework.kernels.csr import build_csr


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Numbering:
    """Original ids to global ones and back: part by part, and inside a part nodes that other parts hold a row of first,
    so that they can be computed and sent before the rest; both by original id."""

    offsets: Ids
    """Part p owns the global ids offsets[p] to offsets[p + 1]. int64 [parts + 1]."""
    originals: Ids
    """The original id of every global one. int64 [N]."""
    globals: Ids
    """The global id of every original one. int64 [N]."""

    @classmethod
    def of(cls, owners: NDArray[np.int32], parts: int, shared: NDArray[np.bool_]) -> "Numbering":
        """`owners`: the part of every original id, int32 [N], each in [0, parts). `shared`: whether others hold a row
        of it, bool [N]."""
        offsets = np.zeros(parts + 1, np.int64)
        np.cumsum(np.bincount(owners, minlength=parts), out=offsets[1:])
        places = 2 * owners.astype(np.int64) + ~shared
        originals = np.argsort(places, kind="stable").astype(np.int64, copy=False)
        numbers = np.empty_like(originals)
        numbers[originals] = np.arange(len(owners))
        return cls(offsets=offsets, originals=originals, globals=numbers)

    def owned(self, part: int) -> Ids:
        """The original ids that `part` owns, by global id. int64 [n]."""
        return self.originals[self.offsets[part] : self.offsets[part + 1]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Adjacency:
    """The edges of a part, as columns of its shard (see GraphShard). Its n nodes are the targets; in a vertex-cut these
    and its h mirrors."""

    indptr: Ids
    """int64 [targets + 1]."""
    indices: NDArray[np.integer]
    """Local ids: int32 [e] where they fit, else int64."""
    degree: Ids
    """In-edges from other nodes, here. int64 [targets]."""
    halo: Ids
    """Global ids, increasing. int64 [h]."""
    edges: Ids
    """The position of every entry among the edges it was built of. int64 [e]."""


def build_adjacency(numbering: Numbering, part: int, kind: Kind, source: Ids, target: Ids) -> Adjacency:
    """The in-edge CSR of `part`. `source`, `target`: original ids of its edges in the input's order, int64 [e].

    In an edge-cut the part owns all targets."""
    first, last = numbering.offsets[part], numbering.offsets[part + 1]
    ends = [numbering.globals[source], *([numbering.globals[target]] if kind == "vertex-cut" else [])]
    halo = np.unique(np.concatenate([ids[(ids < first) | (ids >= last)] for ids in ends]))
    num_targets = int(last - first) + (len(halo) if kind == "vertex-cut" else 0)

    def local(originals: Ids) -> Ids:
        """Original ids of the part's nodes -> local ones."""
        ids = numbering.globals[originals]
        inside = (ids >= first) & (ids < last)
        places: Ids = np.where(inside, ids - first, last - first + np.searchsorted(halo, ids))
        return places

    rows = torch.from_numpy(local(target))
    csr = build_csr(rows, torch.from_numpy(np.ascontiguousarray(source)), num_targets)
    degree = csr.indptr.diff() - torch.bincount(rows[torch.from_numpy(source == target)], minlength=num_targets)
    width = np.int32 if last - first + len(halo) <= np.iinfo(np.int32).max else np.int64
    return Adjacency(
        indptr=csr.indptr.numpy(),
        indices=local(csr.indices.numpy()).astype(width),
        degree=degree.numpy(),
        halo=halo,
        edges=csr.edges.numpy(),
    )

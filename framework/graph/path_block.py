"""Paths of a block: for every centre some paths of one length, from its neighbour to their end.

The centres are the targets of a block, the first of its sources: centre t is source t. A path is named by the nodes it
leads over, so what is drawn for it depends neither on where it is stored nor on which other centres are there.
"""

import dataclasses
from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from framework.errors import InputError
from framework.graph.block import ATTENTION, Nodes
from framework.kernels import check
from framework.kernels.csr import CSR, row_of_entries
from framework.kernels.dropout import edge_dropout_scale
from framework.kernels.path_pool import places
from framework.random import Key

_MIX = 0x9E3779B97F4A7C15 - 2**64  # odd, so that a path's name changes with every node of it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BlockPaths:
    """All paths of one length, by centre."""

    offsets: Tensor
    """int64 [centres + 1]: the paths of centre t are offsets[t] to offsets[t + 1]."""
    nodes: Tensor
    """int32 [paths, steps]: a path's nodes without its centre, from the centre's neighbour to the end, as positions
    among the sources. A path that stays at its centre repeats it."""
    original: Tensor
    """int64 [sources]: the sources' original ids, which name paths; the first are the centres'."""

    def __post_init__(self) -> None:
        """Raises InputError for shapes that do not fit together, and for nodes that are no sources."""
        if self.nodes.dim() != 2 or self.nodes.shape[1] == 0:
            raise InputError(f"nodes is of shape {list(self.nodes.shape)}; expected [paths, steps], a step at least.")
        if len(self.offsets) == 0 or self.num_centres > len(self.original):
            raise InputError(
                f"offsets has {len(self.offsets)} entries for {len(self.original)} sources; expected centres + 1, and "
                "the centres among the sources."
            )
        check.pointers(self.offsets, len(self.nodes))
        check.below("nodes", self.nodes, len(self.original))

    @property
    def num_centres(self) -> int:
        """The nodes that paths begin at."""
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        """Nodes of a path without its centre."""
        return self.nodes.shape[1]

    @cached_property
    def centres(self) -> Tensor:
        """The centre of every path, a position among the sources: int64 [paths]."""
        return row_of_entries(self.offsets, len(self.nodes))

    @cached_property
    def places(self) -> CSR:
        """Where each source stands in the paths, for the backward pass; made once a table."""
        return places(self.offsets, self.nodes, len(self.original))

    @cached_property
    def _names(self) -> tuple[Tensor, Tensor]:
        """What a path's draws are keyed by: the original id of its centre, and a number made of those of its nodes."""
        name, *others = self.original[self.nodes.cpu().long()].unbind(1)
        for node in others:
            name = name * _MIX + node  # wraps
        return self.original[self.centres.cpu()], name

    def dropped(self, key: Key | None, heads: int, p: float, like: Tensor) -> Tensor | None:
        """Keyed dropout of attention weights: 0 or 1 / (1 - p), [paths, heads], of the type and place of `like`.

        `key` is a layer's; None: nothing is drawn. Paths of one step have the draws of an edge in `Block.attend`."""
        if key is None or p == 0:
            return None
        key = key.fold(ATTENTION) if self.steps == 1 else key.fold(ATTENTION, self.steps)
        return edge_dropout_scale(*self._names, heads, p, key, like.dtype).to(like.device)

    def to(self, device: torch.device) -> "BlockPaths":
        """The same paths on `device`; names of nodes stay on the host."""
        if self.offsets.device == device:
            return self
        return dataclasses.replace(self, offsets=self.offsets.to(device), nodes=self.nodes.to(device))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PathBlock:
    """One layer in which targets gather along paths instead of edges."""

    sources: Nodes
    """The nodes whose rows go in: the targets, then whatever else their paths lead over."""
    paths: tuple[BlockPaths, ...]
    """One table a length, from one step up."""
    key: Key | None = None
    """What this layer's draws (dropout) are keyed by. None where nothing is drawn: evaluation."""

    @classmethod
    def of(cls, sources: Nodes, tables: Iterable[tuple[Tensor, Tensor]], key: Key | None = None) -> "PathBlock":
        """A block from (offsets, nodes) of every length, from one step up; `nodes` are positions in `sources`."""
        paths = tuple(
            BlockPaths(offsets=offsets, nodes=nodes.to(torch.int32), original=sources.original)
            for offsets, nodes in tables
        )
        return cls(sources=sources, paths=paths, key=key)

    def __post_init__(self) -> None:
        """Raises InputError unless there is a table for one step, two steps and so on, all of the same centres."""
        steps = [table.steps for table in self.paths]
        if not steps or steps != list(range(1, len(steps) + 1)):
            raise InputError(f"the tables have paths of {steps} steps; expected one of each number of steps from 1 up.")
        counts = {table.num_centres for table in self.paths}
        if len(counts) > 1:
            raise InputError(f"the tables have {sorted(counts)} centres; expected the same in all of them.")

    @property
    def num_targets(self) -> int:
        """The nodes whose rows come out."""
        return self.paths[0].num_centres

    @property
    def targets(self) -> Nodes:
        """The nodes whose rows come out."""
        return self.sources[: self.num_targets]

    def to(self, device: torch.device) -> "PathBlock":
        """The same block with its paths on `device`; names of nodes stay on the host."""
        return dataclasses.replace(self, paths=tuple(table.to(device) for table in self.paths))

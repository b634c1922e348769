"""A batch of small graphs as one graph: what a network on many small graphs is given.

Assumptions: the graphs' nodes stand one graph after the other, and no edge leaves its graph. An edge list is a CSR by
target; a node is among its own neighbours only where the data say so, and where they are undirected every edge is
there in both directions. Neighbours of a node ascend.
"""

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from framework.kernels.csr import CSR, row_of_entries, transpose
from framework.random import Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GraphBatch:
    """g graphs with n nodes and e in-edges together."""

    x: Tensor
    """Feature rows of the nodes: float [n, columns]."""
    positions: Tensor
    """Where the nodes are: float [n, dimensions], in the data set's unit."""
    indptr: Tensor
    """int64 [n + 1]: the in-edges of node i are indptr[i] to indptr[i + 1]."""
    indices: Tensor
    """int64 [e]: each edge's source, a node of the batch."""
    weight: Tensor | None = None
    """float [e], where the data have weights."""
    offsets: Tensor
    """int64 [g + 1]: graph a has the nodes offsets[a] to offsets[a + 1]."""
    original: Tensor
    """int64 [n]: what a node is: its sample and its number therein, whatever batch they are in. Keys its draws."""
    samples: Tensor
    """int64 [g]: the graphs' sample ids."""
    key: Key | None = None
    """What this step's draws are keyed by. None where nothing is drawn: evaluation."""

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def graph_of(self) -> Tensor:
        """The graph, 0 to g - 1, that every node is of: int64 [n]."""
        return row_of_entries(self.offsets, len(self.original))

    @cached_property
    def transposed(self) -> CSR:
        """The same edges by source, for the backward pass; made once a batch."""
        return transpose(self.indptr, self.indices, len(self.original))

    def to(self, device: torch.device) -> "GraphBatch":
        """The same batch with every tensor on `device`."""
        if self.x.device == device:
            return self
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

"""The halo plan: which rows every worker sends to which, settled once.

Halo nodes are sorted by global id and workers own contiguous ranges, so the halo is already sorted by the worker that
sends it; the plan is two lists of counts and the places of the rows others want.
"""

import dataclasses
import hashlib
from functools import cached_property

import torch
from torch import Tensor

from framework.comm.group import Group, as_tensor
from framework.comm.halo.link import Route, Towards
from framework.comm.reach import Shards
from framework.graph.block import Nodes
from framework.graph.local import LocalGraph
from framework.graph.shard import Kind
from framework.kernels.aggregate import spmm_into
from framework.kernels.csr import CSR, build_csr, row_of_entries, transpose
from framework.kernels.sample import gather_rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HaloPlan:
    """Who sends which rows to whom."""

    group: Group
    """The workers."""
    num_owned: int
    """Nodes that this worker owns, n."""
    wanted: Tensor
    """int64 [sent]: places, among the owned nodes, of the rows that others want, sorted by worker. On the device."""
    boundary: Tensor
    """int64 [boundary]: places of the owned nodes that others want, increasing. There, too."""
    returning: CSR
    """[boundary, sent]: which of the rows sent each of them is; sums what comes back for it, in a fixed order."""
    sent: list[int]
    """Rows sent to each worker."""
    received: list[int]
    """Rows received from each worker; together the halo, h."""
    wanted_original: Tensor
    """int64 [sent]: original ids of the rows sent. On the host."""
    halo_original: Tensor
    """int64 [h]: original ids of the halo. On the host."""
    kind: Kind = "edge-cut"
    """What was cut: on a vertex-cut partial sums go towards the owners, beside rows towards the halo."""

    @classmethod
    def open(cls, shards: Shards, local: LocalGraph, device: torch.device) -> "HaloPlan":
        """Asks every owner once, for rows that will be on `device`. All workers call this together."""
        return cls.between(shards, local.owned, local.halo, device)

    @classmethod
    def between(cls, shards: Shards, owned: Nodes, halo: Nodes, device: torch.device) -> "HaloPlan":
        """The same for any nodes of others, by increasing global id."""
        group = shards.group
        received = torch.bincount(shards.worker_of(halo.ids), minlength=group.size).tolist()
        sent = group.exchange_counts(received, "state")
        ids = group.exchange(halo.ids, received, sent, "state")
        wanted = ids - (int(owned.ids[0]) if len(owned) else 0)
        boundary, row = torch.unique(wanted, return_inverse=True)
        returning = build_csr(row, torch.arange(len(wanted), dtype=torch.int32), len(boundary))
        return cls(
            group=group,
            num_owned=len(owned),
            wanted=wanted.to(device),
            boundary=boundary.to(device),
            returning=returning.to(device),
            sent=sent,
            received=received,
            wanted_original=owned.original[wanted],
            halo_original=halo.original,
            kind=shards.store.kind,
        )

    @property
    def num_halo(self) -> int:
        """Nodes of the halo, h."""
        return sum(self.received)

    @cached_property
    def fingerprint(self) -> Tensor:
        """SHA-256 over whose rows go where, uint8 [32]: of rows that were kept, the same where they are still those."""
        counts = torch.tensor([*self.sent, *self.received])
        digest = hashlib.sha256()
        for ids in (counts, self.wanted_original, self.halo_original):
            digest.update(ids.numpy().tobytes())
        return as_tensor(digest.digest())

    @cached_property
    def joining(self) -> tuple[CSR, CSR]:
        """[boundary, boundary + sent] and its transpose: which partial results each boundary node's result is made of.

        Its own first, then those of the workers in their order."""
        own = torch.arange(len(self.boundary), device=self.boundary.device)
        targets = torch.cat([own, row_of_entries(self.returning.indptr, len(self.returning.indices))])
        return _both_ways(targets, torch.cat([own, self._returned]), len(own), len(own) + sum(self.sent))

    @cached_property
    def siblings(self) -> tuple[CSR, CSR]:
        """[sent, boundary + sent] and its transpose: the same partial results, but for those of the copy itself: what a
        mirror lacks of its node's result."""
        indptr, copies = self.returning.indptr, self.returning.indices.long()
        node = row_of_entries(indptr, len(copies))
        times = indptr.diff()[node]  # every copy meets all copies of its node
        first = torch.repeat_interleave(indptr[node] - (times.cumsum(0) - times), times)
        others = first + torch.arange(len(first), device=first.device)
        targets = torch.repeat_interleave(copies, times)
        sources = self._returned[others]
        apart = copies[others] != targets
        return _both_ways(
            torch.cat([copies, targets[apart]]),
            torch.cat([node, sources[apart]]),
            len(copies),
            len(self.boundary) + len(copies),
        )

    @property
    def _returned(self) -> Tensor:
        """Where what comes back stands behind the boundary nodes' own, node by node: int64 [sent]."""
        return self.returning.indices.long() + len(self.boundary)

    def route(self, towards: Towards) -> Route:
        """All rows, towards the halo or the owners."""
        if towards == "halo":
            return Route(sent=self.sent, received=self.received)
        return Route(sent=self.received, received=self.sent)

    def copies(self, owned: Tensor) -> Tensor:
        """[n, columns] rows of the owned nodes -> [sent, columns]: a row for every worker that wants it."""
        with self.group.timed("packing"):
            return gather_rows(owned.contiguous(), self.wanted)

    def summed(self, copies: Tensor) -> Tensor:
        """[sent, columns] -> [n, columns]: the sum of what all workers have for each owned node."""
        return self.add_to(copies.new_zeros(self.num_owned, *copies.shape[1:]), copies)

    def add_to(self, owned: Tensor, copies: Tensor) -> Tensor:
        """Adds to rows of owned nodes [n, columns], in place, what all workers have for them [sent, columns]."""
        with self.group.timed("packing"):
            return spmm_into(owned, self.boundary, self.returning.indptr, self.returning.indices, copies)


def _both_ways(targets: Tensor, sources: Tensor, rows: int, columns: int) -> tuple[CSR, CSR]:
    matrix = build_csr(targets, sources.to(torch.int32), rows)
    return matrix, transpose(matrix.indptr, matrix.indices, columns)

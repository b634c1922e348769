"""Nodes that batches are most likely to use, by a formula: nothing is drawn.

Kaler et al., "Communication-efficient graph neural networks with probabilistic neighborhood expansion analysis and
caching" (SALIENT++), MLSys 2023, section 4. A node is among those of hop l with the probability

    p_l(u) = 1 - product over edges u -> v of (1 - p_(l-1)(v) min(1, fanout_l / in-edges of v))

where p_0 is, for the training nodes of a worker, the share of them that a batch has; it is used in a step with the
probability 1 - product over l of (1 - p_l(u)). Every worker begins at its own training nodes, so every node has one
such number for each of them, kept by its owner. What is sent is as much a hop as one number of every halo's row.
All of it is computed on the host, wherever the network computes: so is drawing.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.comm.cache.policy import Outlook, check_megabytes, highest
from framework.comm.group import CPU
from framework.comm.halo.plan import HaloPlan
from framework.errors import InputError
from framework.kernels.aggregate import spmm
from framework.kernels.csr import transpose
from framework.registry import CACHES

_AT_ONCE = 16  # workers whose numbers are computed at a time, for memory
_CERTAIN = 1 - 2**-20  # a probability of 1 has no logarithm that could be summed


@runtime_checkable
class _WithFanouts(Protocol):
    fanouts: tuple[int, ...]


@CACHES.register("analytic")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Analytic:
    """What batches are most likely to use, by formula (SALIENT++; Kaler et al., MLSys 2023). Samplers with fanouts."""

    megabytes: float = 256.0
    """Memory that a worker keeps rows in, in units of 10^6 bytes."""

    def __post_init__(self) -> None:
        check_megabytes(self.megabytes)

    def choose(self, outlook: Outlook, most: int) -> Tensor:
        """The far nodes that this worker's batches have with the highest probability.

        Raises InputError for a sampler that has no `fanouts`."""
        if not isinstance(outlook.sampler, _WithFanouts):
            raise InputError(
                "--cache analytic knows how samplers draw that have fanouts, and this one has none; "
                "choose --cache presampled, or degree."
            )
        topology, chosen = outlook.topology, torch.empty(0, dtype=torch.int64)
        group = topology.shards.group
        plan = topology.plan if topology.device == CPU else HaloPlan.open(topology.shards, topology.local, CPU)
        for first in range(0, group.size, _AT_ONCE):
            workers = range(first, min(first + _AT_ONCE, group.size))
            # A sampler may draw hops that lie beyond its layers, and then their rows are not used.
            fanouts = outlook.sampler.fanouts[: outlook.sampler.depth]
            likely = _probabilities(outlook, fanouts, workers, plan)
            found = _sent_to(outlook, likely, workers, most)
            chosen = found if group.rank in workers else chosen
        return chosen


def _probabilities(outlook: Outlook, fanouts: tuple[int, ...], workers: range, plan: HaloPlan) -> Tensor:
    """How likely a step of each of the `workers` is to use each of the nodes owned here: float32 [n, workers].

    `plan`: whose halo their rows are in, on the host."""
    topology = outlook.topology
    block, shards = topology.local.block, topology.shards
    owned, edges = len(topology.owned), block.indptr.diff()
    backwards = transpose(block.indptr, block.indices, len(block.sources))
    now = torch.zeros(owned, len(workers), dtype=torch.float32)
    here = torch.isin(topology.owned.ids, outlook.seeds.ids)
    if here.any() and shards.group.rank in workers:
        now[here, shards.group.rank - workers.start] = outlook.share
    never = torch.zeros_like(now)  # the logarithm of the probability that no hop has a node
    for fanout in fanouts:
        drawn = torch.ones_like(now[:, 0]) if fanout < 0 else (fanout / edges.clamp(min=1)).to(now).clamp(max=1)
        missed = torch.log1p(-(now * drawn[:, None]).clamp(max=_CERTAIN))
        sums = spmm(backwards.indptr, backwards.indices, missed)
        copies = shards.group.exchange(sums[owned:], plan.received, plan.sent, "state")
        missed = plan.add_to(sums[:owned].clone(), copies)
        never += missed
        now = -torch.expm1(missed)
    return -torch.expm1(never)


def _sent_to(outlook: Outlook, likely: Tensor, workers: range, most: int) -> Tensor:
    """For one of the `workers`, the far nodes that it is most likely to use, of all owners'; nothing for the others."""
    group, ids = outlook.topology.shards.group, outlook.topology.owned.ids
    best = [torch.empty(0, dtype=torch.int64)] * group.size
    worth = [torch.empty(0)] * group.size
    for column, worker in enumerate(workers):
        if worker != group.rank:
            used = torch.nonzero(likely[:, column]).squeeze(1)
            places = highest(used, likely[used, column], most)
            best[worker], worth[worker] = ids[places], likely[places, column]
    counts = [len(some) for some in best]
    coming = group.exchange_counts(counts, "state")
    found = group.exchange(torch.cat(best), counts, coming, "state")
    how_likely = group.exchange(torch.cat(worth), counts, coming, "state")
    far = outlook.far(found)
    return highest(found[far], how_likely[far], most)

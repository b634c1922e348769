"""Hierarchical halo exchange: a row crosses to another host once, however many workers there want it.

Where hosts have several workers and the link between hosts is the slow one: NeuGraph's chained transfers (Ma et al.,
ATC 2019) and the hierarchical aggregation of the surveys (Lin et al., Proceedings of the IEEE, 2023), in both passes.
"""

import dataclasses
from typing import ClassVar

import torch

from framework.comm.halo.link import Link
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.relay import Relay, RelayedExchange, Transfers
from framework.comm.halo.strategy import HaloExchange
from framework.registry import HALOS

BETWEEN, WITHIN = 0, 1
LEGS = ("between", "within")


@HALOS.register("hierarchical")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchical:
    """Rows cross between hosts once and are shared inside; gradients are summed inside before they cross. Exact."""

    faithful: ClassVar[bool] = True
    """Every row comes as it is."""

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`, between the hosts of its group."""
        return RelayedExchange(plan, link, Relay.open(plan, by_host(plan), LEGS))


def by_host(plan: HaloPlan) -> Transfers:
    """The ways of this worker's rows: straight to workers of its own host, to others by one worker of their host.

    That worker is one that wants the row itself; rows that the same workers want take turns among them."""
    group = plan.group
    number = torch.tensor([group.hosts.index(host) for host in group.hosts])
    receiver = torch.repeat_interleave(torch.arange(group.size), torch.tensor(plan.sent))
    row, here = plan.wanted_original, number[receiver] == number[group.rank]
    near = Transfers.of(WITHIN, group.rank, receiver[here], row[here])

    receiver, row = receiver[~here], row[~here]
    order = torch.argsort(row, stable=True)
    order = order[torch.argsort(number[receiver[order]], stable=True)]  # a host's rows together; of a row all receivers
    receiver, row = receiver[order], row[order]
    crossing, member, wanting = torch.unique_consecutive(
        torch.stack([number[receiver], row], dim=1), dim=0, return_inverse=True, return_counts=True
    )
    begin = wanting.cumsum(0) - wanting
    gateway = receiver[begin + torch.arange(len(crossing)) % wanting]
    passed = receiver != gateway[member]
    return Transfers.concatenate(
        [
            near,
            Transfers.of(BETWEEN, group.rank, gateway, crossing[:, 1]),
            Transfers.of(WITHIN, gateway[member][passed], receiver[passed], row[passed]),
        ]
    )

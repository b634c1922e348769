"""The rows of one use of a lane in a step: what a link that keeps something for each row knows them by."""

import dataclasses

from torch import Tensor

from framework.comm.halo.link import Lane, Route
from framework.comm.halo.plan import HaloPlan


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """The rows that go, of those that may."""

    name: str
    """The lane's, at this use of it: the same in every step."""
    lane: Lane
    """The lane."""
    route: Route
    """The rows that go."""
    sent_original: Tensor
    """int64 [sum of sent]: their original ids, on the device."""
    leaving: int
    """Rows that this worker may send."""
    coming: int
    """Rows that it may receive."""

    @classmethod
    def of(cls, name: str, lane: Lane, route: Route, plan: HaloPlan) -> "Stream":
        """The plan's rows, or those that the route names."""
        if route.sent_original is not None:
            here, coming = route.sent_original, sum(route.received)
        elif lane.towards == "halo":
            here, coming = plan.wanted_original, plan.num_halo
        else:
            here, coming = plan.halo_original, sum(plan.sent)
        sent = here if route.sent_slots is None else here[route.sent_slots.to(here.device)]
        return cls(
            name=name,
            lane=lane,
            route=route,
            sent_original=sent.to(plan.wanted.device),
            leaving=len(here),
            coming=coming,
        )

    @property
    def sent_slots(self) -> Tensor | slice:
        """The places of the rows sent among those that may be."""
        return slice(None) if self.route.sent_slots is None else self.route.sent_slots

    @property
    def received_slots(self) -> Tensor | slice:
        """The places of the rows received among those that may be."""
        return slice(None) if self.route.received_slots is None else self.route.received_slots

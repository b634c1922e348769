"""The contract of a halo strategy: what of a hidden layer crosses the wire, and when."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from framework.comm.halo.plan import HaloPlan


class HaloExchange(Protocol):
    """A strategy at work: owned rows in, owned and halo rows out; the backward pass returns gradients to the owners."""

    def fill(self, owned: Tensor, layer: int) -> Tensor:
        """[n, columns] -> [n + h, columns] before layer `layer` (1 is the second). All workers call this together."""


@runtime_checkable
class HaloStrategy(Protocol):
    """How the rows of other workers' nodes are had. A plug-in: its fields are its configuration."""

    def open(self, plan: HaloPlan) -> HaloExchange:
        """The strategy at work between the workers of a plan."""

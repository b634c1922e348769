"""The contract of a halo strategy: what of a hidden layer crosses the wire, and when.

A strategy moves copies of rows: `sent` rows of owned nodes, one for every worker that wants the node, become the `h`
rows of the others' halos, and rows of halos become copies at the owners. On an edge-cut, activations go towards the
halo and gradients towards the owners; on a vertex-cut partial sums go towards the owners too, and their gradients
towards the halo. A strategy that treats every lane alike needs not know which it is.
"""

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from framework.comm.halo.link import Arrival, Lane, Link, Step
from framework.comm.halo.plan import HaloPlan
from framework.graph.block import Block
from framework.graph.shard import Kind


class HaloExchange(Protocol):
    """A strategy at work between the workers of a plan. All workers call its methods together."""

    def begin(self, step: Step) -> None:
        """A step begins; the strategy tells its link."""

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns], as `plan.copies` gives them -> [h, columns]."""

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns] -> [sent, columns], for `plan.summed`."""

    @property
    def share(self) -> float:
        """The share of halo rows that comes in this step, the others being 0: sums over them are divided by it."""

    def block(self, local: Block) -> Block:
        """The local block with the edges whose sources come in this step, for layers that look at single edges."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, its link's state included."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""


@runtime_checkable
class Secluding(Protocol):
    """An exchange that in some steps has every worker keep to itself, as if no edge led to another."""

    @property
    def secluded(self) -> bool:
        """Whether this is such a step: no layer, not even the first, has edges from the halo, nor do degrees count
        them. On a vertex-cut, whose edges are nobody's own, rows that do not come read as 0 instead."""


@runtime_checkable
class Replicating(Protocol):
    """An exchange by which, on a vertex-cut, mirrors compute their rows of hidden layers themselves."""

    replicating: ClassVar[bool]
    """True: rows towards the halo are what the other workers have of a mirror's sum, not the owner's row."""


@runtime_checkable
class Late(Protocol):
    """An exchange whose rows may be of earlier steps."""

    staleness: dict[str, int]
    """Lane -> steps since the oldest rows that it used last were sent."""


@runtime_checkable
class HaloStrategy(Protocol):
    """How the rows of other workers' nodes are had. A plug-in: its fields are its configuration."""

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The strategy at work between the workers of a plan, over a link."""


@runtime_checkable
class Faithful(Protocol):
    """A strategy by which every row comes as it is, in every step: evaluation has its rows by it as well."""

    faithful: ClassVar[bool]
    """True."""


@runtime_checkable
class Particular(Protocol):
    """A strategy that is not for every partition, and says so before one is made."""

    def require(self, kind: Kind) -> None:
        """Raises InputError for a kind of partition that it is not for."""

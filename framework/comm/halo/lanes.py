"""What a strategy keeps for each lane: names for it, and its place in a checkpoint beside the link's.

Assumption: a step takes the same lanes in the same order as the step before, so the n-th time that a lane is taken is
the same layer's same sum in every step, and the rows of one can stand in for those of the other.
"""

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from framework.comm.halo.link import Lane, Link


class Visits:
    """Tells the times apart that a lane is taken in one step: a layer may ask for its halo more than once."""

    def __init__(self) -> None:
        self._taken = Counter[Lane]()

    def begin(self) -> None:
        """A step begins."""
        self._taken.clear()

    def name(self, lane: Lane) -> str:
        """The name of this turn of the lane: `1/forward/halo/0` where it is the first of its step."""
        turn = self._taken[lane]
        self._taken[lane] += 1
        return f"{lane.name}/{lane.towards}/{turn}"


def with_link(own: Mapping[str, Tensor], link: Link) -> dict[str, Tensor]:
    """An exchange's own state and its link's, as one."""
    return {
        **{f"own/{name}": tensor for name, tensor in own.items()},
        **{f"link/{name}": tensor for name, tensor in link.state().items()},
    }


def load_link(state: Mapping[str, Tensor], link: Link) -> dict[str, Tensor]:
    """Takes `with_link` apart: the link gets its state, the caller the exchange's own."""
    link.load_state({name.removeprefix("link/"): one for name, one in state.items() if name.startswith("link/")})
    return {name.removeprefix("own/"): one for name, one in state.items() if name.startswith("own/")}

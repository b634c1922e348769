"""Halo exchange at a variable rate: few columns of every row at first, more and more of them as training goes on.

Cerviño, Turja, Mostafa, Himayat and Ribeiro, "Distributed training of large graph neural networks with variable
communication rates" (VARCO), 2024. At ratio c a step sends 1 / c of the columns, drawn at random; the others read as 0.
Both ends draw alike, from the step's key, so no column is named in a message. As in the paper, what comes is not
multiplied by c: then a row is never further off than all of it, and the error falls with c to nothing, which is what
the proof of convergence asks for; scaled, the row would be right in the mean, and c - 1 times its square off.

A layer's gradients come by the columns that its rows went by: what is learned from is the gradient of what was
computed.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Arrival, Lane, Link, Route, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange, HaloStrategy
from framework.errors import InputError
from framework.random import shuffled
from framework.registry import HALOS

CHOOSING = 13  # the purpose that a step's key is folded by


@HALOS.register("variable-rate")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VariableRate:
    """A random share of the columns, which grows with the epochs (VARCO; Cerviño et al., 2024). first=last=1: exact."""

    first: float = 128.0
    """How many times fewer columns than there are the first epoch sends; at least one is sent."""
    last: float = 1.0
    """The same from epoch `epochs` on. 1: all columns."""
    epochs: int = 50
    """The epoch in which the ratio has come to `last`."""
    decay: Literal["linear", "exponential"] = "linear"
    """Whether an epoch takes as much from the ratio as every other, or the same part of it."""
    inner: HaloStrategy = Exact()
    """Which rows are sent, and when."""

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            if not 1 <= getattr(self, name) < math.inf:
                raise InputError(f"--halo.{name} is {getattr(self, name)!r}; expected a ratio of at least 1.")
        if self.epochs < 1:
            raise InputError(f"--halo.epochs is {self.epochs!r}; expected a number of epochs, 1 or more.")
        if self.decay not in ("linear", "exponential"):
            raise InputError(f"--halo.decay is {self.decay!r}; expected linear or exponential.")
        if HALOS.name_of(type(self.inner)) == "quantized":
            raise InputError(
                "quantized rows have no columns to leave out; expected quantized with variable-rate inside."
            )

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The inner strategy's exchange, over a link that leaves columns out."""
        return self.inner.open(plan, VariableLink(self, link))

    def ratio(self, epoch: int) -> float:
        """How many times fewer columns are sent in an epoch."""
        done = min(1.0, epoch / self.epochs)
        if self.decay == "linear":
            return self.first + (self.last - self.first) * done
        return float(self.first ** (1 - done) * self.last**done)


class VariableLink:
    """Gives the columns of a step's draw to the link beneath. Rows of whole numbers stay as they are."""

    def __init__(self, settings: VariableRate, under: Link) -> None:
        self.settings, self.under = settings, under

    def begin(self, step: Step) -> None:
        """The ratio depends on the epoch, the draw on the step."""
        self._step = step
        self.under.begin(step)

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Sends some columns of the rows; the others of those that arrive are 0."""
        columns = rows.shape[1]
        chosen = self._chosen(columns, lane)
        if lane.apart or not rows.is_floating_point() or len(chosen) == columns:
            return self.under.send(rows, route, lane)
        chosen = chosen.to(rows.device)
        return _Widened(narrow=self.under.send(rows[:, chosen], route, lane), chosen=chosen, columns=columns)

    def state(self) -> dict[str, Tensor]:
        """That of the link beneath: a draw is a function of the step."""
        return self.under.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """That of the link beneath."""
        self.under.load_state(state)

    def _chosen(self, columns: int, lane: Lane) -> Tensor:
        """The columns of a lane in this step, the same for its rows and for their gradients: int64, increasing."""
        count = math.ceil(columns / self.settings.ratio(self._step.epoch))
        outward = (lane.towards == "halo") != lane.backward
        order = shuffled(self._step.key.fold(CHOOSING, lane.layer, outward), torch.arange(columns))
        return order[:count].sort().values


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Widened:
    """Some columns of rows on their way (an Arrival)."""

    narrow: Arrival
    chosen: Tensor
    columns: int

    def wait(self) -> Tensor:
        """The rows, with 0 in the columns that were left out."""
        rows = self.narrow.wait()
        return rows.new_zeros(len(rows), self.columns).index_copy_(1, self.chosen, rows)

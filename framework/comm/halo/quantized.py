"""Quantised halo exchange: rows cross the wire as numbers of a few bits, whatever strategy sends them.

Random rounding to a grid between the least and the greatest value of a row, in both passes, as in AdaQP (Wan, Zhao and
Wu, "Adaptive message quantization and parallelization for distributed full-graph GNN training", MLSys 2023), for one
bit as for sixteen. One bit is Sylvie's (Zhang et al., "Boosting distributed full-graph GNN training with asynchronous
one-bit communication", 2023): the row's least or greatest value, at random, which is unbiased; a sign times the mean
magnitude would not be.

With error feedback (Song et al., "EC-Graph: A distributed graph neural network system with error-compensated
compression", ICDE 2022) what rounding has taken from a gradient is added to the gradient that the same row sends next:
e <- g + e - Q(g + e), so that the sums over steps differ by the last e alone. Activations have none: the layers after
them are not linear, so that errors of two steps do not cancel, and feedback makes the error of one step larger. With
two bits or more e stays below the range of g, whatever is drawn. With one it would grow without bound; there, a value
becomes the mean of those above or of those below the row's mean (Seide et al., "1-bit stochastic gradient descent and
its application to data-parallel distributed training of speech DNNs", Interspeech 2014), of which e is a part that
shrinks.
"""

import dataclasses
import typing
from typing import Literal

import torch
from torch import Tensor

from framework.comm.group import Group
from framework.comm.halo.allotment import Allotment
from framework.comm.halo.exact import Exact
from framework.comm.halo.lanes import Visits, load_link, with_link
from framework.comm.halo.link import Arrival, Lane, Link, Route, Step
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange, HaloStrategy
from framework.comm.halo.stream import Stream
from framework.errors import InputError
from framework.kernels.quantize import dequantize, quantize, row_bytes
from framework.random import Key
from framework.registry import HALOS

QUANTIZING = 12  # the purpose that a step's key is folded by
Bits = Literal[1, 2, 4, 8, 16, 32, "auto"]


@HALOS.register("quantized")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """Rows of few bits, rounded at random (AdaQP, EC-Graph, Sylvie; 2022 and 2023). bits=32: exact."""

    bits: Bits = 8
    """Bits of a value. auto: 2, 4 or 8 for each row, by its variance and the time it takes. 32: rows as they are."""
    error_feedback: bool = False
    """Whether what rounding takes from a gradient is added to the next one of the same row."""
    inner: HaloStrategy = Exact()
    """Which rows are sent, and when."""
    period: int = 10
    """Epochs from one allotment of bits=auto to the next."""
    bandwidth: float = 1e9
    """Bits a second that a worker can send, for bits=auto."""
    variance_weight: float = 0.5
    """What variance counts against time, for bits=auto, from 0 to 1. At 0.5, a second of sending counts as much as all
    the variance that 2 bits would leave."""

    def __post_init__(self) -> None:
        if self.bits not in typing.get_args(Bits):
            raise InputError(f"--halo.bits is {self.bits!r}; expected 1, 2, 4, 8, 16, 32 or auto.")
        if self.period < 1:
            raise InputError(f"--halo.period is {self.period!r}; expected a number of epochs, 1 or more.")
        if not self.bandwidth > 0:
            raise InputError(f"--halo.bandwidth is {self.bandwidth!r}; expected bits a second, more than 0.")
        if not 0 <= self.variance_weight <= 1:
            raise InputError(f"--halo.variance-weight is {self.variance_weight!r}; expected 0 to 1.")
        if self.error_feedback and HALOS.name_of(type(self.inner)) == "variable-rate":
            raise InputError("error feedback needs rows of the same columns in every step; variable-rate sends others.")

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The inner strategy's exchange, over a link that quantises."""
        return self.inner.open(plan, link if self.bits == 32 else QuantizedLink(self, plan, link))


class QuantizedLink:
    """Gives rows to the link beneath as bytes: of every row a header and its codes. Rows of whole numbers stay."""

    def __init__(self, settings: Quantized, plan: HaloPlan, under: Link) -> None:
        self.settings, self.plan, self.under = settings, plan, under
        self._visits, self._sends = Visits(), 0
        self._kept: dict[str, Tensor] = {}

    def begin(self, step: Step) -> None:
        """Draws depend on the step."""
        self._step, self._sends = step, 0
        self._visits.begin()
        self.under.begin(step)

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        """Rounds the rows and sends them; those of a lane where every number counts by itself as they are."""
        if lane.apart or not rows.is_floating_point():
            return self.under.send(rows, route, lane)
        stream = Stream.of(self._visits.name(lane), lane, route, self.plan)
        key = self._step.key.fold(QUANTIZING, self._sends)
        self._sends += 1
        if lane.towards == "owners":  # several workers have a part of one row, and the errors of all add up
            key = key.fold(self.plan.group.rank)
        sent_bits, received_bits = self._bits(stream, rows)
        with self.plan.group.timed("packing"):
            if self.settings.error_feedback and lane.backward:
                message = self._with_feedback(stream, rows, sent_bits, key)
            else:
                message = quantize(rows, sent_bits, key, stream.sent_original)
            sent = _by_worker(row_bytes(sent_bits, rows.shape[1]), route.sent)
            received = _by_worker(row_bytes(received_bits, rows.shape[1]), route.received)
        arrival = self.under.send(message.unsqueeze(1), Route(sent=sent, received=received), lane)
        return _Rounded(
            message=arrival, bits=received_bits, columns=rows.shape[1], dtype=rows.dtype, group=self.plan.group
        )

    def state(self) -> dict[str, Tensor]:
        """Residuals and allotted bits, and what the link beneath keeps."""
        return with_link(self._kept, self.under)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        device = self.plan.wanted.device
        self._kept = {name: kept.to(device, copy=True) for name, kept in load_link(state, self.under).items()}

    def _bits(self, stream: Stream, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of the codes of each row sent and received: uint8 [sum of sent], uint8 [sum of received]."""
        bits, route = self.settings.bits, stream.route
        if bits == "auto":
            allotment = Allotment(
                group=self.plan.group,
                period=self.settings.period,
                bandwidth=self.settings.bandwidth,
                variance_weight=self.settings.variance_weight,
                kept=self._kept,
            )
            return allotment.bits(stream, rows, self._step.epoch, self.under)
        fixed = torch.tensor(bits, dtype=torch.uint8, device=rows.device)
        return fixed.repeat(sum(route.sent)), fixed.repeat(sum(route.received))

    def _with_feedback(self, stream: Stream, rows: Tensor, bits: Tensor, key: Key) -> Tensor:
        """The message of the rows and of what was left of them before; keeps what is left now."""
        left = self._kept.setdefault(f"residual/{stream.name}", rows.new_zeros(stream.leaving, rows.shape[1]))
        wanted = rows + left[stream.sent_slots]
        message = quantize(two_means(wanted) if self.settings.bits == 1 else wanted, bits, key, stream.sent_original)
        left[stream.sent_slots] = wanted - dequantize(message, bits, rows.shape[1], rows.dtype)
        return message


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Rounded:
    """Rows on their way as bytes (an Arrival)."""

    message: Arrival
    bits: Tensor
    columns: int
    dtype: torch.dtype
    group: Group

    def wait(self) -> Tensor:
        """The rows."""
        message = self.message.wait().squeeze(1)
        with self.group.timed("packing"):
            return dequantize(message, self.bits, self.columns, self.dtype)


def two_means(rows: Tensor) -> Tensor:
    """Each value as the mean of the values above, or of those not above, the mean of its row: [n, c] -> [n, c]."""
    above = rows > rows.mean(1, keepdim=True)
    high = torch.where(above, rows, 0).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)
    low = torch.where(above, 0, rows).sum(1, keepdim=True) / (~above).sum(1, keepdim=True).clamp(min=1)
    return torch.where(above, high, low)


def _by_worker(sizes: Tensor, counts: list[int]) -> list[int]:
    """The bytes that go to or come from each worker."""
    return [int(run.sum()) for run in sizes.split_with_sizes(counts)]

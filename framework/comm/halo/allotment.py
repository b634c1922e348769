"""How many bits the values of a row are worth: variance of rounding against seconds of sending.

Wan, Zhao and Wu, "Adaptive message quantization and parallelization for distributed full-graph GNN training" (AdaQP),
MLSys 2023: rows that go the same way are grouped by their range, and each group gets 2, 4 or 8 bits such that variance
and time, weighed against each other, are least. Random rounding of c values to a grid of step s has an expected
variance of c s**2 / 6, where s is the row's range over 2**b - 1; all wait for the worker that sends longest.

Other than there, the time follows from a given bandwidth, not from a measured one, so that a run repeats itself; it is
that of a worker's whole lane, not of its rounds; coefficients of the aggregation are left out; and each lane is a
problem of its own. It is solved by dynamic programming over bytes instead of by a general solver, which takes minutes
for sixteen workers: each worker finds its least variance for every budget; these are added up, and tell the budget.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.comm.group import Group
from framework.comm.halo.link import Link
from framework.comm.halo.stream import Stream
from framework.kernels.quantize import row_bytes

CHOICES = (2, 4, 8)
GROUPS = 4  # of the rows that go from one worker to another
BUDGETS = 1 << 14  # budgets that are told apart: where there are as many bytes or fewer, the solution is exact
FIRST = 8  # bits of a row that was not sent when bits were allotted

Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows that get the same number of bits."""

    count: int
    """How many they are."""
    spread: float
    """c / 6 times the sum of their ranges squared: their variance, if a grid had one step."""


def costs(several: Sequence[Rows], columns: int) -> tuple[Numbers, NDArray[np.int64]]:
    """What each choice of bits costs each group: variance; and bytes. Both [groups, choices]."""
    spread = np.array([rows.spread for rows in several])
    sizes = row_bytes(torch.tensor(CHOICES), columns).numpy()
    counts = np.array([rows.count for rows in several], dtype=np.int64)
    return spread[:, None] / (2.0 ** np.array(CHOICES) - 1) ** 2, counts[:, None] * sizes


def allot(
    mine: Sequence[Rows], columns: int, bandwidth: float, variance_weight: float, group: Group, purpose: str
) -> list[int]:
    """Bits for each group of the rows that this worker sends: those of the least `variance_weight` * variance +
    (1 - `variance_weight`) * seconds, variance as a share of what 2 bits everywhere would have.

    `bandwidth`: bits a second that a worker can send. All workers call this together."""
    variance, sizes = costs(mine, columns)
    told = group.gather_json([float(variance[:, 0].sum()), int(sizes[:, -1].sum()), len(mine)], purpose)
    unit = -(-max(size for _, size, _ in told) // BUDGETS)
    if not unit:
        return []
    budgets = max(-(-size // unit) + groups for _, size, groups in told) + 1  # each group is rounded up by itself
    units = -(-sizes // unit)
    weight = variance_weight / max(sum(whole for whole, *_ in told), 1e-300)
    least, taken = _least(weight * variance, units, budgets)
    summed = group.all_reduce(torch.from_numpy(least), purpose).numpy()
    budget = int((summed + (1 - variance_weight) * np.arange(budgets) * (unit * 8 / bandwidth)).argmin())
    bits = []
    for place, choices in reversed(list(enumerate(taken))):
        bits.append(CHOICES[choices[budget]])
        budget -= int(units[place, choices[budget]])
    return bits[::-1]


def _least(variance: Numbers, units: NDArray[np.int64], budgets: int) -> tuple[Numbers, list[NDArray[np.uint8]]]:
    """For each budget the least variance of one worker's groups (infinite where it is too small), and, group by group,
    the choice that the group has in it."""
    best, taken = np.zeros(budgets), []
    for costs_of_group, units_of_group in zip(variance, units, strict=True):
        options = np.full((len(CHOICES), budgets), np.inf)
        for choice, (cost, size) in enumerate(zip(costs_of_group, units_of_group, strict=True)):
            options[choice, size:] = best[: budgets - size] + cost
        taken.append(options.argmin(0).astype(np.uint8))  # there is one for every budget and group
        best = options.min(0)
    return best, taken


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Allotment:
    """Bits of rows, allotted anew every period from the rows that are sent first in it."""

    group: Group
    """The workers."""
    period: int
    """Epochs."""
    bandwidth: float
    """Bits a second that a worker can send."""
    variance_weight: float
    """As in `allot`."""
    kept: dict[str, Tensor]
    """Where bits are kept from step to step: of all rows that a stream may send or receive."""

    def bits(self, stream: Stream, rows: Tensor, epoch: int, link: Link) -> tuple[Tensor, Tensor]:
        """Of each row that a stream sends now, and receives: uint8 [sum of sent], uint8 [sum of received].

        `rows` [sum of sent, columns]; by `link` receivers are told what was allotted. All workers call this together.
        """
        sent, received, last = (
            self.kept.setdefault(f"{what}/{stream.name}", torch.full((size,), value, dtype=dtype, device=rows.device))
            for what, size, value, dtype in (
                ("sent", stream.leaving, FIRST, torch.uint8),
                ("received", stream.coming, FIRST, torch.uint8),
                ("period", 1, -1, torch.int64),
            )
        )
        if int(last) != epoch // self.period:
            last.fill_(epoch // self.period)
            told = self._allotted(stream, rows).to(rows.device)
            sent[stream.sent_slots] = told
            received[stream.received_slots] = link.send(told.unsqueeze(1), stream.route, stream.lane).wait().squeeze(1)
        # Copies, for what arrives may be waited for in another period.
        return sent[stream.sent_slots].clone(), received[stream.received_slots].clone()

    def _allotted(self, stream: Stream, rows: Tensor) -> Tensor:
        """Bits for each row that this worker sends: uint8 [n], on the host."""
        spreads = _spreads(rows)
        chosen = _grouped(spreads, stream.route.sent)
        mine = [Rows(count=len(places), spread=float(spreads[places].sum())) for places in chosen]
        purpose = f"halo/{stream.lane.name}"
        allotted = allot(mine, rows.shape[1], self.bandwidth, self.variance_weight, self.group, purpose)
        bits = torch.empty(len(rows), dtype=torch.uint8)
        for places, value in zip(chosen, allotted, strict=True):
            bits[places] = value
        return bits


def _spreads(rows: Tensor) -> Tensor:
    """c / 6 times the range squared of each row: float64 [n], on the host."""
    if rows.numel() == 0:
        return torch.zeros(len(rows), dtype=torch.float64)
    ranges = (rows.amax(1) - rows.amin(1)).double().cpu()
    return (ranges.square() * (rows.shape[1] / 6)).nan_to_num(0, 0)  # without bounds, the run is lost already


def _grouped(spreads: Tensor, sent: Sequence[int]) -> list[Tensor]:
    """Places of the rows to each worker, in at most `GROUPS` groups of alike spread."""
    groups, first = [], 0
    for count in sent:
        order = spreads[first : first + count].argsort(stable=True) + first
        groups += [places for places in order.tensor_split(GROUPS) if len(places)]
        first += count
    return groups

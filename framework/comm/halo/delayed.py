"""Delayed partial sums: of a vertex-cut's mirrors a step sends one part in r, and uses what was sent r steps before.

Md et al., "DistGNN: Scalable distributed training for large-scale graph neural networks", SC 2021: cd-r. Mirrors are
split into r bins by their nodes' ids. Step t sends the rows of bin t mod r in every lane: partial sums of mirrors to
their owners, and to every mirror what the owner and the other mirrors have. Nobody waits for them before step t + r;
until then, and for all other bins, the rows that came last are used again. So a row in use is r to 2 r - 1 steps old,
and a step sends one r-th of what cd-0 sends.

Mirrors compute the rows of hidden layers for themselves (framework/comm/halo/replicas.py): from sums over their own
edges, which are never late, and from what is sent to them of all others' sums. Gradients go the same way, as late. What
a mirror is sent of other mirrors has been late on its way to the owner, too: 2 r to 3 r - 1 steps. What differs from
the paper: its first steps use local sums alone, where ours begin with one exact step. Exact limit: r=0, cd-0. (0c is
`never`.)
"""

import dataclasses
from collections import deque

import torch
from torch import Tensor

from framework.comm.halo.chosen import Slots, send_some
from framework.comm.halo.lanes import Visits, load_link, with_link
from framework.comm.halo.link import Arrival, Arrived, Lane, Link, Step, Towards
from framework.comm.halo.plan import HaloPlan
from framework.comm.halo.strategy import HaloExchange
from framework.errors import InputError
from framework.graph.block import Block
from framework.graph.shard import Kind
from framework.random import Key, bits
from framework.registry import HALOS


@HALOS.register("delayed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Delayed:
    """A vertex-cut's partial sums r steps late, a bin of them a step (DistGNN cd-r; Md et al., SC 2021). r=0: exact."""

    r: int = 5
    """Steps between sending and using, and the number of bins."""

    def __post_init__(self) -> None:
        if self.r < 0:
            raise InputError(f"--halo.r is {self.r!r}; expected a number of steps, at least 0.")

    def open(self, plan: HaloPlan, link: Link) -> HaloExchange:
        """The exchange over `plan`. Raises InputError for an edge-cut."""
        self.require(plan.kind)
        return DelayedExchange(self.r, plan, link)

    def require(self, kind: Kind) -> None:
        """Raises InputError for an edge-cut."""
        if kind != "vertex-cut":
            raise InputError(
                "--halo delayed delays partial sums, which only a vertex-cut has; choose --partitioner dbh or hdrf, "
                "or --halo pipelined."
            )


class DelayedExchange:
    """Partial results to the owners and between mirrors, one bin a step, and used late (Replicating)."""

    share, replicating = 1.0, True

    def __init__(self, r: int, plan: HaloPlan, link: Link) -> None:
        self.r, self.plan, self.link = r, plan, link
        self.staleness: dict[str, int] = {}  # lane -> steps since the oldest of the rows in use was sent
        self._step = -1
        self._visits = Visits()
        self._kept: dict[str, _Kept] = {}
        bins = range(r)
        self._owned = [_bin(plan.wanted_original, plan.sent, number, r, plan.wanted.device) for number in bins]
        self._halo = [_bin(plan.halo_original, plan.received, number, r, plan.wanted.device) for number in bins]

    def begin(self, step: Step) -> None:
        """The next bin's turn."""
        self.link.begin(step)
        self._visits.begin()
        self._step += 1

    def to_halo(self, copies: Tensor, lane: Lane) -> Arrival:
        """[sent, columns], a bin of it for a later step -> [h, columns] of earlier ones."""
        return self._moved(copies, lane, "halo", self._owned, self._halo)

    def to_owners(self, halo: Tensor, lane: Lane) -> Arrival:
        """[h, columns], a bin of it for a later step -> [sent, columns] of earlier ones."""
        return self._moved(halo, lane, "owners", self._halo, self._owned)

    def _moved(self, rows: Tensor, lane: Lane, towards: Towards, here: list[Slots], there: list[Slots]) -> Arrival:
        if self.r == 0:
            return self.link.send(rows, self.plan.route(towards), lane)
        name = self._visits.name(lane)
        kept = self._kept.get(name)
        if kept is None:  # the lane's first step: everything, at once
            came = self.link.send(rows, self.plan.route(towards), lane).wait()
            kept = self._kept[name] = _Kept(came, [self._step] * self.r)
        else:
            kept.land(self._step - self.r, there)
            number = self._step % self.r
            kept.coming.append((self._step, send_some(rows, here[number], there[number], self.link, lane)))
        self.staleness[lane.name] = self._step - min(kept.sent)
        return Arrived(rows=kept.rows)

    def block(self, local: Block) -> Block:
        """All of it."""
        return local

    def state(self) -> dict[str, Tensor]:
        """The step, and every lane's rows: those in use, with the steps in which they were sent, and, once they are
        here, those that are yet to be used."""
        own = {"step": torch.tensor(self._step)}
        for name, kept in self._kept.items():
            own |= {f"{part}/{name}": rows for part, rows in kept.state().items()}
        return with_link(own, self.link)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        own = load_link(state, self.link)
        self._step = int(own.pop("step"))
        parts: dict[str, dict[str, Tensor]] = {}
        for path, rows in own.items():
            part, _, name = path.partition("/")
            parts.setdefault(name, {})[part] = rows
        self._kept = {name: _Kept.load(state, self.plan.wanted.device) for name, state in parts.items()}


class _Kept:
    """What one lane uses, and what is on its way in it, the oldest first."""

    def __init__(self, rows: Tensor, sent: list[int]) -> None:
        """`sent`: the step in which each bin of `rows` was sent."""
        self.rows, self.sent = rows, sent
        self.coming: deque[tuple[int, Arrival]] = deque()

    def land(self, until: int, there: list[Slots]) -> None:
        """Puts what was sent in step `until` or before in its place. Rows that a step has used do not change."""
        while self.coming and self.coming[0][0] <= until:
            step, message = self.coming.popleft()
            number = step % len(there)
            self.rows = self.rows.index_copy(0, there[number].places, message.wait())
            self.sent[number] = step

    def state(self) -> dict[str, Tensor]:
        """`rows`, `sent`, and a message by the step it was sent in."""
        messages = {str(step): message.wait() for step, message in self.coming}
        return {"rows": self.rows, "sent": torch.tensor(self.sent), **messages}

    @classmethod
    def load(cls, state: dict[str, Tensor], device: torch.device) -> "_Kept":
        """From what `state` gave."""
        kept = cls(state.pop("rows").to(device), state.pop("sent").tolist())
        kept.coming.extend((int(step), Arrived(rows=state[step].to(device))) for step in sorted(state, key=int))
        return kept


def _bin(original: Tensor, counts: list[int], number: int, bins: int, device: torch.device) -> Slots:
    """The rows of one of `bins` bins, which both ends know by the rows' original ids."""
    chosen = bits(Key.root(0).fold(_BINS), original) % bins == number
    return Slots.choose(counts, lambda _, rows: torch.nonzero(chosen[rows]).squeeze(1), device)


_BINS = 0x42494E53  # the purpose of the keyed draw of bins ("BINS")

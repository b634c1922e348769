"""Nodes that coming epochs use most: their batches are drawn beforehand, and what they ask for is counted.

After GNNLab (Yang et al., "GNNLab: a factored system for sample-based GNN training over GPUs", EuroSys 2022), whose
epochs of presampling are a sample of what comes. Here draws are a function of the run's seed, as RapidGNN has them, so
that what is counted is what the run's next epochs will do, for any sampler: all of it, but for nodes along paths.
"""

import dataclasses

import torch
from torch import Tensor

from framework.comm.cache.policy import Outlook, check_megabytes, highest
from framework.errors import InputError
from framework.registry import CACHES

_AT_ONCE = 1 << 22  # ids that are held until they are counted: at least, and as many as there are different ones


@CACHES.register("presampled")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Presampled:
    """What the first epochs use most, by drawing them beforehand (GNNLab; Yang et al., EuroSys 2022). Any sampler."""

    megabytes: float = 256.0
    """Memory that a worker keeps rows in, in units of 10^6 bytes."""
    epochs: int = 1
    """Epochs that are drawn beforehand."""

    def __post_init__(self) -> None:
        check_megabytes(self.megabytes)
        if self.epochs < 1:
            raise InputError(f"--cache.epochs is {self.epochs}; expected at least 1.")

    def choose(self, outlook: Outlook, most: int) -> Tensor:
        """The far nodes that this worker's batches have most often."""
        uses = _Uses()
        for epoch in range(self.epochs):
            for seeds, key in outlook.batches(epoch):
                sources = outlook.sampler.sample(outlook.topology, seeds, key)[0].sources.ids
                uses.add(torch.unique(sources[outlook.far(sources)]))  # a step fetches a row once
        ids, counts = uses.counted()
        return highest(ids, counts, most)


class _Uses:
    """How often each id was added, in memory for the ids that there were."""

    def __init__(self) -> None:
        self._ids = self._counts = torch.empty(0, dtype=torch.int64)
        self._waiting: list[Tensor] = []
        self._held = 0

    def add(self, ids: Tensor) -> None:
        self._waiting.append(ids)
        self._held += len(ids)
        if self._held > max(_AT_ONCE, len(self._ids)):
            self.counted()

    def counted(self) -> tuple[Tensor, Tensor]:
        """Ids, increasing, and the counts of each: int64 [n] twice."""
        added = torch.cat([torch.empty(0, dtype=torch.int64), *self._waiting])
        ids, place = torch.unique(torch.cat([self._ids, added]), return_inverse=True)
        weights = torch.cat([self._counts, torch.ones_like(added)])
        self._ids, self._counts = ids, torch.zeros_like(ids).index_add_(0, place, weights)
        self._waiting.clear()
        self._held = 0
        return self._ids, self._counts

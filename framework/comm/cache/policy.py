"""The contract of a cache, and what it sees of the training to come.

A cache is static: what it keeps is chosen once, fetched once, and right for the whole run, for features do not change.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.errors import InputError, PluginError
from framework.graph.block import Nodes
from framework.random import Key
from framework.registry import CACHES
from framework.sample.sampler import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """The training to come, as one worker sees it."""

    topology: Topology
    """The graph."""
    shards: Shards
    """Where features lie."""
    sampler: Sampler
    """What draws neighbourhoods in it."""
    batches: Callable[[int], Iterator[tuple[Nodes, Key]]]
    """An epoch, counted from the next -> this worker's seeds in every step, and the key that the step draws by."""
    share: float
    """Of the training nodes that a global batch has."""
    seeds: Nodes
    """The training nodes of all workers."""

    def far(self, ids: Tensor) -> Tensor:
        """Of which nodes this worker cannot read the rows by memory. `ids`: int64 [n] -> bool [n]."""
        read = torch.zeros(self.shards.store.parts, dtype=torch.bool)
        read[list(self.shards.mapped)] = True
        return ~read[self.shards.store.owner_of(ids)]


@runtime_checkable
class Cache(Protocol):
    """Of which nodes a worker keeps the rows. A plug-in: its fields are its configuration."""

    @property
    def megabytes(self) -> float:
        """Memory that a worker keeps rows in, in units of 10^6 bytes."""

    def choose(self, outlook: Outlook, most: int) -> Tensor:
        """Global ids of at most `most` distinct nodes, far ones: int64 [n]. All workers call this together.

        They decide how many bytes are sent, and never what is learned."""


def chosen(cache: Cache, outlook: Outlook, most: int) -> Tensor:
    """What a cache chooses: int64 [n]. Raises PluginError where that is not what the contract says.

    All workers call this together."""
    ids, who = cache.choose(outlook, most), f"cache '{CACHES.name_of(type(cache))}'"
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.dim() != 1:
        given = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise PluginError(f"{who} chose {given}; expected int64 [n], the ids of nodes. Mend its choose().")
    nodes = outlook.topology.shards.store.num_nodes
    outside = ids[(ids < 0) | (ids >= nodes)]
    if len(ids) > most:
        fault = f"{len(ids)} nodes; expected at most {most}"
    elif len(outside):
        fault = f"node {int(outside[0])}; expected ids from 0 to {nodes - 1}"
    elif len(torch.unique(ids)) < len(ids):
        fault = "a node twice; expected each once"
    elif not outlook.far(ids).all():
        fault = f"node {int(ids[~outlook.far(ids)][0])}, which is read by memory; expected far ones (Outlook.far)"
    else:
        return ids
    raise PluginError(f"{who} chose {fault}. Mend its choose().")


def check_megabytes(megabytes: float) -> None:
    """Raises InputError for what is no amount of memory."""
    if not 0 <= megabytes < float("inf"):
        raise InputError(f"--cache.megabytes is {megabytes}; expected a number of at least 0.")


def highest(ids: Tensor, worth: Tensor, most: int) -> Tensor:
    """The `most` nodes of the highest worth; of equal ones the first. `ids` int64 [n], `worth` [n]."""
    return ids[torch.argsort(worth, descending=True, stable=True)[:most]]

"""The group: the workers of a run talking to each other, with every byte counted and every wait bounded.

Assumptions: one group a process; every worker calls the same collectives in the same order, from one thread at a time
(lockstep); rows that go to the same worker lie together, ordered by destination. gloo carries CPU tensors, NCCL those
of a GPU. A group of one needs no torch.distributed at all.

What `sent` counts is payload that leaves this worker for others, by purpose, in bytes; never rows to oneself:

    exchange, exchange_counts   the rows (numbers) of every other worker
    all_reduce                  2 (k - 1) / k of the tensor: what a ring moves (Patarasuk and Yuan, 2009)
    broadcast                   k - 1 times the tensor, at the source
    gather_json                 k - 1 times one's own value
    barrier                     nothing

A purpose may be a path: `halo/1/forward` is part of `halo`.
"""

import contextlib
import datetime
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]  # missing from torch's stubs alone
from torch.distributed.distributed_c10d import Store

from framework.comm import host
from framework.errors import InputError, LostWorkerError

CPU = torch.device("cpu")
CHUNK = 64 << 20
"""Bytes of one message of `broadcast_bytes`: what bounds the memory of sending a large file."""
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class Pending:
    """Rows on their way: `wait()` gives them.

    The group keeps those that nobody has waited for, for a message whose memory is gone takes the next one's place."""

    def __init__(self, group: "Group", received: Tensor, works: list[dist.Work | None], purpose: str) -> None:
        """Made by `Group.exchange_async` and subgroups alone."""
        self._group, self._received, self._purpose = group, received, purpose
        self._works = [work for work in works if work is not None]  # torch's None: nothing for this worker to do
        if self._works:
            group.under_way.add(self)

    def wait(self) -> Tensor:
        """The rows, [sum of receive_counts, ...]. Raises LostWorkerError."""
        if self._works:
            with self._group.guard(self._purpose), self._group.timed("waiting"):
                while self._works:
                    self._works.pop().wait()
            self._group.under_way.discard(self)
        return self._received


class Group:
    """The workers of a run: who they are, and the collectives they speak."""

    def __init__(self, *, rank: int, size: int, device: torch.device, hosts: tuple[str, ...], deadline: float) -> None:
        """Use `alone` or `join`."""
        self.rank = rank
        self.size = size
        self.device = device
        self.hosts = hosts
        self.deadline = deadline
        self.sent: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.under_way = set[Pending]()
        self._broken = False  # whether others were lost

    @classmethod
    def alone(cls, device: torch.device = CPU) -> "Group":
        """A group of one."""
        return cls(rank=0, size=1, device=device, hosts=(host.identity(),), deadline=0.0)

    @classmethod
    def join(
        cls,
        *,
        rank: int,
        size: int,
        rendezvous: str,
        device: torch.device = CPU,
        deadline: float = 300.0,
        listener: socket.socket | None = None,
    ) -> "Group":
        """Meets the other workers at `tcp://host:port` (worker 0 listens there) or `file:///path` (a new file).

        `deadline`: seconds this and every later wait may take. `listener`: a socket that worker 0 has bound to
        that port already, so that nobody can take it in between. Raises LostWorkerError if not all come in time."""
        if not 0 <= rank < size:
            raise InputError(f"worker {rank} of {size}: expected a rank of at least 0 and below the number of workers.")
        if size == 1:
            return cls.alone(device)
        _choose_interface(rendezvous)
        group = cls(rank=rank, size=size, device=device, hosts=(), deadline=deadline)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with group.guard(f"joining at {rendezvous}"):
            dist.init_process_group(
                "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
                store=_store(rank, size, rendezvous, deadline, listener),
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=deadline),
            )
        group.hosts = tuple(group.gather_json(host.identity()))
        group.sent.clear()  # a run's figures do not hold how its workers met
        return group

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._broken:
            self._settle()
        self.close()

    def _settle(self) -> None:
        """Until nothing is under way: a worker that leaves earlier takes from the others what it has sent them."""
        for pending in list(self.under_way):
            pending.wait()
        self.barrier()

    def close(self) -> None:
        """Leaves the group. Twice does no harm."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def leader(self) -> bool:
        """Whether this is the lowest rank of its host."""
        return self.hosts.index(self.hosts[self.rank]) == self.rank

    def exchange(self, rows: Tensor, send_counts: list[int], receive_counts: list[int], purpose: str) -> Tensor:
        """Sends rows to every worker and receives theirs; counts are known on both sides.

        `rows`: [sum of send_counts, ...] of any type, grouped by destination; returns [sum of receive_counts, ...],
        grouped by source. Raises LostWorkerError."""
        return self.exchange_async(rows, send_counts, receive_counts, purpose).wait()

    def exchange_async(self, rows: Tensor, send_counts: list[int], receive_counts: list[int], purpose: str) -> Pending:
        """As `exchange`, without waiting: the rows must not change until `wait()` has returned."""
        assert len(send_counts) == len(receive_counts) == self.size, "one count a worker"
        assert sum(send_counts) == rows.shape[0], "rows and their counts disagree"
        rows = rows.detach().contiguous()
        if self.size == 1:
            return Pending(self, rows, [], purpose)
        received = rows.new_empty((sum(receive_counts), *rows.shape[1:]))
        sent = _as_bytes(rows)
        with self.guard(purpose):
            works = self._under_way(_as_bytes(received), sent, receive_counts, send_counts)
        self.count(purpose, (len(sent) - send_counts[self.rank]) * sent.shape[1])
        return Pending(self, received, works, purpose)

    def _under_way(
        self, received: Tensor, sent: Tensor, receive_counts: list[int], send_counts: list[int]
    ) -> list[dist.Work | None]:
        """Sets bytes [rows, width] under way.

        gloo's all_to_all does not keep both directions of a link busy (docs/decisions.md), so there every pair of
        workers has messages of its own, which are matched by their order: it is the same on all workers."""
        if received.device.type != "cpu":
            return [dist.all_to_all_single(received, sent, receive_counts, send_counts, async_op=True)]
        coming, going = received.split_with_sizes(receive_counts), sent.split_with_sizes(send_counts)
        coming[self.rank].copy_(going[self.rank])
        # Each begins with its neighbours, so that no worker is everybody's first.
        others = [(self.rank + step) % self.size for step in range(1, self.size)]
        receives = [dist.irecv(coming[other], other) for other in reversed(others) if coming[other].numel()]
        return receives + [dist.isend(going[other], other) for other in others if going[other].numel()]

    def exchange_counts(self, send_counts: list[int] | Tensor, purpose: str = "frontier") -> list[int]:
        """What every worker will send to this one, given what this one will send to every worker."""
        return [row[0] for row in self.exchange_counts_many([[count] for count in _numbers(send_counts)], purpose)]

    def exchange_counts_many(self, send_counts: list[list[int]], purpose: str = "frontier") -> list[list[int]]:
        """Several numbers for every worker at once: row r given goes to worker r, row r of the answer came from it."""
        numbers = torch.tensor(send_counts, dtype=torch.int64)
        ones = [1] * self.size
        received: list[list[int]] = self.exchange(numbers, ones, ones, purpose).tolist()
        return received

    def all_reduce(self, tensor: Tensor, purpose: str, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        """Sum (maximum, minimum) over all workers, in place, the same bits on each; returns `tensor`."""
        if self.size > 1:
            with self.guard(purpose), self.timed("waiting"):
                dist.all_reduce(tensor, _OPERATIONS[op])
            self.count_all_reduce(purpose, tensor.numel() * tensor.element_size())
        return tensor

    def broadcast(self, tensor: Tensor, source: int, purpose: str) -> Tensor:
        """The tensor of worker `source` to all, in place; returns `tensor`."""
        if self.size > 1:
            with self.guard(purpose), self.timed("waiting"):
                dist.broadcast(tensor, source)
            if self.rank == source:
                self.count(purpose, (self.size - 1) * tensor.numel() * tensor.element_size())
        return tensor

    def broadcast_bytes(self, data: bytes | None, source: int, purpose: str) -> bytes:
        """The bytes of worker `source` to all, in chunks; the others pass None."""
        assert (data is not None) == (self.rank == source), "the source alone has something to send"
        length = int(self.broadcast(torch.tensor([len(data or b"")]), source, purpose))
        whole = as_tensor(data) if data is not None else torch.empty(length, dtype=torch.uint8)
        for begin in range(0, length, CHUNK):
            self.broadcast(whole[begin : begin + CHUNK], source, purpose)
        return whole.numpy().tobytes()

    def gather_json(self, value: Any, purpose: str = "state") -> list[Any]:
        """The value of every worker, in order of rank; anything JSON holds. Large tensors do not belong here."""
        if self.size == 1:
            return [json.loads(json.dumps(value))]
        text = as_tensor(json.dumps(value).encode())
        lengths = self.exchange_counts([text.numel()] * self.size, purpose)
        # Every worker gets the same bytes: an exchange with one copy for each.
        received = self.exchange(text.repeat(self.size), [text.numel()] * self.size, lengths, purpose)
        return [json.loads(part.numpy().tobytes()) for part in received.split_with_sizes(lengths)]

    def barrier(self) -> None:
        """Returns when every worker has come here."""
        if self.size > 1:
            with self.guard("barrier"):
                dist.all_reduce(torch.zeros(1))  # not dist.barrier: that one would want the GPU as well

    def count(self, purpose: str, payload: int) -> None:
        """Adds `payload` bytes to what this worker sent."""
        self.sent[purpose] = self.sent.get(purpose, 0) + payload

    def count_all_reduce(self, purpose: str, payload: int) -> None:
        """Adds what an all-reduce of `payload` bytes sends."""
        self.count(purpose, 2 * (self.size - 1) * payload // self.size)

    @contextlib.contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Adds the seconds within to those of `activity`: `waiting` for others, or `packing` rows for them.

        What DDP waits for inside the backward pass is not among them."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - begin

    def snapshot(self) -> dict[str, int]:
        """What was sent until now, by purpose."""
        return dict(self.sent)

    def since(self, before: dict[str, int]) -> dict[str, int]:
        """What was sent since `before`, an earlier snapshot, by purpose."""
        return {purpose: total - before.get(purpose, 0) for purpose, total in self.sent.items()}

    @contextlib.contextmanager
    def guard(self, purpose: str) -> Iterator[None]:
        """Turns the failure of a collective within into one LostWorkerError. For gradient strategies, too."""
        begin = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # the base of all of torch.distributed's errors
            raise self.lost(purpose, error, time.monotonic() - begin) from error

    def lost(self, purpose: str, error: BaseException, seconds: float) -> LostWorkerError:
        """What to say when a collective has failed with `error` after `seconds`."""
        self._broken = True
        # Of torch's text, the first sentence, without the place in its source that it begins with.
        reason = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().partition("\n")[0]).partition(". ")[0]
        return LostWorkerError(
            f"worker {self.rank} of {self.size} lost the others ({purpose}) after {seconds:.1f} s of at most "
            f"{self.deadline:g} s: {reason.rstrip('.')}. A worker, its host or its link is gone, or slower than "
            "--deadline allows; start the run again with the same --out and it resumes from its last checkpoint."
        )


def as_tensor(data: bytes) -> Tensor:
    """A copy of `data` as uint8 [n]."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _as_bytes(rows: Tensor) -> Tensor:
    """The same memory as uint8 [n, bytes of a row]: so rows of every type travel, whatever the transport can add up."""
    width = math.prod(rows.shape[1:])
    if rows.numel() == 0:
        return rows.new_empty((len(rows), width * rows.element_size()), dtype=torch.uint8)
    return rows.view(len(rows), width).view(torch.uint8)


def _numbers(counts: list[int] | Tensor) -> list[int]:
    return counts.tolist() if isinstance(counts, Tensor) else counts


def _choose_interface(rendezvous: str) -> None:
    """Tells gloo, which would trust /etc/hosts, the interface that leads to the others. A user's choice stays."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    address = urlsplit(rendezvous).hostname
    interface = host.interface_towards(address) if address else host.loopback()
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def _store(rank: int, size: int, rendezvous: str, deadline: float, listener: socket.socket | None) -> Store:
    where = urlsplit(rendezvous)
    store: Store
    if where.scheme == "file":
        store = FileStore(unquote(where.path), size)
        store.set_timeout(datetime.timedelta(seconds=deadline))
        return store
    if where.scheme != "tcp" or where.hostname is None or where.port is None:
        raise InputError(f"rendezvous '{rendezvous}'; expected tcp://host:port or file:///path.")
    store = TCPStore(
        where.hostname,
        where.port,
        size,
        is_master=rank == 0,
        timeout=datetime.timedelta(seconds=deadline),
        master_listen_fd=listener.detach() if listener is not None else None,
    )
    return store

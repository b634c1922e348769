"""The group: collectives against what they are defined to give, bytes against their formulas, losses in time."""

import os
import socket
import time
from typing import Any

import pytest
import torch
from worker_processes import together

from framework.comm import host
from framework.comm.group import Group
from framework.errors import InputError, LostWorkerError

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
TYPES += [torch.uint8, torch.bool]


def rows_for(source: int, target: int, width: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What worker `source` sends to `target`: as many rows as no other pair, some pairs none."""
    count = (2 * source + target) % 4
    return (torch.arange(count * 6).reshape(count, 2, 3) % 2 + source + 10 * target).to(dtype)[
        :, : width[0], : width[1]
    ]


def exchanges(group: Group) -> None:
    for dtype in TYPES:
        for width in ((2, 3), (1, 1), (0, 3)):
            mine = [rows_for(group.rank, other, width, dtype) for other in range(group.size)]
            theirs = [rows_for(other, group.rank, width, dtype) for other in range(group.size)]
            send, receive = [len(rows) for rows in mine], [len(rows) for rows in theirs]
            assert group.exchange_counts(send) == receive
            assert group.exchange_counts(torch.tensor(send), "state") == receive
            before = group.snapshot()
            received = group.exchange(torch.cat(mine), send, receive, "features")
            assert torch.equal(received, torch.cat(theirs))
            assert received.dtype == dtype
            row = width[0] * width[1] * dtype.itemsize
            assert group.since(before).get("features", 0) == (sum(send) - send[group.rank]) * row
    flat = torch.arange(group.size, dtype=torch.int64)
    ones = [1] * group.size
    assert torch.equal(group.exchange(flat, ones, ones, "frontier"), torch.full((group.size,), group.rank))
    none = [0] * group.size
    assert group.exchange(torch.empty(0, 4), none, none, "features").shape == (0, 4)
    many = group.exchange_counts_many([[group.rank, other] for other in range(group.size)])
    assert many == [[other, group.rank] for other in range(group.size)]


def overlapping(group: Group) -> None:
    ones = [1] * group.size
    pending = [
        group.exchange_async(torch.full((group.size, 1), 10.0 * group.rank + i), ones, ones, "features") for i in (1, 2)
    ]
    for i, rows in zip((1, 2), pending, strict=True):
        assert rows.wait().flatten().tolist() == [10.0 * other + i for other in range(group.size)]


def others(group: Group) -> dict[str, Any]:
    size, rank = group.size, group.rank
    assert group.sent == {}
    assert len(group.hosts) == size
    assert group.leader == (rank == 0)
    total = group.all_reduce(torch.tensor([1.0 + rank, 2.0]), "loss")
    assert total.tolist() == [size * (size + 1) / 2, 2.0 * size]
    assert int(group.all_reduce(torch.tensor(rank), "loss", op="max")) == size - 1
    assert int(group.all_reduce(torch.tensor(rank), "loss", op="min")) == 0
    assert group.sent.get("loss", 0) == sum(2 * (size - 1) * payload // size for payload in (8, 8, 8))
    tensor = torch.full((3,), rank, dtype=torch.int16 if size == 1 else torch.int32)
    assert group.broadcast(tensor, size - 1, "state").tolist() == [size - 1] * 3
    data = os.urandom(1000) if rank == 0 else None
    received = group.broadcast_bytes(data, 0, "state")
    assert group.broadcast_bytes(b"" if rank == 0 else None, 0, "state") == b""
    assert data is None or received == data
    values = group.gather_json({"rank": rank, "text": "ä" * rank, "none": None})
    assert values == [{"rank": other, "text": "ä" * other, "none": None} for other in range(size)]
    group.barrier()
    return {"bytes": received.hex(), "sent": group.sent}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_go_where_they_belong_and_are_counted(size: int) -> None:
    together(size, exchanges)


@pytest.mark.parametrize("size", [1, 3])
def test_exchanges_may_overlap(size: int) -> None:
    together(size, overlapping)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_other_collectives(size: int) -> None:
    answers = together(size, others)
    assert len({answer["bytes"] for answer in answers}) == 1


def sums(group: Group) -> list[float]:
    torch.manual_seed(group.rank)
    return group.all_reduce(torch.randn(1001), "loss").tolist()


def test_a_sum_has_the_same_bits_on_every_worker() -> None:
    answers = together(3, sums)
    assert answers[0] == answers[1] == answers[2]


def losing(group: Group, how: str) -> tuple[str, float] | None:
    if group.rank == 1:
        if how == "killed":
            os.kill(os.getpid(), 9)
        time.sleep(8)  # the others wait for at most 3 seconds
        os._exit(0)
    begin = time.monotonic()
    try:
        for _ in range(3):  # what is sent to a worker just killed may still go out
            group.exchange(torch.ones(3, 1), [1, 1, 1], [1, 1, 1], "features")
    except LostWorkerError as error:
        return str(error), time.monotonic() - begin
    raise AssertionError("nobody was missed")


def test_a_killed_worker_is_noticed_at_once() -> None:
    first, none, third = together(3, losing, "killed")
    assert none is None
    for rank, (message, seconds) in ((0, first), (2, third)):
        assert f"worker {rank} of 3 lost the others (features)" in message
        assert "--deadline" in message
        assert "\n" not in message
        assert seconds < 5


def test_a_silent_worker_is_given_up_at_the_deadline() -> None:
    first, _, third = together(3, losing, "silent", deadline=3.0)
    for message, seconds in (first, third):
        assert "of at most 3 s" in message
        assert 2.5 < seconds < 7


def test_joining_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free_port = closed.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(LostWorkerError, match="joining at tcp://127.0.0.1"):
        Group.join(rank=1, size=2, rendezvous=f"tcp://127.0.0.1:{free_port}", deadline=1.0)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("rendezvous", ["nowhere", "tcp://host", "http://host:1"])
def test_a_wrong_rendezvous_is_named(rendezvous: str) -> None:
    with pytest.raises(InputError, match=rendezvous):
        Group.join(rank=0, size=2, rendezvous=rendezvous, deadline=1.0)


def test_a_host_knows_itself_and_its_interfaces() -> None:
    assert host.identity() == host.identity()
    names = [name for _, name in socket.if_nameindex()]
    assert host.loopback() in names
    assert host.interface_towards("256.1.1.1") is None

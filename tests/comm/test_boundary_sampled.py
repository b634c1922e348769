"""Boundary sampling: both sides draw alike, fewer bytes are sent, sums are unbiased, p=1 is exact and p=0 is silent."""

import pytest
import torch
from halo_plans import BACKWARD, FORWARD, opened, step, values
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.boundary_sampled import BoundarySampled, drawn
from framework.comm.halo.exact import Exact
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.random import Key

P, STEPS = 0.4, 40


def exchanged(group: Group) -> None:
    """What holds on every worker, in every step, at p and at its ends."""
    for p in (P, 1.0, 0.0):
        plan, exchange = opened(BoundarySampled(p=p), group)
        _, exact = opened(Exact(), group)
        before, rows = group.snapshot(), 0
        for number in range(STEPS if p == P else 2):
            exchange.begin(step(number))
            copies = values(plan.wanted_original, number)
            halo = exchange.to_halo(copies, FORWARD).wait()
            came = halo[:, 0] != 0
            assert torch.equal(halo[came], values(plan.halo_original, number)[came])
            assert not halo[~came].any()
            back = exchange.to_owners(exact.to_halo(copies, FORWARD).wait(), BACKWARD).wait()
            sent = back[:, 0] != 0
            assert torch.equal(back[sent], copies[sent])
            assert not back[~sent].any()
            assert exchange.to_owners(halo, BACKWARD).wait().equal(back), "gradients come back for the rows that went"
            block = exchange.block(star(plan.num_halo))
            assert block.indices[1:].tolist() == (came.nonzero().squeeze(1) + 1).tolist()
            assert exchange.block(block) is exchange.block(block)
            rows += int(sent.sum()) + 2 * int(came.sum())
            assert p == P or bool(came.all() if p else not came.any())
        sent_bytes = sum(group.since(before).values())
        exact_bytes = (STEPS if p == P else 2) * len(plan.wanted) * 24
        assert sent_bytes == rows * 24 + exact_bytes
        assert rows == pytest.approx(3 * p * exact_bytes / 24, rel=0.05)


def star(halo: int) -> Block:
    """One owned node with an edge from itself and one from every halo node."""
    ids = torch.arange(halo + 1)
    return Block(
        sources=Nodes(ids=ids, original=ids, degree=ids),
        num_targets=1,
        indptr=torch.tensor([0, halo + 1]),
        indices=ids.to(torch.int32),
    )


def test_rows_of_the_draw_go_and_come_back() -> None:
    together(3, exchanged)


@pytest.mark.parametrize(("p", "rows"), [(0.05, 1), (0.3, 7), (0.9, 50)])
def test_a_row_comes_with_a_chance_of_p(rows: int, p: float) -> None:
    original, draws = torch.arange(rows) * 17 + 3, 500
    counts, numbers = torch.zeros(rows), set()
    for number in range(draws):
        places = drawn(p, original, Key.root(1).fold(number))
        assert places.tolist() == sorted(set(places.tolist()))
        counts[places] += 1
        numbers.add(len(places))
    assert numbers <= {int(p * rows), int(p * rows) + 1}
    deviation = (p * (1 - p) / draws) ** 0.5
    assert (counts / draws - p).abs().max() < 4.5 * deviation
    assert abs(float(counts.sum()) / draws / rows - p) < 4.5 * deviation / rows**0.5


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"--halo\.p is 1\.5; expected"):
        BoundarySampled(p=1.5)

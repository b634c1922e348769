"""Some workers among themselves: broadcasts, sums, and what they are counted as."""

import torch
from worker_processes import together

from framework.comm.group import Group
from framework.comm.subgroup import Subgroup


def spoken(group: Group) -> dict[str, object]:
    """What worker 0 and 2, and 1 alone, hear of one another, and what it cost."""
    some = Subgroup.split(group, [[0, 2], [1]])
    mine = torch.full((3, 2), float(group.rank + 1), dtype=torch.float64)
    last = some.ranks[-1]
    heard = some.broadcast(mine.clone(), last, "heard").wait().tolist()
    total = some.reduce(mine.clone(), last, "added").wait()
    some.broadcast(torch.empty(0), last, "nothing").wait()
    added = total.tolist() if group.rank == last else None
    return {"ranks": some.ranks, "heard": heard[0][0], "added": added and added[0][0], "sent": group.snapshot()}


def test_members_hear_each_other_and_nobody_else() -> None:
    answers = together(3, spoken)
    assert [answer["ranks"] for answer in answers] == [(0, 2), (1,), (0, 2)]
    assert [answer["heard"] for answer in answers] == [3, 2, 3]
    assert [answer["added"] for answer in answers] == [None, 2, 1 + 3]
    assert [answer["sent"] for answer in answers] == [{"added": 48}, {}, {"heard": 48}]


def test_one_worker_is_its_own_subgroup() -> None:
    group = Group.alone()
    assert Subgroup.split(group, [[0]]).broadcast(torch.ones(2), 0, "heard").wait().tolist() == [1, 1]
    assert group.snapshot() == {}

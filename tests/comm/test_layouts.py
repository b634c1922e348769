"""Layouts: each equals the owner's layout on one worker, in scores and gradients, and sends what it says it does.

All layouts and networks go through one start of the workers: starting them is what takes the time.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_graph import stored
from torch import Tensor
from whole_graph import looped_graph
from worker_processes import together

from framework.comm.features import Features
from framework.comm.group import Group
from framework.comm.layout.grid_2d import Grid2D
from framework.comm.layout.owner import Owner
from framework.comm.layout.recompute import Recompute
from framework.comm.layout.rows_1d import Rows1D
from framework.comm.layout.rows_15d import Rows15D
from framework.comm.layout.strategy import Layout
from framework.comm.layout.tensor_parallel import TensorParallel
from framework.comm.reach import Shards
from framework.comm.rows import all_rows
from framework.comm.topology import Topology
from framework.graph.store import ShardStore
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key

NODES, FEATURES, CLASSES, LAYERS = 60, 7, 5, 3
MODELS = {
    "gcn": GCN(hidden=6, dropout=0.4),
    "sage": SAGE(hidden=6, dropout=0.4),
    "gat": GAT(hidden=2, heads=3, dropout=0.3, attention_dropout=0.3),
    "gat, two classes": GAT(hidden=2, heads=3, dropout=0.3),  # fewer columns than three workers
}
FEW = {"gat, two classes": 2}
SOME = Recompute(width=6, flops=1e6, bandwidth=6e5)
STEPS = 2


def layouts(workers: int, few: bool = False) -> dict[str, Layout]:
    """Every layout, and every shape of it, that so many workers can take; or a few."""
    if few:
        return {
            "tensor-parallel": TensorParallel(),
            "rows-15d-2": Rows15D(),
            "grid-2d": Grid2D(),
            "recompute-some": SOME,
        }
    divisors = [divisor for divisor in range(1, workers + 1) if workers % divisor == 0]
    return {
        "tensor-parallel": TensorParallel(),
        "rows-1d": Rows1D(),
        "rows-1d-sparse": Rows1D(sparse=True),
        "recompute": Recompute(dependencies="compute"),
        "recompute-none": Recompute(dependencies="fetch"),
        "recompute-some": SOME,
        "grid-2d": Grid2D(),
        **{f"grid-2d-{columns}": Grid2D(columns=columns) for columns in divisors},
        **{f"rows-15d-{replicas}": Rows15D(replication=replicas) for replicas in divisors},
    }


def opened(group: Group, path: Path, layout: Layout) -> Topology:
    """The graph as a worker of this layout reaches it."""
    return Topology(Shards.open(ShardStore.open(path), group, "owned"), layout=layout)


def learned(topology: Topology, kind: str) -> dict[str, Tensor]:
    """The scores of all nodes by original id, and the summed gradients, of two steps with dropout."""
    torch.manual_seed(3)
    classes = FEW.get(kind, CLASSES)
    model = MODELS[kind].build(FEATURES, classes, LAYERS).double().train()
    group, found = topology.shards.group, {}
    for step in range(STEPS):
        key = Key.root(5).fold(step)
        blocks = topology.whole([key.fold(layer) for layer in range(LAYERS)])
        scores = model(blocks, Features(topology.shards).rows(blocks[0].sources.ids).double())
        assert torch.equal(blocks[-1].targets.ids, topology.owned.ids)
        wanted = torch.arange(classes) - blocks[-1].targets.original.unsqueeze(1) % classes
        model.zero_grad()
        ((scores - wanted) ** 2).sum().backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            group.all_reduce(weight.grad, "gradient")
            found[f"{step}/{name}"] = weight.grad.clone()
            weight.data -= 1e-3 * weight.grad
        order = torch.argsort(all_rows(group, blocks[-1].targets.original, "state"))
        found[f"{step}/scores"] = all_rows(group, scores.detach(), "state")[order]
    return found


def differences(group: Group, path: Path, expected: dict[str, dict[str, Any]], few: bool) -> dict[str, float]:
    """The largest difference of any scores or gradients of a layout and a network, over all values' scale."""
    found = {}
    for name, layout in layouts(group.size, few).items():
        topology = opened(group, path, layout)
        for kind, values in expected.items():
            mine = learned(topology, kind)
            assert list(mine) == list(values)
            tensors = {each: torch.tensor(value, dtype=torch.float64) for each, value in values.items()}
            found[f"{name}/{kind}"] = max(
                float((mine[each] - value).abs().max() / value.abs().max().clamp(min=1))
                for each, value in tensors.items()
            )
    return found


def one_worker(path: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """What one worker learns with the owner's layout."""
    topology = opened(Group.alone(), path, Owner())
    return {kind: {name: value.tolist() for name, value in learned(topology, kind).items()} for kind in kinds}


HEADS, COLUMNS = 3, 5  # of the rows whose bytes are counted, each number 8 bytes


def counted(group: Group, path: Path, few: bool) -> dict[str, list[dict[str, int]]]:
    """What this worker sends for one sum and for one attention of a hidden layer: numbers forward and backward."""
    found = {}
    for name, layout in {**layouts(group.size, few), "owner": Owner()}.items():
        block = opened(group, path, layout).whole([None] * 2)[1]
        local, ids = block.whole(block.sources.original.double().unsqueeze(1))
        assert ids.squeeze(1).tolist() == local.sources.original.tolist()
        rows = len(block.sources)
        values = torch.randn(rows, HEADS, COLUMNS, dtype=torch.float64, requires_grad=True)
        scores = torch.randn(rows, HEADS, dtype=torch.float64, requires_grad=True)
        before = [group.snapshot()]
        block.sum(values[:, 0]).sum().backward()
        before.append(group.snapshot())
        block.attend(values, scores, scores[: block.num_targets], negative_slope=0.2, dropout=0.0).sum().backward()
        sums = {purpose: each - before[0].get(purpose, 0) for purpose, each in before[1].items()}
        numbers = [
            {purpose.rpartition("/")[2]: each // 8 for purpose, each in sent.items() if "/1/" in purpose}
            for sent in (sums, group.since(before[1]))
        ]
        found[name] = numbers
    return found


def by_slices(sizes: list[int], rank: int, cut: list[int], down: list[int], joined: list[int]) -> dict[str, int]:
    """Numbers sent in a grid of slices: widths of what is cut, goes down the grid column, and is joined, by slice."""
    row, column = divmod(rank, len(cut))
    beside = sizes[row * len(cut) : (row + 1) * len(cut)]
    n, r, nodes, high = sizes[rank], sum(beside), sum(sizes), len(sizes) // len(cut)
    out, back = sum(cut) - cut[column], sum(joined) - joined[column]
    return {
        "forward": n * out + (high - 1) * r * down[column] + (r - n) * joined[column],
        "backward": n * back + (nodes - r) * down[column] + (r - n) * cut[column],
    }


def by_replicas(sizes: list[int], rank: int, wide: int, cut: int, down: int, joined: int) -> dict[str, int]:
    """The same in a grid of replicas, by the width of the rows on each way."""
    (row, column), high = divmod(rank, wide), len(sizes) // wide
    blocks = [sum(sizes[each * wide : (each + 1) * wide]) for each in range(high)]
    stages = range(high * column // wide, high * (column + 1) // wide)
    n, r = sizes[rank], blocks[row]
    others = sum(blocks[stage] for stage in stages if stage != row)
    return {
        "forward": (wide - 1) * n * cut + (row in stages) * (high - 1) * r * down + (r - n) * joined,
        "backward": (wide - 1) * n * joined + others * down + (r - n) * cut,
    }


def even(count: int, workers: int) -> list[int]:
    """An even share for each."""
    ends = [count * worker // workers for worker in range(workers + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def slices_sent(sizes: list[int], rank: int, wide: int) -> list[dict[str, int]]:
    """A sum and an attention in a grid of slices, `wide` grid columns."""
    width = even(COLUMNS, wide)
    heads = even(HEADS, wide) if wide <= HEADS else [HEADS] * wide
    values = [some * COLUMNS for some in heads] if wide <= HEADS else [HEADS * each for each in width]
    scored = [[value + more * some for value, some in zip(values, heads, strict=True)] for more in (2, 1)]
    return [by_slices(sizes, rank, width, width, width), by_slices(sizes, rank, *scored, values)]


def replicas_sent(sizes: list[int], rank: int, wide: int) -> list[dict[str, int]]:
    """The same in a grid of replicas."""
    values = HEADS * COLUMNS
    widths = values + 2 * HEADS, values + HEADS, values + HEADS
    return [by_replicas(sizes, rank, wide, COLUMNS, COLUMNS, COLUMNS), by_replicas(sizes, rank, wide, *widths)]


def check_bytes(path: Path, workers: int, answers: list[dict[str, list[dict[str, int]]]]) -> None:
    """What was counted is what the layouts' docstrings say."""
    store = ShardStore.open(path)
    sizes = [0] * workers
    for part, counts in enumerate(store.counts):
        sizes[part * workers // store.parts] += counts.nodes
    for rank, found in enumerate(answers):
        for name, sent in found.items():
            kind, _, number = name.rpartition("-")
            if name in ("tensor-parallel", "rows-1d", "grid-2d"):
                wide = {"tensor-parallel": workers, "rows-1d": 1, "grid-2d": SQUAREST[workers]}[name]
                assert sent == slices_sent(sizes, rank, wide), name
            elif kind == "grid-2d":
                assert sent == slices_sent(sizes, rank, int(number)), name
            elif kind == "rows-15d":
                assert sent == replicas_sent(sizes, rank, int(number)), name
            elif name in ("rows-1d-sparse", "recompute-none"):
                assert sent == found["owner"], name
            elif name == "recompute":
                assert sent == [{"forward": 0, "backward": 0}] * 2
    for kind in range(2):
        for way in ("forward", "backward"):
            some, every = (sum(found[name][kind][way] for found in answers) for name in ("recompute-some", "owner"))
            assert 0 < some < every


SQUAREST = {2: 2, 3: 3, 4: 2}


@pytest.fixture
def features() -> Tensor:
    return torch.randn(NODES, FEATURES, generator=torch.Generator().manual_seed(1))


def everything(group: Group, paths: list[Path], expected: list[dict[str, dict[str, Any]]], few: bool) -> list[Any]:
    """Both, and the differences on a graph with weights, in one start."""
    compared = [differences(group, path, each, few) for path, each in zip(paths, expected, strict=True)]
    return [*compared, counted(group, paths[0], few)]


@pytest.mark.parametrize(
    ("workers", "parts", "few"),
    [
        pytest.param(4, 5, True, id="few"),
        pytest.param(1, 2, False),
        pytest.param(2, 5, False, marks=pytest.mark.slow),
        pytest.param(3, 2, False, marks=pytest.mark.slow, id="one without nodes"),
        pytest.param(4, 5, False, marks=pytest.mark.slow),
    ],
)
def test_every_layout_equals_one_worker_and_sends_what_it_says(
    tmp_path: Path, features: Tensor, workers: int, parts: int, few: bool
) -> None:
    graph = looped_graph(NODES, 300, isolated=4)
    weights = torch.rand(len(graph.source), generator=torch.Generator().manual_seed(2))
    paths = [
        stored(graph, parts, tmp_path / "plain", features=features).path,
        stored(graph, parts, tmp_path / "weighted", features=features, edge_weights=weights).path,
    ]
    expected = [one_worker(paths[0], list(MODELS)), one_worker(paths[1], ["sage"])]
    answers = (
        together(workers, everything, paths, expected, few)
        if workers > 1
        else [everything(Group.alone(), paths, expected, few)]
    )
    for plain, weighted, _ in answers:
        assert not {name: off for name, off in (plain | weighted).items() if not off < 1e-10}
        assert len(plain) == len(weighted) * len(MODELS) == len(layouts(workers, few)) * len(MODELS)
    if workers > 1:
        check_bytes(paths[0], workers, [sent for *_, sent in answers])

"""Neighbours of a whole batch by coins: chances as of a dense matrix, what an edge counts, the exact limit."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored_graph import stored
from torch import Tensor, nn
from whole_graph import WholeGraph, looped_graph, random_graph, random_rows
from worker_processes import together

from framework.comm.group import Group
from framework.comm.reach import Reach, Shards
from framework.comm.topology import Topology
from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.graph.store import ShardStore
from framework.kernels.csr import row_of_entries
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key, uniform
from framework.registry import PARTITIONERS
from framework.sample import chances as numbers_of_chances
from framework.sample.chances import chances, edge_numbers, summed
from framework.sample.ladies import Ladies
from framework.sample.neighbor import Neighbor
from framework.sample.sampler import SAMPLING, Sampler
from partitioners.metis import Metis
from partitioners.random import Random

GRAPH = looped_graph(80, 700, isolated=4)
SEEDS = torch.tensor([7, 79, 0, 33, 41, 2, 60, 12])
KEY = Key.root(1)


def dense(graph: WholeGraph) -> np.ndarray:
    """Edges from u to v, v after u in the names of its axes and without self-loops: [nodes v, nodes u]."""
    matrix = np.zeros((graph.num_nodes, graph.num_nodes))
    np.add.at(matrix, (graph.target.numpy(), graph.source.numpy()), 1)
    np.fill_diagonal(matrix, 0)
    return matrix


def expected_chances(graph: WholeGraph, frontier: np.ndarray, budget: int) -> np.ndarray:
    """Of every node, by bisection of c: 0 for those that are no candidates."""
    matrix = dense(graph)
    degree = matrix.sum(1, keepdims=True)
    weights = (matrix / np.maximum(degree, 1) ** 2)[frontier].sum(0)
    if (weights > 0).sum() <= budget:
        return (weights > 0).astype(np.float64)
    low, high = 0.0, budget / weights[weights > 0].min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if np.minimum(1, middle * weights).sum() > budget else (middle, high)
    return np.minimum(1, high * weights)


def ends_of(block: Block) -> tuple[Tensor, Tensor]:
    """Original ids of every edge's target and source."""
    rows = row_of_entries(block.indptr, len(block.indices))
    return block.targets.original[rows], block.sources.original[block.indices.long()]


def importance_of(block: Block) -> Tensor:
    assert block.importance is not None
    return block.importance


@pytest.mark.parametrize("budget", [1, 5, 20, 60])
def test_chances_are_those_of_the_dense_matrix_and_coins_decide(budget: int) -> None:
    expected = expected_chances(GRAPH, SEEDS.numpy(), budget)
    met = np.zeros(GRAPH.num_nodes, dtype=bool)
    for number in range(20):
        key = KEY.fold(number)
        found = GRAPH.neighbors_together(GRAPH.nodes[SEEDS], budget, key)
        targets = SEEDS[row_of_entries(found.indptr, len(found.sources))]
        others = (found.sources.original != targets).numpy()
        drawn, given = found.sources.original.numpy()[others], found.chances
        assert given is not None
        assert bool((given[~others] == 1).all())
        np.testing.assert_allclose(given.numpy()[others], expected[drawn], rtol=1e-9)
        met[drawn] = True
        coins = uniform(key, torch.arange(GRAPH.num_nodes)).numpy() < expected
        edges = (GRAPH.source.numpy(), GRAPH.target.numpy())
        kept = np.isin(edges[1], SEEDS.numpy()) & (coins[edges[0]] | (edges[0] == edges[1]))
        pairs = sorted(zip(edges[1][kept].tolist(), edges[0][kept].tolist(), strict=True))
        assert sorted(zip(targets.tolist(), found.sources.original.tolist(), strict=True)) == pairs
    assert not met[expected == 0].any()
    assert met[expected > 0.5].all()


def test_the_budget_is_the_mean_of_what_is_drawn() -> None:
    keys, budget = 400, 20
    expected = expected_chances(GRAPH, SEEDS.numpy(), budget)
    assert expected.sum() == pytest.approx(budget)
    counts = []
    for number in range(keys):
        (block,) = Ladies(budgets=(budget,)).sample(GRAPH, GRAPH.nodes[SEEDS], Key.root(number))
        targets, sources = ends_of(block)
        counts.append(len(sources[targets != sources].unique()))
    error = np.sqrt((expected * (1 - expected)).sum() / keys)
    assert abs(np.mean(counts) - budget) < 4 * error


def test_a_sum_over_inverse_chances_is_unbiased() -> None:
    """Horvitz and Thompson's, before rows are normalised."""
    keys, values = 600, random_rows(GRAPH.num_nodes, 1).detach().flatten()
    found = torch.zeros(keys, len(SEEDS), dtype=torch.float64)
    for number in range(keys):
        drawn = GRAPH.neighbors_together(GRAPH.nodes[SEEDS], 25, Key.root(number))
        assert drawn.chances is not None
        rows = row_of_entries(drawn.indptr, len(drawn.sources))
        found[number].index_add_(0, rows, values[drawn.sources.original] / drawn.chances)
    whole = GRAPH.block.sum(values[:, None]).flatten()[SEEDS]
    error = found.std(0) / keys**0.5
    assert float(error.max()) > 0.01
    assert bool(((found.mean(0) - whole).abs() <= 4 * error + 1e-12).all())


def hubs() -> WholeGraph:
    """30 nodes have the same 10 neighbours; 10 others have 20 each that nobody else has."""
    many = torch.cartesian_prod(torch.arange(40, 50), torch.arange(30))
    few = torch.stack([torch.arange(50, 250), torch.arange(30, 40).repeat_interleave(20)], dim=1)
    source, target = torch.cat([many, few]).t().contiguous()
    return WholeGraph(source=source, target=target, num_nodes=250)


def test_certain_neighbourhoods_are_exact_and_the_others_nearly() -> None:
    graph, values = hubs(), random_rows(250, 1).detach()
    (block,) = Ladies(budgets=(110,)).sample(graph, graph.nodes[:40], KEY)
    found = block.sum(values[block.sources.ids], mean=True)
    whole = graph.block.sum(values, mean=True)[:40]
    assert torch.equal(block.drawn[:30], torch.full((30,), 10))
    assert bool((importance_of(block)[: block.indptr[30]] == 1).all())
    assert torch.equal(found[:30], whole[:30])
    assert 0 < int(block.drawn[30:].min()) <= int(block.drawn[30:].max()) < 20
    assert not torch.allclose(found[30:], whole[30:])


def test_means_come_nearer_with_the_budget() -> None:
    """The ratio of two unbiased sums is consistent."""
    graph = random_graph(400, 12_000)
    values, frontier = random_rows(400, 1).detach() + 1, graph.nodes[:200]
    whole = graph.block.sum(values, mean=True)[:200]
    errors = []
    for budget in (40, 160, 320, 390):
        error = 0.0
        for number in range(10):
            (block,) = Ladies(budgets=(budget,)).sample(graph, frontier, Key.root(number))
            error += float((block.sum(values[block.sources.ids], mean=True) - whole).square().mean())
        errors.append(error)
    assert all(after < 0.5 * before for before, after in itertools.pairwise(errors))


def test_importance_is_one_on_average_and_inverse_to_chances() -> None:
    frontier = GRAPH.nodes[SEEDS]
    (block,) = Ladies(budgets=(25,)).sample(GRAPH, frontier, KEY)
    given = GRAPH.neighbors_together(frontier, 25, KEY.fold(SAMPLING, 0)).chances
    assert given is not None
    targets, sources = ends_of(block)
    looped_and_drawn = 0
    for seed in SEEDS.tolist():
        mine, loops = importance_of(block)[targets == seed], (sources == seed)[targets == seed]
        if len(mine) == 0:
            continue
        assert float(mine.mean()) == pytest.approx(1, rel=1e-14)
        if bool(loops.all()):
            continue
        stands = mine[~loops] * given[targets == seed][~loops]
        torch.testing.assert_close(stands, stands[:1].expand(len(stands)), rtol=1e-13, atol=0)
        degree, own = int(GRAPH.nodes.degree[seed]), int(loops.sum())
        assert float(mine[loops].sum() / mine.sum()) == pytest.approx(own / (own + degree), rel=1e-13)
        looped_and_drawn += own > 0
    assert looped_and_drawn > 1


def loss_and_gradients(model: nn.Module, blocks: list[Block], x: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(blocks, x[blocks[0].sources.ids]), torch.arange(len(SEEDS)) % 3)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("budgets", [(-1, -1), (10_000, 10_000), (10_000, -1)], ids=str)
@pytest.mark.parametrize("graph_of", [random_graph, looped_graph])
@pytest.mark.parametrize(
    "settings", [SAGE(hidden=6), GCN(hidden=6), GAT(hidden=3, heads=2)], ids=["sage", "gcn", "gat"]
)
def test_all_neighbours_are_exact(
    settings: SAGE | GCN | GAT, graph_of: Callable[..., WholeGraph], budgets: tuple[int, int]
) -> None:
    graph = graph_of(80, 700, isolated=4)
    torch.manual_seed(0)
    model, x = settings.build(5, 3, 2).double(), random_rows(80, 5).detach()
    found = Ladies(budgets=budgets).sample(graph, graph.nodes[SEEDS], KEY)
    expected = Neighbor(fanouts=(-1, -1)).sample(graph, graph.nodes[SEEDS], KEY)
    for block, same, budget in zip(found, expected, reversed(budgets), strict=True):
        assert torch.equal(block.indices, same.indices)
        assert torch.equal(block.indptr, same.indptr)
        assert torch.equal(block.sources.ids, same.sources.ids)
        assert block.key == same.key
        assert (block.importance is None) == (budget < 0)
        assert block.importance is None or bool((block.importance == 1).all())
    mine, theirs = (loss_and_gradients(model, blocks, x) for blocks in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [SAGE(hidden=6), GCN(hidden=6), GAT(hidden=3, heads=2)], ids=["sage", "gcn", "gat"]
)
def test_networks_learn_from_some(settings: SAGE | GCN | GAT) -> None:
    model, x = settings.build(5, 3, 2).double(), random_rows(80, 5).detach()
    blocks = Ladies(budgets=(10, 12)).sample(GRAPH, GRAPH.nodes[SEEDS], KEY)
    assert all(bool(gradient.isfinite().all()) for gradient in loss_and_gradients(model, blocks, x))


def test_every_hop_tosses_coins_of_its_own() -> None:
    blocks = Ladies(budgets=(30, 30)).sample(GRAPH, GRAPH.nodes, KEY)
    drawn = [set(ends_of(block)[1].tolist()) for block in blocks]
    assert drawn[0] != drawn[1]
    assert blocks[0].key != blocks[1].key


@pytest.mark.parametrize("budgets", [(3, 3), (-1, 3), (500, 500)])
def test_seeds_without_neighbours_and_no_seeds(budgets: tuple[int, int]) -> None:
    blocks = Ladies(budgets=budgets).sample(GRAPH, Nodes.none(), KEY)
    assert [len(block.sources) for block in blocks] == [0, 0]
    isolated = WholeGraph(source=torch.tensor([1]), target=torch.tensor([0]), num_nodes=4)
    for block in Ladies(budgets=budgets).sample(isolated, isolated.nodes[torch.tensor([3, 1])], KEY):
        assert block.sources.ids.tolist() == [3, 1]
        assert len(block.indices) == 0
        assert SAGE(hidden=2).build(1, 2, 1)([block], torch.ones(2, 1)).isfinite().all()


@pytest.mark.parametrize("budgets", [(), (0,), (5, -2)])
def test_budgets_that_mean_nothing_are_refused(budgets: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"--sampler\.budgets is .* each positive or -1"):
        Ladies(budgets=budgets)


def test_it_is_a_sampler() -> None:
    assert isinstance(Ladies(), Sampler)
    assert Ladies(budgets=(5, 5, 5)).depth == 3
    assert not Ladies().whole


def test_numbers_of_edges() -> None:
    degree = torch.tensor([1, 2, 3, 1000, 2**20, 2**21, 2**40])
    found = edge_numbers(degree)
    assert found.tolist() == [2**40, 2**38, round(2**40 / 9), round(2**40 / 10**6), 1, 1, 1]
    assert summed(torch.tensor([2, 0, 2]), torch.tensor([1 << 60, 5, (1 << 60) + 1]), 4).tolist() == [
        5,
        0,
        2**61 + 1,
        0,
    ]


@pytest.mark.parametrize("budget", [1, 2, 3, 17, 59])
@pytest.mark.parametrize("kind", ["powers of two", "equal", "two kinds", "any"])
def test_chances_add_up_to_the_budget(kind: str, budget: int) -> None:
    numbers = {
        "powers of two": 2 ** torch.arange(60),
        "equal": torch.full((60,), 7),
        "two kinds": torch.tensor([1 << 40] * 20 + [1] * 40),
        "any": torch.randint(1, 10**12, (60,), generator=torch.Generator().manual_seed(0)),
    }[kind]
    calls = []

    def added(sums: Tensor) -> Tensor:
        calls.append(sums)
        return sums

    found = chances(numbers, 5, budget, added)
    assert float(found.sum()) == pytest.approx(budget, rel=1e-9)
    assert bool((found > 0).all())
    uncertain = found < 1
    assert bool(uncertain.any())
    ratio = found[uncertain] / numbers[uncertain]
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)), rtol=1e-12, atol=0)
    assert bool((numbers[~uncertain] * float(ratio[0]) >= 1 - 1e-9).all())
    assert len(calls) <= 64


def test_a_frontier_whose_sums_might_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"4194304 nodes.*--batch-size.*labor"):
        chances(torch.tensor([1]), 1 << 22, 1, lambda sums: sums)
    assert chances(torch.tensor([1]), (1 << 22) - 1, 1, lambda sums: sums).tolist() == [1]
    most = (numbers_of_chances.MOST - 1) * (numbers_of_chances.ONE + (1 << 20))  # of nodes of at most 2^21 in-edges
    assert most < 2**63 - 2**60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Who samples what."""

    workers: int
    parts: int
    partitioner: Metis | Random = Random()
    reach: Reach = "owned"
    budgets: tuple[int, ...] = (15, 20)
    everyone: bool = False
    """Whether every worker has all seeds, rather than those whose turn it is, and the last worker none."""

    @property
    def name(self) -> str:
        """`2-4-metis-owned-15-20`."""
        words = (self.workers, self.parts, PARTITIONERS.name_of(type(self.partitioner)), self.reach, *self.budgets)
        return "-".join(map(str, words + ("everyone",) * self.everyone))

    def seeds(self, rank: int) -> Tensor:
        """Original ids of a worker's seeds."""
        if self.everyone:
            return SEEDS
        turns = max(1, self.workers - 1)
        return SEEDS[rank::turns] if rank < turns else SEEDS[:0]


CASES = [
    Case(workers=1, parts=1),
    Case(workers=1, parts=8, partitioner=Metis()),
    Case(workers=2, parts=1),
    Case(workers=2, parts=4, partitioner=Metis()),
    Case(workers=2, parts=4, everyone=True, reach="host"),
    Case(workers=4, parts=8),
    Case(workers=4, parts=8, partitioner=Metis(), reach="all", everyone=True),
    Case(workers=3, parts=4, budgets=(-1, 15)),
    Case(workers=3, parts=4, budgets=(500, 500)),
]
WEIGHTS = random_rows(len(GRAPH.source), 1).detach().flatten().float()


def sampled(group: Group, path: Path, case: Case) -> list[dict[int, list[tuple[Any, ...]]]]:
    """Of every block, of every target: source, bits of the importance, and weight of each of its edges."""
    shards = Shards.open(ShardStore.open(path), group, case.reach)
    original = torch.cat([ShardStore.open(path).shard(part).original for part in range(case.parts)])
    degree = torch.cat([ShardStore.open(path).shard(part).degree for part in range(case.parts)])
    ids = torch.argsort(original)[case.seeds(group.rank)]
    seeds = Nodes(ids=ids, original=original[ids], degree=degree[ids])
    blocks = Ladies(budgets=case.budgets).sample(Topology(shards), seeds, KEY)
    assert torch.equal(blocks[-1].targets.ids, ids)
    for block in blocks:
        assert torch.equal(original[block.sources.ids], block.sources.original)
        assert torch.equal(degree[block.sources.ids], block.sources.degree)
    return [edges_of(block) for block in blocks]


def edges_of(block: Block) -> list[Any] | dict[int, list[tuple[Any, ...]]]:
    targets, sources = ends_of(block)
    importance = torch.ones(len(targets)) if block.importance is None else block.importance
    weights = WEIGHTS[:0] if block.edge_weights is None else block.edge_weights
    columns = (sources.tolist(), importance.tolist(), weights.tolist() or [None] * len(targets))
    found: dict[int, list[tuple[Any, ...]]] = {int(target): [] for target in block.targets.original}
    for target, *edge in zip(targets.tolist(), *columns, strict=True):
        found[target].append(tuple(edge))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_neither_workers_nor_parts_nor_reach_show(case: Case, tmp_path: Path) -> None:
    store = stored(GRAPH, case.parts, tmp_path, partitioner=case.partitioner, edge_weights=WEIGHTS)
    found = together(case.workers, sampled, store.path, case)
    whole = Ladies(budgets=case.budgets).sample(GRAPH, GRAPH.nodes[SEEDS], KEY)
    weight_of = sorted(zip(GRAPH.target.tolist(), GRAPH.source.tolist(), WEIGHTS.tolist(), strict=True))
    for depth, block in enumerate(whole):
        expected, met = edges_of(block), set()
        for blocks in found:
            for target, edges in blocks[depth].items():
                assert [edge[:2] for edge in edges] == [edge[:2] for edge in expected[target]]
                known = [(target, source, weight) for source, _, weight in edges]
                assert set(known) <= set(weight_of)
                met.add(target)
        assert met == set(expected)

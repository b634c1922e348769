"""Layers on vertex-cuts: workers together give the rows and the gradients that one block of the whole graph gives."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuts import GivenEdgeOwners
from stored_graph import stored
from torch import Tensor, nn
from whole_graph import looped_graph, random_rows
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.delayed import Delayed
from framework.comm.halo.exact import Exact
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.reach import Shards
from framework.comm.rows import all_rows
from framework.comm.topology import Topology
from framework.errors import InputError
from framework.graph.store import ShardStore
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key
from partitioners.dbh import DegreeBasedHashing
from partitioners.hdrf import HighDegreeReplicatedFirst

GRAPH = looped_graph(60, 300, isolated=6)
EDGES = len(GRAPH.source)
COLUMNS, CLASSES, LAYERS = 7, 4, 3
WEIGHTS = torch.rand(EDGES, generator=torch.Generator().manual_seed(8))
NETWORKS = {
    "sage": SAGE(hidden=6, dropout=0.3),
    "gcn": GCN(hidden=6, dropout=0.3),
    "gcn-wide": GCN(hidden=9, dropout=0.3, input_dropout=0.2),  # the first layer sums features, dropped ones
    "gat": GAT(hidden=3, heads=2, dropout=0.3, input_dropout=0.2, attention_dropout=0.3),
}


def drawn(parts: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.Generator(np.random.Philox(seed)).integers(0, parts, EDGES).tolist())


def far_loops() -> tuple[int, ...]:
    """Self-loops on the last of three parts, all else on the first: the second has no edge."""
    return tuple(torch.where(GRAPH.source == GRAPH.target, 2, 0).tolist())


CUTS = {
    "dbh": (DegreeBasedHashing(), 5),
    "hdrf": (HighDegreeReplicatedFirst(), 3),
    "drawn": (GivenEdgeOwners(parts_of=drawn(4, 1)), 4),
    "far loops": (GivenEdgeOwners(parts_of=far_loops()), 3),
    "one part": (GivenEdgeOwners(parts_of=(1,) * EDGES), 3),
    "few parts": (GivenEdgeOwners(parts_of=drawn(2, 2)), 2),
}


def keys() -> list[Key]:
    return [Key.root(5).fold(layer) for layer in range(LAYERS)]


def built(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return NETWORKS[name].build(COLUMNS, CLASSES, LAYERS).double()


FEATURES = random_rows(GRAPH.num_nodes, COLUMNS, seed=2).detach().float()
FACTORS = random_rows(GRAPH.num_nodes, CLASSES, seed=4).detach()


def expected(name: str, weighted: bool) -> dict[str, Tensor]:
    """Rows and gradients of the whole graph in one block."""
    block = dataclasses.replace(GRAPH.block, edge_weights=WEIGHTS[GRAPH.csr.edges].double() if weighted else None)
    network = built(name)
    out = network([dataclasses.replace(block, key=key) for key in keys()], FEATURES.double())
    (out * FACTORS).sum().backward()
    return {"out": out.detach(), **gradients(network)}


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def outcomes(group: Group, cases: list[tuple[str, str]], halo: HaloStrategy) -> dict[str, dict[str, Any]]:
    """The same of every case (store, network) by the workers of a group, the last of three like steps."""
    answers = {}
    for path, name in cases:
        topology = Topology(Shards.open(ShardStore.open(path), group, "owned"), halo)
        x = FEATURES[topology.whole(keys())[0].sources.original].double()
        for _ in range(3):
            network = built(name)
            blocks = topology.whole(keys())
            out = network(blocks, x)
            original = blocks[-1].targets.original
            (out * FACTORS[original]).sum().backward()
        rows = all_rows(group, torch.cat([original.double()[:, None], out.detach()], dim=1), "state")
        answer = {"out": rows[rows[:, 0].argsort(), 1:], "nodes": rows[:, 0].sort().values}
        for weight, gradient in gradients(network).items():
            answer[weight] = group.all_reduce(gradient.clone(), "state")
        answers[f"{path} {name}"] = {what: tensor.tolist() for what, tensor in answer.items()}
    return answers


def cases_in(folder: Path) -> list[tuple[str, str, str, bool]]:
    cases = []
    for cut, (partitioner, parts) in CUTS.items():
        path = str(stored(GRAPH, parts, folder / cut, partitioner=partitioner, features=FEATURES).path)
        cases += [(cut, path, name, False) for name in NETWORKS]
    partitioner, parts = CUTS["drawn"]
    path = str(stored(GRAPH, parts, folder / "weighted", partitioner=partitioner, edge_weights=WEIGHTS).path)
    return [*cases, ("weighted", path, "sage", True)]


def test_single_edges_are_refused(tmp_path: Path) -> None:
    partitioner, parts = CUTS["drawn"]
    store = stored(GRAPH, parts, tmp_path, partitioner=partitioner, features=FEATURES)
    topology = Topology(Shards.open(store, Group.alone(), "owned"))
    with pytest.raises(InputError, match="no worker has all edges of a node.*--partitioner"):
        topology.whole(keys())[0].whole(FEATURES)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("halo", [Exact(), Delayed(r=0)], ids=["rows to mirrors", "rows of mirrors"])
def test_workers_together_equal_one_block(tmp_path: Path, workers: int, halo: HaloStrategy) -> None:
    """Whether owners send mirrors their rows, or mirrors compute them."""
    cases = cases_in(tmp_path)
    given = [(path, name) for _, path, name, _ in cases]
    answers = together(workers, outcomes, given, halo)[0] if workers > 1 else outcomes(Group.alone(), given, halo)
    for cut, path, name, weighted in cases:
        found, wanted = answers[f"{path} {name}"], expected(name, weighted)
        assert found["nodes"] == list(range(GRAPH.num_nodes))
        for what, tensor in wanted.items():
            torch.testing.assert_close(
                torch.tensor(found[what], dtype=torch.float64),
                tensor,
                rtol=1e-10,
                atol=1e-12,
                msg=lambda text, at=(cut, name, what): f"{at}: {text}",
            )


STEPS = 3


def constants(group: Group, path: str) -> list[list[float]]:
    """Sums of the same rows with loops and without, step after step."""
    topology = Topology(Shards.open(ShardStore.open(path), group, "owned"))
    x = FEATURES[topology.whole(keys())[0].sources.original].double()
    told = []
    for _ in range(STEPS):
        first = topology.whole(keys())[0]
        told.append([first.sum(x).sum().item(), first.without_self_loops.sum(x).sum().item()])
    return group.all_reduce(torch.tensor(told), "state").tolist()


def test_workers_keep_constant_sums_alike(tmp_path: Path) -> None:
    """One worker has all loops, and what it keeps is kept by those without any."""
    partitioner, parts = CUTS["far loops"]
    path = str(stored(GRAPH, parts, tmp_path, partitioner=partitioner, features=FEATURES).path)
    loops = GRAPH.source == GRAPH.target
    expected = [FEATURES[GRAPH.source[kept]].double().sum().item() for kept in (loops | ~loops, ~loops)]
    for sums in together(3, constants, path):
        torch.testing.assert_close(torch.tensor(sums), torch.tensor([expected] * STEPS), rtol=1e-5, atol=1e-4)


def sent(group: Group, path: str, names: list[str]) -> list[dict[str, int]]:
    """What this worker sends in some steps of each network, by lane."""
    told = []
    for name in names:
        topology, network = Topology(Shards.open(ShardStore.open(path), group, "owned")), built(name)
        x = FEATURES[topology.whole(keys())[0].sources.original].double()
        before = group.snapshot()
        for _ in range(STEPS):
            network(topology.whole(keys()), x).sum().backward()
        told.append({lane: count for lane, count in group.since(before).items() if lane.startswith("halo/")})
    return told


def test_bytes_are_those_of_mirrors_once_each_way(tmp_path: Path) -> None:
    """A row to every mirror and its partial sums back, gradients likewise; sums of features cross until kept."""
    store = stored(GRAPH, 3, tmp_path, partitioner=HighDegreeReplicatedFirst(), features=FEATURES)
    mirrors = int(store.quality["communication_volume"]) * 8  # bytes of a column
    counted = together(3, sent, str(store.path), ["sage", "gat"])
    sage, gat = ({lane: sum(told[case][lane] for told in counted) for lane in counted[0][case]} for case in (0, 1))
    row = 6
    assert sage == {
        "halo/0/forward": 2 * mirrors * COLUMNS,
        **{f"halo/{layer}/{way}": STEPS * mirrors * 2 * row for layer in (1, 2) for way in ("forward", "backward")},
    }
    heads, last = 2, CLASSES + 1
    columns = [  # to mirrors: values and both scores of a row, before the first layer the target's; back: 1 more
        heads + (row + heads + 1),
        (row + 2 * heads) + (row + heads + 1),
        (last + 1) + (last + 1),
    ]
    assert gat == {
        f"halo/{layer}/{way}": STEPS * mirrors * columns[layer] for layer in range(3) for way in ("forward", "backward")
    }

"""Rows that others wait for are made and sent first: rows and gradients are the same, and the rest is behind them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from halo_plans import tiny_plan
from stored_graph import stored
from torch import Tensor, nn
from whole_graph import WholeGraph, random_rows
from worker_processes import together

from framework.comm.group import Group
from framework.comm.halo.block import OwnedBlock, Wire
from framework.comm.halo.boundary_sampled import BoundarySampled
from framework.comm.halo.bounded import Bounded
from framework.comm.halo.exact import Exact
from framework.comm.halo.link import Arrival, DirectLink, Lane, Route, Step
from framework.comm.halo.overlap import Overlap
from framework.comm.halo.pipelined import Pipelined
from framework.comm.halo.quantized import Quantized
from framework.comm.halo.rematerialized import Rematerialized
from framework.comm.halo.strategy import HaloStrategy
from framework.comm.reach import Shards
from framework.comm.topology import Topology
from framework.graph.block import GraphBlock, Span
from framework.graph.store import ShardStore
from framework.models.layers import SAGEConv
from framework.models.nodes import GCN, SAGE, NodeNetwork
from framework.random import Key
from partitioners.random import Random
from partitioners.range import Range

NODES, COLUMNS, CLASSES, LAYERS, STEPS = 90, 7, 4, 3, 3


def near_graph() -> WholeGraph:
    """Nodes in a row, each with edges from the five before it and two after, some twice, some from itself."""
    target = torch.arange(NODES)
    pairs = [(target + step, target) for step in (-5, -4, -3, -2, -1, 1, 2, -2)] + [(target[::3], target[::3])]
    source, target = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    kept = (source >= 0) & (source < NODES)
    return WholeGraph(source=source[kept], target=target[kept], num_nodes=NODES)


GRAPH = near_graph()
WEIGHTS = torch.rand(len(GRAPH.source), generator=torch.Generator().manual_seed(8))
NETWORKS = {
    "sage": SAGE(hidden=6, dropout=0.3, input_dropout=0.2),
    "gcn": GCN(hidden=6, dropout=0.3),  # the first and the last layer sum what is narrower
    "gcn-wide": GCN(hidden=9, dropout=0.3),
}
CUTS = {"a part each": 0, "several parts": 2, "hashed": None}  # more parts than workers; None: most rows are needed
FEATURES = random_rows(NODES, COLUMNS, seed=2).detach().float()
FACTORS = random_rows(NODES, CLASSES, seed=4).detach()
STRATEGIES: dict[str, HaloStrategy] = {
    "exact": Exact(),
    "pipelined": Pipelined(),
    "bounded": Bounded(gap=2),
    "boundary-sampled": BoundarySampled(p=0.5),
    "quantized": Quantized(bits=8),
    "both": Quantized(bits=4, error_feedback=True, inner=Pipelined()),
}


def keys(step: int = 0) -> list[Key]:
    return [Key.root(5 + step).fold(layer) for layer in range(LAYERS)]


def built(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return NETWORKS[name].build(COLUMNS, CLASSES, LAYERS).double()


def expected(name: str, weighted: bool) -> dict[str, Tensor]:
    """The gradients of the whole graph in one block."""
    block = dataclasses.replace(GRAPH.block, edge_weights=WEIGHTS[GRAPH.csr.edges].double() if weighted else None)
    network = built(name)
    (network([dataclasses.replace(block, key=key) for key in keys()], FEATURES.double()) * FACTORS).sum().backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def learned(topology: Topology, name: str, steps: int) -> list[dict[str, list[float]]]:
    """The sums over workers of the weights' gradients, step by step."""
    x = FEATURES[topology.whole(keys())[0].sources.original].double()
    told = []
    for step in range(steps):
        topology.wire.exchange.begin(Step(epoch=step, number=0, key=Key.root(step)))
        network, blocks = built(name), topology.whole(keys(step))
        (network(blocks, x) * FACTORS[blocks[-1].targets.original]).sum().backward()
        gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        group = topology.shards.group
        told.append({name: group.all_reduce(one, "state").tolist() for name, one in gradients.items()})
    return told


def exactly(group: Group, cases: list[tuple[str, str, bool]]) -> list[dict[str, Any]]:
    """The gradients of every case (store, network), after it was asserted that rows go in spans where they should."""
    told = []
    for path, name, wanted in cases:
        topology = Topology(Shards.open(ShardStore.open(path), group, "owned"))
        first, *others = topology.whole(keys())
        assert isinstance(first, OwnedBlock)
        assert not first.spans
        in_spans = False
        for block in others:
            assert isinstance(block, OwnedBlock)
            in_spans |= bool(block.spans)
            counted = [range(span.first, span.first + span.count) for span in block.spans]
            assert not counted or [row for rows in counted for row in rows] == list(range(block.num_targets))
        assert any(group.gather_json(in_spans, "state")) or group.size == 1 or not wanted
        told.append(learned(topology, name, 1)[0])
    return told


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_gradients_are_those_of_one_block(tmp_path: Path, workers: int) -> None:
    cases, wanted = [], []
    for cut, more in CUTS.items():
        for weighted in (False, True):
            partitioner, parts = (Random(), workers) if more is None else (Range(), workers + more)
            weights = WEIGHTS if weighted else None
            folder = tmp_path / f"{cut} {weighted}"
            store = stored(GRAPH, parts, folder, partitioner=partitioner, features=FEATURES, edge_weights=weights)
            for name in ["sage"] if weighted else NETWORKS:
                cases.append((str(store.path), name, more is not None))
                wanted.append((cut, name, expected(name, weighted)))
    answers = together(workers, exactly, cases)[0] if workers > 1 else exactly(Group.alone(), cases)
    for found, (cut, name, gradients) in zip(answers, wanted, strict=True):
        for weight, gradient in gradients.items():
            torch.testing.assert_close(
                torch.tensor(found[weight], dtype=torch.float64),
                gradient,
                rtol=1e-10,
                atol=1e-12,
                msg=lambda text, at=(cut, name, weight): f"{at}: {text}",
            )


def both_ways(group: Group, path: str) -> dict[str, list[Any]]:
    """Steps of every strategy with rows sent at once, and with rows sent when they are summed."""
    told = {}
    for strategy, halo in STRATEGIES.items():
        for name in NETWORKS:
            at_once, behind = (Topology(Shards.open(ShardStore.open(path), group, "owned"), halo) for _ in range(2))
            behind.__dict__["_overlap"] = None
            assert not any(block.spans for block in behind.whole(keys()) if isinstance(block, OwnedBlock))
            told[f"{strategy}, {name}"] = [learned(topology, name, STEPS) for topology in (at_once, behind)]
    return told


def test_no_strategy_sees_the_difference(tmp_path: Path) -> None:
    path = stored(GRAPH, 4, tmp_path, partitioner=Range(), features=FEATURES).path
    told = together(3, both_ways, str(path), deadline=120.0)[0]
    for name, (at_once, behind) in told.items():
        for step in range(STEPS):
            for weight, gradient in at_once[step].items():
                torch.testing.assert_close(
                    torch.tensor(gradient, dtype=torch.float64),
                    torch.tensor(behind[step][weight], dtype=torch.float64),
                    rtol=1e-9,
                    atol=1e-11,
                    msg=lambda text, at=(name, step, weight): f"{at}: {text}",
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotedArrival:
    arrival: Arrival
    notes: list[str]
    name: str

    def wait(self) -> Tensor:
        self.notes.append(f"{self.name} came")
        return self.arrival.wait()


class NotedLink(DirectLink):
    """Says when rows are sent and when they are waited for."""

    def __init__(self, group: Group, notes: list[str]) -> None:
        super().__init__(group)
        self.notes = notes

    def send(self, rows: Tensor, route: Route, lane: Lane) -> Arrival:
        self.notes.append(f"{lane.name} sent")
        return NotedArrival(arrival=super().send(rows, route, lane), notes=self.notes, name=lane.name)


def noted(group: Group, path: str) -> list[str]:
    """What happens in a step, in its order: messages, and rows of a span made and undone."""
    topology, notes = Topology(Shards.open(ShardStore.open(path), group, "owned")), list[str]()
    wire = Wire(plan=topology.plan, exchange=Exact().open(topology.plan, NotedLink(group, notes)))
    network, blocks = built("gcn-wide"), topology.layers(keys(), wire)
    for depth, layer in enumerate(network.layers):
        make = layer.target_rows

        def making(sums: Tensor, own: Tensor | None, at: int = depth, make: Any = make) -> Tensor:
            rows = make(sums, own)
            notes.append(f"{at}: {len(rows)} made")
            if rows.requires_grad:
                rows.register_hook(lambda _: notes.append(f"{at}: {len(rows)} undone"))
            return rows

        layer.target_rows = making
    x = FEATURES[blocks[0].sources.original].double()
    network(blocks, x).sum().backward()
    return notes


def test_the_rest_is_made_while_rows_are_under_way(tmp_path: Path) -> None:
    """The first of two workers sends the rows of five nodes before the border, of which two lack neighbours beyond it,
    and has 40 others. The last layer sums fewer columns than half of those before."""
    path = stored(GRAPH, 2, tmp_path, partitioner=Range(), features=FEATURES).path
    assert together(2, noted, str(path))[0] == [
        "0: 5 made",
        "1/forward sent",
        "0: 40 made",
        "1: 40 made",
        "1/forward came",
        "1: 5 made",
        "2/forward sent",
        "2: 40 made",
        "2/forward came",
        "2: 5 made",
        "2: 5 undone",
        "2/backward sent",
        "2: 40 undone",
        "2/backward came",
        "1: 5 undone",
        "1/backward sent",
        "1: 40 undone",
        "0: 40 undone",
        "1/backward came",
        "0: 5 undone",
    ]


def turns(group: Group, path: str) -> None:
    """Rows that come a worker at a time are sent when they are asked for."""
    topology = Topology(Shards.open(ShardStore.open(path), group, "owned"), Rematerialized())
    assert not any(block.spans for block in topology.whole(keys()) if isinstance(block, OwnedBlock))


def test_rows_by_turns_are_not_sent_at_once(tmp_path: Path) -> None:
    together(2, turns, str(stored(GRAPH, 2, tmp_path, partitioner=Range(), features=FEATURES).path))


def test_a_piece_is_what_others_need_of_a_part() -> None:
    """Of a worker with three parts, of which nobody needs the second."""
    boundary, lacking = torch.tensor([0, 2, 9]), torch.tensor([1, 9])
    plan = dataclasses.replace(tiny_plan(Group.alone()), boundary=boundary, wanted=torch.tensor([0, 9, 2]))
    overlap = Overlap.of(plan, lacking, [0, 4, 8])
    assert overlap is not None
    assert overlap.spans == (
        Span(first=0, count=3, boundary=True, remote=True),
        Span(first=3, count=1, boundary=False, remote=False),
        Span(first=4, count=4, boundary=False, remote=False),
        Span(first=8, count=2, boundary=True, remote=True),
        Span(first=10, count=2, boundary=False, remote=False),
    )
    assert overlap.plan.num_owned == 5
    assert overlap.plan.wanted.tolist() == [0, 4, 2]
    assert overlap.plan.boundary.tolist() == [0, 2, 4]
    none = torch.empty(0, dtype=torch.int64)
    assert Overlap.of(plan, torch.tensor([1, 9, 10]), [0, 4, 8]) is None  # more than half the rows in all
    assert Overlap.of(dataclasses.replace(plan, boundary=torch.tensor([3, 7, 11])), lacking, [0, 4, 8]) is None
    assert Overlap.of(dataclasses.replace(plan, boundary=none), lacking, [0, 4, 8]) is None
    assert Overlap.of(plan, none, [0, 4, 8]) is None
    for parts in (4, 5):  # a span more for each part's rest; more than eight are not worth it
        starts = list(range(0, 12 * parts, 12))
        firsts = torch.tensor(starts)
        many = dataclasses.replace(plan, num_owned=12 * parts, boundary=firsts, wanted=firsts)
        assert (Overlap.of(many, firsts, starts) is None) == (parts == 5)
    nobody = dataclasses.replace(plan, num_owned=0, boundary=none, wanted=none)
    assert Overlap.of(nobody, none, []) is None  # a worker without a part


class Louder(SAGEConv):
    """A layer of somebody's own."""

    def forward(self, block: GraphBlock, x: Tensor) -> Tensor:
        return 2 * super().forward(block, x)


class Between(NodeNetwork):
    """A network of somebody's own."""

    def forward_layer(self, depth: int, block: GraphBlock, x: Tensor) -> Tensor:
        return super().forward_layer(depth, block, x).abs()


def of_somebody(group: Group, path: str) -> list[bool]:
    """Whether rows could go in spans: for four networks that are not ours alone, and one that is. All give what their
    layers give, one by one."""
    topology, told = Topology(Shards.open(ShardStore.open(path), group, "owned")), []
    settings: dict[str, Any] = {"input_dropout": 0.0, "dropout": 0.0, "elu": False}
    layers = [SAGEConv(COLUMNS, 6), SAGEConv(6, CLASSES)]
    hooked = [SAGEConv(COLUMNS, 6), SAGEConv(6, CLASSES)]
    hooked[1].neighbors.register_forward_hook(lambda *_: None)
    undone = [SAGEConv(COLUMNS, 6), SAGEConv(6, CLASSES)]
    undone[0].register_full_backward_hook(lambda *_: None)
    networks = [
        NodeNetwork([Louder(COLUMNS, 6), SAGEConv(6, CLASSES)], **settings),
        Between(layers, **settings),
        NodeNetwork(hooked, **settings),
        NodeNetwork(undone, **settings),
        NodeNetwork(layers, **settings),
    ]
    for network in networks:
        notes: list[str] = []
        wire = Wire(plan=topology.plan, exchange=Exact().open(topology.plan, NotedLink(group, notes)))
        blocks = topology.layers(keys()[:2], wire)
        x = FEATURES[blocks[0].sources.original].double()
        made = network.double()(blocks, x)
        by_layer = x
        for depth, block in enumerate(topology.layers(keys()[:2], wire)):
            by_layer = network.forward_layer(depth, block, by_layer)
        torch.testing.assert_close(made, by_layer, rtol=1e-10, atol=1e-12)
        told.append(any(block.spans for block in blocks if isinstance(block, OwnedBlock)))
    return told


def test_what_is_not_ours_alone_is_called_layer_by_layer(tmp_path: Path) -> None:
    path = stored(GRAPH, 2, tmp_path, partitioner=Range(), features=FEATURES).path
    assert all(together(2, of_somebody, str(path))[0])  # the second worker's rows all lack neighbours, or are few

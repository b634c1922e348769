"""Networks of graph layers: what a key decides, what it does not, and that layers run one by one give the same."""

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn
from whole_graph import WholeGraph, random_graph, random_rows

from framework.errors import InputError
from framework.graph.block import Block
from framework.models.node_model import LayerwiseNetwork, NodeModel
from framework.models.nodes import GAT, GCN, SAGE
from framework.random import Key
from framework.registry import MODELS
from framework.sample.neighbor import Neighbor

COLUMNS, CLASSES, DEPTH = 6, 4, 3
NETWORKS: dict[str, NodeModel] = {
    "sage": SAGE(hidden=8, dropout=0.5, input_dropout=0.2),
    "gcn": GCN(hidden=8, dropout=0.5, input_dropout=0.2),
    "gat": GAT(hidden=4, heads=2, output_heads=3, dropout=0.5, input_dropout=0.2, attention_dropout=0.3),
}
every_network = pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())


def built(model: NodeModel) -> nn.Module:
    torch.manual_seed(0)
    return model.build(COLUMNS, CLASSES, DEPTH).double()


def keyed(block: Block) -> list[Block]:
    """One layer's block as `DEPTH` of them, each with a key of its own."""
    return [dataclasses.replace(block, key=Key.root(5).fold(depth)) for depth in range(DEPTH)]


def permuted(graph: WholeGraph, order: Tensor) -> Block:
    """The whole graph as one layer whose nodes stand in another order."""
    block = graph.block
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    counts = block.indptr.diff()[order]
    rows = [place[block.indices[block.indptr[node] : block.indptr[node + 1]].long()] for node in order.tolist()]
    return dataclasses.replace(
        block,
        sources=block.sources[order],
        indptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        indices=torch.cat(rows).to(torch.int32),
    )


@every_network
def test_the_order_of_nodes_does_not_show_in_their_rows(model: NodeModel) -> None:
    """Dropout included: it is keyed by a node's original id, not by its place."""
    graph, network = random_graph(40, 250, isolated=3), built(model)
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(3))
    straight = network(keyed(graph.block), x)
    crossed = network(keyed(permuted(graph, order)), x[order])
    torch.testing.assert_close(crossed, straight[order], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(straight, network([graph.block] * DEPTH, x))  # and there was dropout


@every_network
def test_evaluation_draws_nothing(model: NodeModel) -> None:
    graph, network = random_graph(40, 250), built(model)
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    without = network([graph.block] * DEPTH, x)
    assert torch.equal(network.eval()(keyed(graph.block), x), without)


@every_network
def test_layers_one_by_one_are_the_network(model: NodeModel) -> None:
    graph, network = random_graph(40, 250), built(model)
    assert isinstance(network, LayerwiseNetwork)
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    blocks = Neighbor(fanouts=(-1,) * DEPTH).sample(graph, graph.nodes[torch.tensor([5, 2, 30])], Key.root(0))
    rows = x[blocks[0].sources.ids]
    expected = network(blocks, rows)
    for depth, block in enumerate(blocks):
        rows = network.forward_layer(depth, block, rows)
    assert torch.equal(rows, expected)


def test_a_network_of_ones_own_is_found_by_name() -> None:
    network = MODELS.get("module")(network="torch.nn:Bilinear").build(3, 4, 5)
    assert isinstance(network, nn.Bilinear)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (SAGE, {"hidden": 0}, "--model.hidden is 0; expected a whole number of at least 1."),
        (GCN, {"hidden": -3}, "--model.hidden is -3"),
        (GAT, {"output_heads": 0}, "--model.output-heads is 0"),
        (SAGE, {"dropout": 1.0}, "--model.dropout is 1.0; expected at least 0 and less than 1."),
        (GCN, {"input_dropout": -0.1}, "--model.input-dropout is -0.1"),
        (GAT, {"attention_dropout": float("nan")}, "--model.attention-dropout is nan"),
    ],
)
def test_settings_without_a_meaning_are_refused(model: type, settings: dict[str, float], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        model(**settings)

"""Path attention and SPAGAN's network: against GAT layers, the formula with every path held, and relabelled graphs."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from whole_graph import WholeGraph, looped_graph, random_graph, random_rows

from framework.errors import InputError
from framework.graph.block import Block, Nodes
from framework.graph.edge_costs import LEAST, edge_costs, refreshed_costs
from framework.graph.path_block import BlockPaths, PathBlock
from framework.kernels.csr import offsets, row_of_entries
from framework.kernels.paths import PathRule, find_paths, sort_rows
from framework.models.layers import GATConv
from framework.models.node_model import LayerwiseNetwork
from framework.models.spagan import SPAGAN, PathAttention, SPAGANNetwork
from framework.random import Key
from framework.sample.neighbor import Neighbor

pyg = pytest.importorskip("torch_geometric.nn", reason="PyG is the oracle: install the extra `pyg`")

COLUMNS, OUT, HEADS, CLASSES = 7, 5, 3, 4
GRAPHS = {
    "isolated nodes": random_graph(40, 200, isolated=6),
    "one node": random_graph(1, 0),
    "no edges": random_graph(5, 0),
    "dense": random_graph(12, 400),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
both_poolings = pytest.mark.parametrize("pooling", ["mean", "max"])


def edges_as_paths(block: Block) -> tuple[Tensor, Tensor]:
    """Every edge and every node's path to itself: the paths of two nodes where all edges are of depth 1."""
    looped = block.with_self_loops
    return looped.indptr, looped.indices.view(-1, 1)


def walks(graph: WholeGraph, steps: int, each: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Some walks of `steps` edges from every centre that has them, and its path to itself."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for centre in range(graph.num_nodes):
        found = {(centre,) * steps}
        for _ in range(each):
            walk: list[int] = []
            while len(walk) < steps:
                node = walk[-1] if walk else centre
                neighbors = graph.csr.indices[graph.csr.indptr[node] : graph.csr.indptr[node + 1]]
                if len(neighbors) == 0:
                    break
                walk.append(int(neighbors[torch.randint(len(neighbors), (), generator=generator)]))
            if len(walk) == steps:
                found.add(tuple(walk))
        rows.append(sorted(found))
    nodes = torch.tensor([path for row in rows for path in row], dtype=torch.int32).view(-1, steps)
    return offsets(torch.tensor([len(row) for row in rows])), nodes


def path_block(graph: WholeGraph, longest: int, key: Key | None = None) -> PathBlock:
    tables = [edges_as_paths(graph.block), *(walks(graph, length - 1) for length in range(3, longest + 1))]
    return PathBlock.of(graph.nodes, tables, key)


def layer_of(longest: int, *, join: bool = True, pooling="mean", dropout: float = 0.0) -> PathAttention:
    torch.manual_seed(0)
    return PathAttention(
        COLUMNS, OUT, longest=longest, heads=HEADS, join=join, pooling=pooling, attention_dropout=dropout
    ).double()


def as_gat(layer: PathAttention) -> GATConv:
    """Graph attention with the weights of a layer of edges alone."""
    gat = GATConv(
        COLUMNS, OUT, heads=HEADS, join=layer.join, slope=layer.slope, bias_of_values=True,
        attention_dropout=layer.attention_dropout,
    ).double()  # fmt: skip
    gat.linear = layer.linear
    gat.source_attention.data = layer.path_attention.data[0]
    gat.target_attention.data = layer.centre_attention.data[0]
    return gat


def naive(layer: PathAttention, x: Tensor, paths: tuple[BlockPaths, ...]) -> Tensor:
    """The formula as it is written, with every path's row and its concatenation with the centre's held."""
    z = layer.linear(x).view(-1, HEADS, OUT)
    reached = []
    for number, table in enumerate(paths):
        steps = z[table.nodes.long()]
        pooled = steps.mean(1) if layer.pooling == "mean" else steps.amax(1)
        vector = torch.cat([layer.path_attention[number], layer.centre_attention[number]], dim=1)
        scores = nn.functional.leaky_relu((torch.cat([pooled, z[table.centres]], dim=2) * vector).sum(2), 0.2)
        rows = []
        for centre in range(table.num_centres):
            mine = slice(int(table.offsets[centre]), int(table.offsets[centre + 1]))
            rows.append((scores[mine].softmax(0)[:, :, None] * pooled[mine]).sum(0))
        reached.append(torch.stack(rows))
    lengths = torch.stack(reached)
    if layer.length_attention is not None:
        own = z[: paths[0].num_centres].expand_as(lengths)
        both = torch.cat([lengths, own], dim=3) * torch.cat([*layer.length_attention], dim=1)
        lengths = nn.functional.leaky_relu(both.sum(3), 0.2).softmax(0)[:, :, :, None] * lengths
    out = lengths.sum(0)
    return out.flatten(1) if layer.join else out.mean(1)


@every_graph
@both_poolings
@pytest.mark.parametrize("join", [True, False])
def test_of_edges_alone_it_is_a_gat_layer(graph: WholeGraph, pooling, join: bool) -> None:
    """Ours and PyG's, with the same weights; gradients too."""
    layer = layer_of(2, join=join, pooling=pooling)
    x = random_rows(graph.num_nodes, COLUMNS)
    out = layer(x, path_block(graph, 2).paths)
    torch.testing.assert_close(out, as_gat(layer)(graph.block, x), rtol=1e-10, atol=1e-12)
    theirs = pyg.GATConv(COLUMNS, OUT, heads=HEADS, concat=join, bias=False).double()
    theirs.lin = layer.linear
    theirs.att_src.data, theirs.att_dst.data = layer.path_attention.data, layer.centre_attention.data
    expected = theirs(x, graph.edge_index)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    slope = torch.randn_like(out)
    inputs = (x, layer.linear.weight, layer.linear.bias)
    found, wanted = (torch.autograd.grad(rows, inputs, slope) for rows in (out, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_of_edges_alone_it_drops_what_a_gat_layer_drops() -> None:
    graph, key = random_graph(40, 300), Key.root(4)
    layer = layer_of(2, dropout=0.5)
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    found = layer(x, path_block(graph, 2).paths, key)
    expected = as_gat(layer)(dataclasses.replace(graph.block, key=key), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, layer(x, path_block(graph, 2).paths))


@every_graph
@both_poolings
@pytest.mark.parametrize(("longest", "join"), [(2, True), (3, True), (3, False), (5, True)])
def test_it_is_the_formula(graph: WholeGraph, pooling, longest: int, join: bool) -> None:
    layer, paths = layer_of(longest, join=join, pooling=pooling), path_block(graph, longest).paths
    x = random_rows(graph.num_nodes, COLUMNS)
    out, expected = layer(x, paths), naive(layer, x, paths)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    slope, inputs = torch.randn_like(out), (x, *layer.parameters())
    found, wanted = (torch.autograd.grad(rows, inputs, slope) for rows in (out, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@both_poolings
def test_gradients_pass_gradcheck(pooling) -> None:
    graph = random_graph(6, 14, isolated=1)
    layer, paths = layer_of(3, pooling=pooling), path_block(graph, 3).paths
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, paths))

    inputs = (random_rows(6, COLUMNS), *(weight.detach().clone().requires_grad_() for weight in layer.parameters()))
    assert torch.autograd.gradcheck(call, inputs)


@every_graph
@both_poolings
def test_attention_sums_to_one_for_each_centre_and_length(graph: WholeGraph, pooling) -> None:
    layer, paths = layer_of(4, pooling=pooling), path_block(graph, 4).paths
    for table, weights in zip(paths, layer.attention(random_rows(graph.num_nodes, COLUMNS), paths), strict=True):
        assert weights.shape == (len(table.nodes), HEADS)
        sums = weights.new_zeros(graph.num_nodes, HEADS).index_add(0, table.centres, weights)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=1e-12)


def test_a_centre_without_neighbours_has_its_own_row() -> None:
    """Its one path stays where it is, so every length reaches z of the node itself."""
    graph = random_graph(40, 200, isolated=6)
    layer, paths = layer_of(4), path_block(graph, 4).paths
    x = random_rows(graph.num_nodes, COLUMNS)
    out = layer(x, paths)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out[-6:], layer.linear(x)[-6:], rtol=1e-12, atol=1e-12)
    out.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def relabelled(block: PathBlock, order: Tensor, centres: int) -> PathBlock:
    """The block with its nodes in another order, of which the first some are its centres; original ids go along."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    tables = []
    for table in block.paths:
        rows = [table.nodes[table.offsets[node] : table.offsets[node + 1]].flip(0) for node in order[:centres].tolist()]
        counts = torch.tensor([len(row) for row in rows])
        tables.append((offsets(counts), place[torch.cat(rows).long()]))
    return PathBlock.of(block.sources[order], tables, block.key)


@both_poolings
@pytest.mark.parametrize("centres", [40, 7])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_neither_order_nor_company_of_centres_and_paths_shows(pooling, centres: int, dropout: float) -> None:
    """Dropout included: it is keyed by the original ids of a centre and of its path's nodes."""
    graph = random_graph(40, 200, isolated=6)
    block = path_block(graph, 3, Key.root(9))
    layer, x = layer_of(3, pooling=pooling, dropout=dropout), random_rows(graph.num_nodes, COLUMNS).detach()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    straight = layer(x, block.paths, block.key)
    crossed = layer(x[order], relabelled(block, order, centres).paths, block.key)
    torch.testing.assert_close(crossed, straight[order[:centres]], rtol=1e-11, atol=1e-12)
    assert torch.equal(straight, layer(x, block.paths)) == (dropout == 0)
    assert torch.equal(layer.eval()(x, block.paths, block.key), layer(x, block.paths))


def test_paths_draw_for_themselves() -> None:
    """Two paths to one end over different nodes, and one path in two lengths' tables, are dropped apart."""
    nodes = Nodes(ids=torch.arange(50), original=torch.arange(50), degree=torch.ones(50, dtype=torch.int64))
    ways = torch.tensor([[via, 49] for via in range(1, 49)], dtype=torch.int32)
    pointers = torch.tensor([0, len(ways)])
    two, one = (BlockPaths(offsets=pointers, nodes=rows, original=nodes.original) for rows in (ways, ways[:, 1:]))
    like = torch.empty(0, dtype=torch.float64)
    by_two, by_one = (table.dropped(Key.root(0), 16, 0.5, like) for table in (two, one))
    assert by_two is not None
    assert by_one is not None
    assert len(by_two.unique(dim=0)) == len(ways)
    assert len(by_one.unique(dim=0)) == 1
    assert 0.4 < float((by_two == 0).double().mean()) < 0.6


def test_tables_that_do_not_fit_are_refused() -> None:
    graph = random_graph(40, 200)
    layer, block = layer_of(3), path_block(graph, 3)
    x = random_rows(40, COLUMNS)
    with pytest.raises(InputError, match=re.escape("paths are of [2] nodes; expected a table for each of [2, 3].")):
        layer(x, block.paths[:1])
    with pytest.raises(InputError, match="x has 39 rows; expected one for each of 40 sources"):
        layer(x[1:], block.paths)
    with pytest.raises(InputError, match=re.escape("the tables have paths of [2] steps")):
        PathBlock(sources=block.sources, paths=block.paths[1:])
    with pytest.raises(InputError, match="longest is 6; expected 2 to 5"):
        PathAttention(COLUMNS, OUT, longest=6)
    with pytest.raises(InputError, match="pooling is 'sum'"):
        PathAttention(COLUMNS, OUT, pooling="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pointers", "nodes", "said"),
    [
        ([0, 1, 2], [[1], [4]], "nodes holds 4; expected ids from 0 to 2"),
        ([0, 1, 2], [[1], [-1]], "nodes holds -1; expected ids from 0 to 2"),
        ([0, 1, 5], [[1], [2]], "indptr runs from 0 to 5; expected 0 to the number of edges, 2"),
        ([0, 2, 1, 2], [[1], [2]], "indptr falls from 2 to 1 at row 1"),
    ],
)
def test_paths_over_what_is_not_there_are_refused(pointers: list[int], nodes: list[list[int]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BlockPaths(
            offsets=torch.tensor(pointers), nodes=torch.tensor(nodes, dtype=torch.int32), original=torch.arange(3)
        )


class Classifier(nn.Module):
    """A model of PyG's with path attention in it."""

    def __init__(self, paths: tuple[BlockPaths, ...]) -> None:
        super().__init__()
        self.paths = paths
        self.first = PathAttention(COLUMNS, 8, heads=4, attention_dropout=0.3)
        self.second = pyg.GATConv(32, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor, key: Key) -> Tensor:
        out: Tensor = self.second(nn.functional.elu(self.first(x, self.paths, key)), edge_index)
        return out


def test_a_model_of_pyg_trains_with_it() -> None:
    graph = random_graph(60, 300)
    torch.manual_seed(0)
    model, x = Classifier(path_block(graph, 3).paths), random_rows(60, COLUMNS).detach().float()
    labels, optimizer = torch.arange(60) % CLASSES, torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x, graph.edge_index, Key.root(0).fold(step)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def network_of(**settings) -> SPAGANNetwork:
    torch.manual_seed(0)
    network = SPAGAN(hidden=4, heads=2, **settings).build(COLUMNS, CLASSES, 2).double()
    assert isinstance(network, SPAGANNetwork)
    return network


def blocks_of(graph: WholeGraph, longest: int) -> dict[int, list[Block | PathBlock]]:
    """Both stages' blocks with keys."""
    keys = [Key.root(5).fold(depth) for depth in range(2)]
    last = dataclasses.replace(graph.block, key=keys[1])
    return {1: [dataclasses.replace(graph.block, key=keys[0]), last], 2: [path_block(graph, longest, keys[0]), last]}


@pytest.mark.parametrize("graph", [random_graph(40, 250, isolated=3), looped_graph(40, 200)], ids=["plain", "looped"])
@pytest.mark.parametrize("output_elu", [False, True])
def test_with_edges_alone_and_one_stage_s_weights_both_stages_are_one(graph: WholeGraph, output_elu: bool) -> None:
    """Dropout of rows and attention included."""
    network, blocks = network_of(longest=2, output_elu=output_elu), blocks_of(graph, 2)
    (first, last), (by_paths, last_by_paths) = network.edge_layers, network.path_layers
    by_paths.linear.load_state_dict(first.linear.state_dict())
    by_paths.path_attention.data[0] = first.source_attention.data
    by_paths.centre_attention.data[0] = first.target_attention.data
    last_by_paths.load_state_dict(last.state_dict())
    x = random_rows(graph.num_nodes, COLUMNS).detach()
    scores = network(blocks[1], x)
    network.stage = 2
    torch.testing.assert_close(network(blocks[2], x), scores, rtol=1e-10, atol=1e-12)
    assert bool((scores > -1).all()) or not output_elu


def test_only_the_stage_that_runs_learns_and_adam_goes_on() -> None:
    graph = random_graph(40, 250)
    network, blocks = network_of(), blocks_of(graph, 3)
    x, labels = random_rows(40, COLUMNS).detach(), torch.arange(40) % CLASSES
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.01)
    steps = {}
    for stage in (1, 2, 1):
        before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        network.stage = stage
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(blocks[stage], x), labels).backward()
        optimizer.step()
        moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
        steps[stage] = {name.partition(".")[0] for name in moved}
        assert len(moved) == len(list((network.edge_layers if stage == 1 else network.path_layers).parameters()))
    assert steps == {1: {"edge_layers"}, 2: {"path_layers"}}
    counts = {name: int(optimizer.state[weight]["step"]) for name, weight in network.named_parameters()}
    assert {name.partition(".")[0]: count for name, count in counts.items()} == {"edge_layers": 2, "path_layers": 1}


@pytest.mark.parametrize("stage", [1, 2])
def test_layers_one_by_one_are_the_network(stage: int) -> None:
    graph, network = random_graph(40, 250), network_of(longest=4)
    assert isinstance(network, LayerwiseNetwork)
    network.stage, blocks = stage, blocks_of(graph, 4)[stage]
    x = random_rows(40, COLUMNS).detach()
    expected = network(blocks, x)
    for depth, block in enumerate(blocks):
        x = network.forward_layer(depth, block, x)
    assert torch.equal(x, expected)


def test_seeds_with_all_their_paths_are_rows_of_the_whole_graph() -> None:
    """In training too: what is dropped depends on the key and on original ids."""
    graph, network = random_graph(60, 200, isolated=3), network_of()
    network.stage, (first, last) = 2, blocks_of(graph, 3)[2]
    assert isinstance(first, PathBlock)
    x, seeds = random_rows(60, COLUMNS).detach(), torch.tensor([3, 59, 17, 0])
    (drawn,) = Neighbor(fanouts=(-1,)).sample(graph, graph.nodes[seeds], Key.root(0))
    drawn = dataclasses.replace(drawn, key=last.key)
    others = torch.tensor([node for node in range(60) if node not in drawn.sources.ids])
    order = torch.cat([drawn.sources.ids, others])
    around = relabelled(first, order, len(drawn.sources))
    assert around.num_targets < 40
    found, expected = network([around, drawn], x[order]), network([first, last], x)[seeds]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_stages_follow_each_other() -> None:
    """Attention makes costs, costs make paths, attention over these makes the next costs."""
    graph, network = random_graph(60, 300), network_of(dropout=0.2, attention_dropout=0.2)
    x, labels = random_rows(60, COLUMNS).detach(), torch.arange(60) % CLASSES
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)

    def learn(stage: int, first: Block | PathBlock) -> list[float]:
        network.stage, losses = stage, []
        for step in range(30):
            keys = [Key.root(stage).fold(step, depth) for depth in range(2)]
            blocks = [
                dataclasses.replace(block, key=key) for block, key in zip((first, graph.block), keys, strict=True)
            ]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(blocks, x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def searched(costs: Tensor) -> PathBlock:
        rows = sort_rows(graph.csr.indptr, graph.csr.indices, costs)
        found = find_paths(rows, torch.arange(60).numpy(), PathRule(longest=3))
        return PathBlock.of(graph.nodes, [(paths.offsets, paths.nodes) for paths in found.lengths])

    by_edges = learn(1, graph.block)
    costs = edge_costs(network.edge_attention(graph.block, x), graph.csr.indptr, graph.csr.indices)
    costs = costs**8  # less alike, so that some detours pay
    block = searched(costs)
    by_paths = learn(2, block)
    assert by_edges[-1] < 0.9 * by_edges[0]
    assert by_paths[-1] < 0.9 * by_paths[0]

    weights = network.path_attention(block, x)
    refreshed = refreshed_costs(costs, graph.csr.indptr, graph.csr.indices, block.paths[0], weights)
    ends = torch.stack([block.paths[0].centres, block.paths[0].nodes[:, 0]], dim=1).tolist()
    by_path = {tuple(pair): float(weight) for pair, weight in zip(ends, weights, strict=True) if pair[0] != pair[1]}
    edges = list(zip(row_of_entries(graph.csr.indptr, len(costs)).tolist(), graph.csr.indices.tolist(), strict=True))
    assert 0 < sum(edge not in by_path for edge in edges) < len(edges) / 2
    for edge, cost, before in zip(edges, refreshed.tolist(), costs.tolist(), strict=True):
        expected = max(1 - by_path[edge] / max(by_path.values()), LEAST) if edge in by_path else before
        assert cost == pytest.approx(expected, rel=1e-9)
    searched(refreshed)


def test_a_stage_refuses_the_other_s_blocks() -> None:
    graph, network = random_graph(40, 250), network_of()
    blocks, x = blocks_of(graph, 3), random_rows(40, COLUMNS).detach()
    with pytest.raises(InputError, match="layer 0 was given a PathBlock in stage 1; expected a GraphBlock"):
        network(blocks[2], x)
    network.stage = 2
    with pytest.raises(InputError, match="layer 0 was given a Block in stage 2; expected a PathBlock"):
        network(blocks[1], x)


@pytest.mark.parametrize("graph", [random_graph(40, 250, isolated=3), looped_graph(40, 200)], ids=["plain", "looped"])
def test_edge_attention_is_pygs(graph: WholeGraph) -> None:
    network, x = network_of(), random_rows(graph.num_nodes, COLUMNS).detach()
    first = network.edge_layers[0]
    theirs = pyg.GATConv(COLUMNS, 4, heads=2, bias=False).double()
    theirs.lin = first.linear
    theirs.att_src.data, theirs.att_dst.data = first.source_attention.data[None], first.target_attention.data[None]
    _, (ends, weights) = theirs(x, graph.edge_index, return_attention_weights=True)
    between = ends[0] != ends[1]
    expected = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    expected.index_put_((ends[1, between], ends[0, between]), weights.mean(1).detach()[between], accumulate=True)
    edges = graph.block.without_self_loops
    rows = torch.repeat_interleave(torch.arange(graph.num_nodes), edges.indptr.diff())
    found = torch.zeros_like(expected)
    found.index_put_((rows, edges.indices.long()), network.edge_attention(graph.block, x), accumulate=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_path_attention_of_edges_is_the_mean_over_heads() -> None:
    graph, network = random_graph(40, 250), network_of()
    block, x = path_block(graph, 3), random_rows(40, COLUMNS).detach()
    found = network.path_attention(block, x)
    first = network.path_layers[0]
    assert torch.equal(found, first.attention(x, block.paths)[0].mean(1))
    assert len(found) == len(block.paths[0].nodes)


def test_first_weights_have_the_spread_of_one_head() -> None:
    """Glorot and Bengio's normal, gain 1.414, for a head of [columns, out], a bias [1, out], a vector [1, 2 out]."""
    torch.manual_seed(0)
    network = SPAGAN(hidden=32, heads=64, output_heads=8, longest=5).build(200, 40, 2)
    assert isinstance(network, SPAGANNetwork)
    for layers in (network.edge_layers, network.path_layers):
        first, last = layers
        for linear, columns, out in ((first.linear, 200, 32), (last.linear, 2048, 40)):
            assert float(linear.weight.detach().std()) == pytest.approx(1.414 * (2 / (columns + out)) ** 0.5, rel=0.02)
            assert float(linear.bias.detach().std()) == pytest.approx(1.414 * (2 / (1 + out)) ** 0.5, rel=0.15)
        assert float(last.target_attention.detach().std()) == pytest.approx(1.414 * (2 / 81) ** 0.5, rel=0.15)
    assert float(network.path_layers[0].path_attention.detach().std()) == pytest.approx(
        1.414 * (2 / 65) ** 0.5, rel=0.05
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hidden": 0}, "--model.hidden is 0; expected a whole number of at least 1."),
        ({"dropout": 1.0}, "--model.dropout is 1.0; expected at least 0 and less than 1."),
        ({"attention_dropout": -0.5}, "--model.attention-dropout is -0.5"),
        ({"longest": 6}, "--model.longest is 6; expected 2 to 5 nodes."),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, float], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        SPAGAN(**settings)


def test_it_has_two_layers() -> None:
    with pytest.raises(InputError, match="spagan has 2 layers, and the sampler draws for 3"):
        SPAGAN().build(COLUMNS, CLASSES, 3)


def test_the_model_of_the_guide_trains() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "attend-along-paths.md"
    (text,) = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(text, names)
    losses = names["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < 0.7 * losses[0]

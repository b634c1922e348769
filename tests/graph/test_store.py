"""The shard store: what is mapped is what was prepared, and nothing is copied."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_store import GivenOwners, by_original, expected_lists, neighbour_lists, random_edges
from scipy.sparse import coo_matrix

from framework.data.arrays import InMemory, from_arrays
from framework.errors import InputError, StoreError
from framework.graph.store import ShardStore
from framework.partition import EdgeCut
from framework.prepare import prepare
from framework.store.columns import ALIGNMENT, column_file, map_column, write_column
from partitioners.random import Random
from partitioners.range import Range

NODES, EDGES, COLUMNS = 61, 500, 5


@pytest.fixture(scope="module")
def edges() -> tuple[np.ndarray, np.ndarray]:
    return random_edges(NODES, EDGES)


@pytest.fixture(scope="module")
def dataset(edges: tuple[np.ndarray, np.ndarray]) -> InMemory:
    generator = np.random.Generator(np.random.Philox(1))
    return from_arrays(
        *edges,
        num_nodes=NODES,
        features=generator.standard_normal((NODES, COLUMNS)),
        labels=generator.integers(-1, 4, NODES),
        num_classes=4,
        split=generator.integers(0, 4, NODES),
        edge_weights=generator.random(EDGES),
    )


def opened(dataset: InMemory, partitioner: EdgeCut, parts: int, root: Path) -> ShardStore:
    return ShardStore.open(prepare(dataset, partitioner, parts, root).path)


PLACEMENTS = [
    (Random(), 1),
    (Random(), 4),
    (Random(seed=3), 7),
    (Range(), 3),
    (GivenOwners(parts_of=(1,) * NODES), 3),  # all in one part, the others empty
    (Random(), NODES + 20),  # more parts than nodes
]


@pytest.mark.parametrize(("partitioner", "parts"), PLACEMENTS)
def test_adjacency_in_original_ids_does_not_depend_on_placement(edges, dataset, tmp_path, partitioner, parts):
    store = opened(dataset, partitioner, parts, tmp_path)
    assert neighbour_lists(store) == expected_lists(NODES, *edges)
    assert (store.num_nodes, store.num_edges, store.parts) == (NODES, EDGES, parts)
    for column, given in (("labels", dataset.graph.labels), ("split", dataset.graph.split)):
        np.testing.assert_array_equal(by_original(store, column), given)
    rows = dataset.graph.features.array.astype(np.float32)
    np.testing.assert_array_equal(by_original(store, "features"), rows)


@pytest.mark.parametrize(("partitioner", "parts"), PLACEMENTS[:4])
def test_local_columns_are_the_global_matrix(edges, dataset, tmp_path, partitioner, parts):
    """A shard with global indices is its rows of the renumbered matrix; the halo is what it does not own."""
    store = opened(dataset, partitioner, parts, tmp_path)
    original = np.concatenate([store.shard(part).original.numpy() for part in range(parts)])
    number = np.empty(NODES, np.int64)
    number[original] = np.arange(NODES)
    source, target = edges
    weights = dataset.graph.edge_weights.array
    shape = (NODES, NODES)
    expected = coo_matrix((weights.astype(np.float64), (number[target], number[source])), shape=shape).toarray()
    in_degrees = np.bincount(number[target[source != target]], minlength=NODES)
    for part in range(parts):
        shard = store.shard(part)
        first, last = store.offsets[part : part + 2].tolist()
        assert (shard.part, shard.first, shard.num_owned, shard.num_nodes) == (part, first, last - first, NODES)
        columns = np.concatenate([np.arange(first, last), shard.halo.numpy()])[shard.indices.numpy()]
        rows = np.repeat(np.arange(last - first), shard.indptr.diff().numpy())
        values = shard.edge_weights.numpy().astype(np.float64)
        found = coo_matrix((values, (rows, columns)), shape=(last - first, NODES)).toarray()
        np.testing.assert_allclose(found, expected[first:last], rtol=1e-12)
        outside = np.flatnonzero(expected[first:last].any(axis=0))
        np.testing.assert_array_equal(shard.halo, outside[(outside < first) | (outside >= last)])
        np.testing.assert_array_equal(shard.degree, in_degrees[first:last])
        np.testing.assert_array_equal(shard.halo_degree, in_degrees[shard.halo])
        np.testing.assert_array_equal(shard.halo_original, original[shard.halo])
        assert shard.indices.dtype == torch.int32


def test_nodes_of_a_part_are_contiguous_and_in_original_order(dataset, tmp_path):
    store = opened(dataset, Random(), 5, tmp_path)
    owners = Random().owners(dataset.graph.edges, 5)
    for part in range(5):
        np.testing.assert_array_equal(store.shard(part).original, np.flatnonzero(owners == part))
    ids = torch.arange(NODES)
    expected = np.repeat(np.arange(5), np.bincount(owners, minlength=5))
    np.testing.assert_array_equal(store.owner_of(ids), expected)


def test_owner_of_skips_empty_parts(dataset, tmp_path):
    owners = np.full(NODES, 3)
    owners[:10] = 1
    store = opened(dataset, GivenOwners(parts_of=tuple(owners.tolist())), 5, tmp_path)
    assert store.owner_of(torch.tensor([0, 9, 10, NODES - 1])).tolist() == [1, 1, 3, 3]
    assert [counts.nodes for counts in store.counts] == [0, 10, 0, NODES - 10, 0]


def test_duplicate_edges_keep_the_order_of_the_input(tmp_path):
    dataset = from_arrays([2, 1, 2, 2], [0, 0, 0, 0], num_nodes=3, edge_weights=[1.0, 2.0, 3.0, 4.0])
    shard = opened(dataset, Random(), 1, tmp_path).shard(0)
    assert shard.indices.tolist() == [1, 2, 2, 2]
    assert shard.edge_weights.tolist() == [2.0, 1.0, 3.0, 4.0]


def test_tensors_lie_in_the_mapped_files(dataset, tmp_path):
    """Every tensor begins inside a mapping of its own file, at a multiple of 64 bytes."""
    store = opened(dataset, Random(), 2, tmp_path)
    shard = store.shard(1)
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for name in set(store.columns) - {"ids"}:
        tensor = getattr(shard, name)
        file = str(column_file(store.path, 1, name))
        ranges = [mapping[0].split("-") for mapping in mappings if mapping[-1] == file]
        assert any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in ranges), name
        assert tensor.data_ptr() % ALIGNMENT == 0, name


def test_a_column_with_a_bit_flipped_is_read_or_named(tmp_path):
    """Lengths, types and offsets are in the file's header: with some of them, Arrow would end the process."""
    whole, altered = tmp_path / "whole.arrow", tmp_path / "altered.arrow"
    write_column(whole, np.arange(51, dtype=np.float32).reshape(17, 3))
    content, readable = bytearray(whole.read_bytes()), 0
    bits = range(2, 8 * len(content), 3)
    for bit in bits:
        content[bit >> 3] ^= 1 << (bit & 7)
        altered.write_bytes(content)
        content[bit >> 3] ^= 1 << (bit & 7)
        with contextlib.suppress(StoreError):  # and no other error
            map_column(altered)
            readable += 1
    assert len(bits) / 2 < readable < len(bits)


def test_tensors_outlive_the_store(dataset, tmp_path):
    features = opened(dataset, Random(), 1, tmp_path).shard(0).features
    expected = dataset.graph.features.array.astype(np.float32)
    np.testing.assert_array_equal(features, expected)


def test_columns_that_the_graph_lacks_are_none(tmp_path):
    store = opened(from_arrays([0], [1]), Random(), 2, tmp_path)
    shard = store.shard(0)
    assert shard.labels is shard.split is shard.features is shard.edge_weights is None
    assert (store.num_features, store.num_classes) == (0, 0)


def test_raw_ids_are_text_numbers_or_the_original_ids(tmp_path):
    text = opened(from_arrays([0], [1], ids=["b", "a"]), Random(), 1, tmp_path)
    assert text.raw_ids(0).to_pylist() == ["b", "a"]
    numbers = opened(from_arrays([0], [1], ids=[2**40, -5]), Random(), 1, tmp_path)
    assert numbers.raw_ids(0).to_pylist() == [2**40, -5]
    assert opened(from_arrays([0], [1]), Random(), 1, tmp_path).raw_ids(0).to_pylist() == [0, 1]


def test_manifest_round_trip(dataset, tmp_path):
    prepared = prepare(dataset, Random(seed=2), 3, tmp_path)
    store = ShardStore.open(prepared.path)
    store.verify()
    assert store.digest == prepared.digest
    assert store.data_digest == dataset.fingerprint()
    assert store.partitioner == {"plugin": "partitioner:random", "seed": 2}
    assert store.quality["cut_ratio"] > 0.5
    assert (store.num_features, store.num_classes) == (COLUMNS, 4)
    assert sum(counts.edges for counts in store.counts) == EDGES


def test_no_such_part(dataset, tmp_path):
    with pytest.raises(InputError, match="no part 3; expected 0 to 2"):
        opened(dataset, Random(), 3, tmp_path).shard(3)


@pytest.mark.parametrize(("partitioner", "parts"), PLACEMENTS)
def test_nodes_that_other_parts_need_come_first(dataset, tmp_path, partitioner, parts):
    """Both those and the others by original id, and every column with them."""
    store = opened(dataset, partitioner, parts, tmp_path)
    shards = [store.shard(part) for part in range(parts)]
    features = torch.cat([torch.from_numpy(batch) for batch in dataset.open().features.batches()]).float()
    needed = torch.cat([shard.halo_original for shard in shards]).unique()
    for shard in shards:
        assert shard.original.tolist() == sorted(shard.original.tolist(), key=lambda node: (node not in needed, node))
        assert torch.equal(shard.features, features[shard.original])

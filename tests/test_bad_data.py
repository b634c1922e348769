"""Input that cannot be used: one line each, naming the thing and what would do, and exit code 2."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from scipy.sparse import csr_matrix, save_npz

from framework.data.arrays import from_arrays, from_pyg, from_scipy
from framework.data.dataset import ArrayRows, RawGraph
from framework.data.files import Files
from framework.data.npz import Npz, Scipy
from framework.engine.checkpoint import FORMAT, DamagedError, parse_index
from framework.engine.run import Run
from framework.errors import InputError, StoreError
from framework.graph.edges import ArrayEdges
from framework.graph.pairs import PairFiles, WeightFiles, append_pairs, append_scratch
from framework.graph.store import VERSION, ShardStore
from framework.models.nodes import SAGE
from framework.prepare import prepare
from framework.store.columns import column_file
from framework.store.manifest import MANIFEST
from framework.workloads.nodes import NodeClassification
from launch.start import start
from partitioners.random import Random


def said(call: Callable[[], object], kind: type[InputError] = InputError) -> str:
    """The message of the error that `call` raises: one line, exit code 2."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


# --- a store that was damaged ---


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of a whole store of two parts."""
    source, target = np.random.Generator(np.random.Philox(0)).integers(0, 40, (2, 200))
    features = np.arange(120.0).reshape(40, 3)
    return prepare(from_arrays(source, target, num_nodes=40, features=features), Random(), 2, tmp_path).path


def test_no_store(tmp_path):
    assert "is no shard store" in said(lambda: ShardStore.open(tmp_path / "nowhere"), StoreError)


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_torn_manifest(store, kept):
    manifest = store / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:kept])
    message = said(lambda: ShardStore.open(store), StoreError)
    assert str(manifest) in message
    assert "torn" in message


def test_altered_manifest(store):
    manifest = store / MANIFEST
    manifest.write_text(manifest.read_text().replace('"num_nodes": 40', '"num_nodes": 41'))
    assert "its checksum is not that of its content" in said(lambda: ShardStore.open(store), StoreError)


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_newer_manifest(store, version):
    manifest = store / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": version}))
    message = said(lambda: ShardStore.open(store), StoreError)
    assert f"format version {version}; this program reads up to {VERSION}. Update shardyard" in message


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', '{"format": "shardyard-store", "version": "x"}'])
def test_manifest_of_something_else(store, content):
    (store / MANIFEST).write_text(content)
    assert str(store / MANIFEST) in said(lambda: ShardStore.open(store), StoreError)


def test_missing_file(store):
    victim = column_file(store, 1, "indices")
    victim.unlink()
    assert f"'{victim}' is missing" in said(lambda: ShardStore.open(store), StoreError)


@pytest.mark.parametrize("lost", [1, 64, 300])
def test_truncated_arrow_file(store, lost):
    """Seen at open; and where a process has opened the store already, at the mapping."""
    victim = column_file(store, 1, "indices")
    opened = ShardStore.open(store)
    victim.write_bytes(victim.read_bytes()[:-lost])
    message = said(lambda: ShardStore.open(store), StoreError)
    assert f"'{victim}' has" in message
    assert "prepare it again" in message
    assert f"'{victim}' cannot be read" in said(lambda: opened.shard(1), StoreError)


def test_flipped_byte(store):
    """Any byte of any file: verify names the file."""
    for victim in sorted(store.glob("part-*/*.arrow")):
        whole = victim.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            victim.write_bytes(damaged)
            assert f"'{victim}' was altered" in said(ShardStore.open(store).verify, StoreError)
        victim.write_bytes(whole)
    ShardStore.open(store).verify()


def test_file_of_another_store(store, tmp_path):
    """A whole Arrow file with another number of rows, where the store was open already: found at the mapping."""
    opened = ShardStore.open(store)
    victim = column_file(store, 0, "features")
    victim.write_bytes(column_file(store, 1, "features").read_bytes())
    assert "the manifest says" in said(lambda: opened.shard(0), StoreError)


# --- a raw graph that makes no sense ---


def prepared_from(raw: RawGraph, root: Path) -> Callable[[], object]:
    @dataclasses.dataclass(frozen=True)
    class Given:
        def fingerprint(self) -> str:
            return "given"

        def open(self) -> RawGraph:
            return raw

    return lambda: prepare(Given(), Random(), 2, root)


def path_of(*nodes: int, num_nodes: int = 4) -> ArrayEdges:
    return ArrayEdges(source=np.asarray(nodes[:-1]), target=np.asarray(nodes[1:]), num_nodes=num_nodes)


def test_zero_nodes(tmp_path):
    message = said(lambda: prepare(from_arrays([], [], num_nodes=0), Random(), 2, tmp_path))
    assert message == "the graph has no nodes; expected at least one."


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_feature_that_is_not_finite(tmp_path, bad):
    rows = np.zeros((4, 3))
    rows[2, 1] = bad
    features = ArrayRows(array=rows, batch_size=1)
    raw = RawGraph(edges=path_of(0, 1), features=features, ids=np.asarray(["a", "b", "c", "d"]))
    assert "feature column 1 of node c is" in said(prepared_from(raw, tmp_path))


@pytest.mark.parametrize(("label", "classes"), [(5, 5), (-2, 5), (0, 0)])
def test_label_out_of_range(tmp_path, label, classes):
    raw = RawGraph(edges=path_of(0, 1), labels=np.asarray([-1, -1, -1, label]), num_classes=classes)
    assert f"the label of node 3 is {label}; expected 0 to {classes - 1}" in said(prepared_from(raw, tmp_path))


def test_split_of_another_value(tmp_path):
    raw = RawGraph(edges=path_of(0, 1), split=np.asarray([0, 1, 9, 2], np.uint8))
    assert "the split of node 2 is 9" in said(prepared_from(raw, tmp_path))


@pytest.mark.parametrize("node", [4, -1])
def test_edge_to_a_node_outside(tmp_path, node):
    message = said(prepared_from(RawGraph(edges=path_of(0, 1, node)), tmp_path))
    assert message == f"edge 1 (1 -> {node}) names node {node}, which is unknown; expected 0 to 3."


def test_an_edge_is_named_by_its_number_before_it_stood_for_two():
    message = said(lambda: from_arrays([0, 1, 2, -1], [1, 2, 0, 1], num_nodes=3, undirected=True))
    assert message == "edge 3 (-1 -> 1) names node -1, which is unknown; expected 0 to 2."


@pytest.mark.parametrize(
    "features", [np.zeros((4, 2, 3)), np.zeros(4), np.full((4, 2), "a"), np.zeros((4, 2), complex)]
)
def test_features_that_are_no_rows_of_numbers(features):
    message = said(lambda: from_arrays([0], [1], features=features))
    assert message.startswith(f"features have shape {features.shape}, of {features.dtype}; expected numbers [nodes")


def test_a_label_that_is_far_from_all_others():
    labels = np.arange(4000) % 3
    assert from_arrays([0], [1], labels=np.append(labels, 2 * np.arange(750) + 1)).graph.num_classes == 1500, (
        "half of them"
    )
    labels[9] = 10**12
    message = said(lambda: from_arrays([0], [1], labels=labels))
    assert "the greatest label is 1000000000000 (the first at row 9), but there are only 4 different ones" in message


def test_ids_of_objects_are_numbers_or_text(tmp_path):
    ids = ["a", "b", "c"]
    graphs = [from_arrays([0], [1], num_nodes=3, ids=np.array(ids, dtype=kind)) for kind in (object, np.str_)]
    assert graphs[0].fingerprint() == graphs[1].fingerprint()
    assert graphs[0].open().ids.dtype.kind == "U"
    assert "ids of type double" in said(lambda: from_arrays([0], [1], num_nodes=3, ids=[0.5, 1.5, 2.5]))


def test_a_data_set_that_opens_as_something_else(tmp_path):
    assert "the data set opened as a NoneType; expected a RawGraph" in said(prepared_from(None, tmp_path))


def test_columns_of_another_length(tmp_path):
    assert "labels has shape (2,); expected (4,)" in said(
        prepared_from(RawGraph(edges=path_of(0, 1), labels=np.zeros(2, np.int64)), tmp_path)
    )
    rows = ArrayRows(array=np.zeros((3, 2)))
    assert "features have shape (3, 2)" in said(prepared_from(RawGraph(edges=path_of(0), features=rows), tmp_path))
    weights = [np.ones(3, np.float32)]
    raw = RawGraph(edges=path_of(0, 1, 2), edge_weights=weights)
    assert "the weights from edge 0 on are (3,); expected 2" in said(prepared_from(raw, tmp_path))


def test_more_weights_than_edges(tmp_path):
    raw = RawGraph(edges=path_of(0, 1, 2), edge_weights=[np.ones(2, np.float32), np.ones(1, np.float32)])
    assert "there are more weights than the 2 edges" in said(prepared_from(raw, tmp_path))


def test_weight_that_is_not_finite(tmp_path):
    raw = RawGraph(edges=path_of(0, 1, 2), edge_weights=[np.asarray([1, np.nan], np.float32)])
    assert "the weight of edge 1 is nan" in said(prepared_from(raw, tmp_path))


def test_an_edge_of_a_bad_weight_is_named_before_it_stands_for_two(tmp_path):
    for bad, shown in ((np.nan, "nan"), (1e39, "inf")):
        message = said(lambda bad=bad: from_arrays([0, 1, 2], [1, 2, 3], edge_weights=[1, 1, bad], undirected=True))
        assert message == f"the weight of edge 2 is {shown}; expected a finite float32."
    assert "edge_weights holds <U1; expected numbers" in said(lambda: from_arrays([0], [1], edge_weights=["a"]))
    names = [tmp_path / f"{name}.csv" for name in "ab"]
    for file, last in zip(names, ("1", ""), strict=True):
        file.write_text(f"source,target,w\n0,1,1\n2,1,{last}\n")
    files = Files(edges=tuple(map(str, names)), weight="w", undirected=True, batch_size=1)
    assert f"'{names[1]}' has an edge (number 1) of weight nan" in tried(files, tmp_path)


def test_whole_numbers_that_int64_does_not_have():
    for bad in (np.array([0.0, 1e300]), np.array([0, 2**64 - 1], np.uint64), np.array([0.0, 2.0**63])):
        assert f"labels holds {bad[1]} at 1; expected whole numbers" in said(
            lambda bad=bad: from_arrays([0], [1], labels=bad)
        )
    least = from_arrays([0], [1], labels=np.array([1.0, -(2.0**63)], np.float32), num_classes=2)
    assert least.graph.labels.tolist() == [1, -(2**63)]


def test_nodes_in_two_masks_or_under_one_name():
    data = pytest.importorskip("torch_geometric.data").Data
    edges = torch.tensor([[0, 1], [1, 2]])
    masks = {"train_mask": torch.tensor([True, True, False]), "test_mask": torch.tensor([False, True, True])}
    assert "train_mask and test_mask both have node 1; expected" in said(
        lambda: from_pyg(data(edge_index=edges, num_nodes=3, **masks))
    )
    assert "ids has the id a more than once" in said(lambda: from_arrays([0], [1], ids=["a", "a"]))


def test_tensors_that_numpy_has_not():
    data = pytest.importorskip("torch_geometric.data").Data
    edges, rows = torch.tensor([[0, 1], [1, 2]]), torch.arange(6.0).view(3, 2)
    for x in (rows.bfloat16(), rows.clone().requires_grad_()):
        graph = from_pyg(data(edge_index=edges, x=x)).graph
        assert next(graph.features.batches()).tolist() == rows.tolist()
    message = said(lambda: from_pyg(data(edge_index=edges, x=rows.to_sparse())))
    assert (
        message == "x is of layout torch.sparse_coo; expected a dense tensor: make it one, for instance by to_dense()."
    )


def test_a_weight_in_the_second_of_two_files(tmp_path):
    """A data set of somebody's own: the edge is named by its number among all."""
    pairs, weights = ([tmp_path / f"{number}.{kind}" for number in range(2)] for kind in ("pairs", "weights"))
    for number in range(2):
        append_pairs(pairs[number], np.asarray([0, 1]), np.asarray([1, 2]))
        append_scratch(weights[number], np.asarray([1, np.nan if number else 1], np.float32))
    raw = RawGraph(
        edges=PairFiles(files=tuple(pairs), num_nodes=3, batch_size=9),
        edge_weights=WeightFiles(files=tuple(weights), batch_size=9),
    )
    assert "the weight of edge 3 is nan" in said(prepared_from(raw, tmp_path / "stores"))


def test_arrays_of_other_shapes():
    assert "expected one length for all" in said(lambda: from_arrays([0, 1], [0]))
    assert "expected a square one" in said(lambda: from_scipy(csr_matrix((3, 4))))
    assert "has no edge_index" in said(lambda: from_pyg(object()))


# --- raw files ---


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Edges and nodes in Parquet, nothing wrong with them."""
    parquet.write_table(pa.table({"source": [10, 20], "target": [20, 30], "w": [0.5, 1.5]}), tmp_path / "edges.parquet")
    nodes = pa.table({"id": [10, 20, 30], "class": [0, 1, None], "part": ["train", "test", None], "x": [1.0, 2.0, 3.0]})
    parquet.write_table(nodes, tmp_path / "nodes.parquet")
    return Files(
        edges=(str(tmp_path / "edges.parquet"),), nodes=str(tmp_path / "nodes.parquet"), label="class", columns=("x",)
    )


def tried(dataset: Files | Npz | Scipy, folder: Path) -> str:
    return said(lambda: prepare(dataset, Random(), 2, folder / "stores"))


def test_missing_files(files, tmp_path):
    nowhere = str(tmp_path / "nowhere.parquet")
    assert f"'{nowhere}' is missing" in tried(dataclasses.replace(files, edges=(nowhere,)), tmp_path)
    assert f"'{nowhere}' cannot be read: No such file" in tried(dataclasses.replace(files, nodes=nowhere), tmp_path)
    pattern = str(tmp_path / "none-*.csv")
    assert f"no file matches '{pattern}'" in tried(dataclasses.replace(files, edges=(pattern,)), tmp_path)
    assert "cannot be read" in tried(Npz(path=nowhere), tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_truncated_parquet_file(files, tmp_path, kept):
    victim = Path(files.edges[0])
    victim.write_bytes(victim.read_bytes()[:kept])
    message = tried(files, tmp_path)
    assert f"'{victim}' cannot be read" in message
    assert "cut short" in message


def test_truncated_numpy_files(tmp_path):
    np.savez(tmp_path / "graph.npz", edge_index=np.zeros((2, 500), np.int64))
    save_npz(tmp_path / "matrix.npz", csr_matrix(np.eye(50)))
    np.save(tmp_path / "edges.npy", np.zeros((500, 2), np.int64))
    for dataset in (
        Npz(path=str(tmp_path / "graph.npz")),
        Scipy(path=str(tmp_path / "matrix.npz")),
        Files(edges=(str(tmp_path / "edges.npy"),)),
    ):
        path = Path(dataset.edges[0] if isinstance(dataset, Files) else dataset.path)
        for kept in (len(path.read_bytes()) // 2, 0):
            path.write_bytes(path.read_bytes()[:kept])
            assert f"'{path}' cannot be read as a NumPy file" in tried(dataset, tmp_path)


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "graph.npz"
    np.savez_compressed(path, edge_index=np.arange(60).reshape(2, 30) % 30)
    whole, said = path.read_bytes(), set()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            Npz(path=str(path)).open()
        except InputError as error:
            said.add(str(error)[: len(f"'{path}' cannot be read")])
    assert f"'{path}' cannot be read" in said


def test_pickled_array_is_not_read(tmp_path):
    np.savez(tmp_path / "graph.npz", edge_index=np.asarray([{}, {}]))
    assert "without pickles" in tried(Npz(path=str(tmp_path / "graph.npz")), tmp_path)


@pytest.mark.parametrize("weights", [np.ones(2), np.ones(4), np.ones((3, 1)), np.array(["a", "b", "c"])])
def test_weights_beside_edges_in_an_archive(tmp_path, weights):
    np.savez(tmp_path / "edges.npz", edge_index=np.array([[0, 1, 2], [1, 2, 0]]), w=weights)
    message = tried(Files(edges=(str(tmp_path / "edges.npz"),), weight="w", batch_size=2), tmp_path)
    assert f"edges.npz' has {weights.dtype} {weights.shape} as 'w'; expected numbers (3,), one an edge" in message


@pytest.mark.parametrize("test", [7, -1])
def test_a_split_of_a_node_that_is_not_there(tmp_path, test):
    np.savez(tmp_path / "graph.npz", edge_index=[[0, 1], [1, 2]], y=[0, 1, 0], n_train=1, test=[2, test])
    assert f"graph.npz' has node {test} in test; expected 0 to 2" in tried(
        Npz(path=str(tmp_path / "graph.npz")), tmp_path
    )


@pytest.mark.parametrize(("indptr", "indices"), [([0, 1, 2], [0, 1]), ([0, 1, 2, 2], [0, 9]), ([0, 2, 1, 2], [0, 1])])
def test_features_that_are_no_sparse_matrix(tmp_path, indptr, indices):
    features = {"indptr": indptr, "indices": indices, "data": [1.0, 2.0], "shape": [3, 4]}
    np.savez(tmp_path / "graph.npz", edge_index=[[0, 1], [1, 2]], **features)
    assert "are no CSR matrix (" in tried(Npz(path=str(tmp_path / "graph.npz")), tmp_path)


def test_edge_to_a_node_that_the_table_lacks(files, tmp_path):
    parquet.write_table(pa.table({"source": [10, 20], "target": [20, 77]}), files.edges[0])
    message = tried(files, tmp_path)
    assert "has an edge (number 1) with node 77, which is unknown to the table" in message
    assert "Add the node there" in message


def test_edge_to_a_row_that_the_features_lack(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.save(tmp_path / "edges.npy", np.asarray([[0, 1], [1, 3]]))
    dataset = Files(edges=(str(tmp_path / "edges.npy"),), features=str(tmp_path / "x.npy"))
    assert "with node 3, which is unknown to the 3 rows of features" in tried(dataset, tmp_path)


@pytest.mark.parametrize("name", ["empty.csv", "empty.tsv", "empty.parquet", "empty.npy", "empty.npz"])
@pytest.mark.parametrize("has_nodes", [True, False])
def test_empty_edge_file(files, tmp_path, name, has_nodes):
    path = tmp_path / name
    if path.suffix in (".csv", ".tsv"):
        path.write_text("source\ttarget\n" if path.suffix == ".tsv" else "source,target\n")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({"source": pa.array([], pa.int64()), "target": pa.array([], pa.int64())}), path)
    elif path.suffix == ".npy":
        np.save(path, np.empty((2, 0), np.int64))
    else:
        np.savez(path, edge_index=np.empty((2, 0), np.int64))
    dataset = dataclasses.replace(files, edges=(*files.edges, str(path)))
    if not has_nodes:
        dataset = dataclasses.replace(dataset, nodes="", label="", columns=())
    message = tried(dataset, tmp_path)
    assert f"'{path}' has no edges" in message


def test_file_of_no_bytes(tmp_path):
    (tmp_path / "edges.csv").touch()
    assert "edges.csv' cannot be read" in tried(Files(edges=(str(tmp_path / "edges.csv"),)), tmp_path)


def test_wrong_columns(files, tmp_path):
    message = tried(dataclasses.replace(files, source="from"), tmp_path)
    assert "has no column 'from'; it has source, target, w" in message
    assert "has no column 'klass'; it has id, class, part, x" in tried(
        dataclasses.replace(files, label="klass"), tmp_path
    )
    assert "column 'part' of" in tried(dataclasses.replace(files, columns=("part",)), tmp_path)
    assert "names a column of a table of nodes" in tried(dataclasses.replace(files, nodes=""), tmp_path)


def test_values_of_a_wrong_type(files, tmp_path):
    assert "has ids of type double" in tried(dataclasses.replace(files, source="w"), tmp_path)
    assert "holds 'holdout'; expected train" in tried(_with_nodes(files, part=["train", "holdout", ""]), tmp_path)
    assert "is double; expected whole numbers or names" in tried(dataclasses.replace(files, label="x"), tmp_path)
    table = parquet.read_table(files.nodes).drop_columns("class")
    huge = pa.array([0, 1, 2**63 + 5], pa.uint64())
    parquet.write_table(table.append_column("class", huge), files.nodes)
    assert "column 'class' of" in (message := tried(files, tmp_path))
    assert "holds 9223372036854775813; expected classes" in message


def _with_nodes(files: Files, **columns: list[object]) -> Files:
    table = parquet.read_table(files.nodes)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    parquet.write_table(table, files.nodes)
    return dataclasses.replace(files, split="part")


def test_ids_twice_or_missing_or_mixed(files, tmp_path):
    assert "has the id 10 more than once" in tried(_with_nodes(files, id=[10, 20, 10]), tmp_path)
    assert "rows without an id" in tried(_with_nodes(files, id=[10, 20, None]), tmp_path)
    (tmp_path / "text.csv").write_text("source,target\na,b\n")
    mixed = Files(edges=(*files.edges, str(tmp_path / "text.csv")))
    message = tried(mixed, tmp_path)
    assert f"text.csv' has text as ids, such as 'a', and '{files.edges[0]}' ids of another kind, numbers" in message
    np.save(tmp_path / "numbers.npy", np.asarray([[1, 2]]))
    (tmp_path / "nodes.csv").write_text("id\n1\n2\nx7\n")
    unlike = Files(edges=(str(tmp_path / "numbers.npy"),), nodes=str(tmp_path / "nodes.csv"))
    assert "numbers.npy' has ids of another kind than the table" in tried(unlike, tmp_path)


@pytest.mark.parametrize("blank", ["", "NA"])
def test_numbers_of_which_one_is_missing(tmp_path, blank):
    edges, nodes = tmp_path / "edges.csv", tmp_path / "nodes.csv"
    edges.write_text(f"source,target\n1,2\n2,{blank}\n")
    nodes.write_text("id\n1\n2\n")
    assert f"'{edges}' has rows without an id" in tried(Files(edges=(str(edges),)), tmp_path)
    assert f"'{edges}' has 1 rows without an id" in tried(Files(edges=(str(edges),), nodes=str(nodes)), tmp_path)
    nodes.write_text(f'id\n1\n"{blank}"\n')
    assert f"'{nodes}' has 1 rows without an id" in tried(Files(edges=(str(edges),), nodes=str(nodes)), tmp_path)


def test_a_number_with_a_zero_in_front_is_unknown_to_numbers(files, tmp_path):
    (tmp_path / "zeros.csv").write_text("source,target\n10,20\n010,20\n")
    zeros = dataclasses.replace(files, edges=(str(tmp_path / "zeros.csv"),))
    assert "has an edge (number 1) with node 010, which is unknown to the table" in tried(zeros, tmp_path)


def test_a_value_of_another_type_than_its_column(files, tmp_path):
    (tmp_path / "nodes.csv").write_text("id,x\n10,1\n20,red\n30,2\n")
    nodes = dataclasses.replace(files, nodes=str(tmp_path / "nodes.csv"), label="")
    message = tried(nodes, tmp_path)
    assert "nodes.csv' has a value that is not of the type of its column (" in message
    assert "invalid value 'red'" in message


def test_nan_in_a_feature_column_names_the_raw_id(files, tmp_path):
    assert "feature column 0 of node 20 is nan" in tried(_with_nodes(files, x=[1.0, None, 3.0]), tmp_path)


def test_label_over_the_number_of_classes(files, tmp_path):
    assert "the label of node 20 is 1; expected 0 to 0" in tried(dataclasses.replace(files, classes=1), tmp_path)


def test_unknown_format(files, tmp_path):
    (tmp_path / "edges.xls").touch()
    message = tried(dataclasses.replace(files, edges=(str(tmp_path / "edges.xls"),)), tmp_path)
    assert "is of no known format; expected a name that ends in .parquet" in message


def test_nothing_is_left_of_a_failed_prepare(files, tmp_path):
    tried(dataclasses.replace(files, classes=1), tmp_path)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_checkpoint_of_an_older_version_is_not_called_damaged():
    index = json.dumps({"format": FORMAT, "version": 1, "epoch": 3}).encode()
    with pytest.raises(StoreError, match="here has version 1, of an older Shardyard; this one reads") as caught:
        parse_index(index, "here")
    assert not isinstance(caught.value, DamagedError)


def test_a_split_is_given_once():
    message = said(lambda: Files(edges=("edges.csv",), nodes="nodes.csv", split="part", shares=(0.5, 0.2)))
    assert "--data.split is 'part' and --data.shares (0.5, 0.2); expected one of them" in message


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"split": [1, 2, 3]}, "has no labels. Node class"),
        ({"labels": [0, 1, 0]}, "has no split. Draw a split by --data.shares 0.5 0.2"),
    ],
)
def test_a_graph_that_cannot_be_learned_from_says_which_flag_gives_what_it_lacks(columns, expected, tmp_path):
    data = from_arrays([0, 1], [1, 2], features=np.eye(3), **columns)
    workload = NodeClassification(data=data, model=SAGE(hidden=2), partitioner=Random(), parts=1)
    run = Run(workload=workload, out=str(tmp_path / "run"), store=str(tmp_path / "stores"))
    assert expected in said(lambda: start(run, lambda event: None))

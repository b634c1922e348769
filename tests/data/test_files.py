"""The data set of files: any format, any ids, one graph."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from oracle_store import random_edges

from framework.data.dataset import RawGraph
from framework.data.dictionary import UNKNOWN, Dictionary
from framework.data.files import Files

NODES, EDGES = 40, 130


def edges_of(raw: RawGraph) -> tuple[list[int], list[int]]:
    source, target = (np.concatenate(ends) for ends in zip(*raw.edges, strict=True))
    return source.tolist(), target.tolist()


def as_csv(path: Path, source: np.ndarray, target: np.ndarray) -> Path:
    file = path.with_suffix(".csv")
    file.write_text("source,target\n" + "".join(f"{a},{b}\n" for a, b in zip(source, target, strict=True)))
    return file


def as_compressed_tsv(path: Path, source: np.ndarray, target: np.ndarray) -> Path:
    file = path.with_suffix(".tsv.gz")
    with gzip.open(file, "wt") as lines:
        lines.write("target\tother\tsource\n")
        lines.writelines(f"{b}\t0\t{a}\n" for a, b in zip(source, target, strict=True))
    return file


def as_parquet(path: Path, source: np.ndarray, target: np.ndarray) -> Path:
    file = path.with_suffix(".parquet")
    parquet.write_table(pa.table({"target": target, "source": source}), file, row_group_size=50)
    return file


def as_npz(path: Path, source: np.ndarray, target: np.ndarray) -> Path:
    file = path.with_suffix(".npz")
    np.savez(file, edge_index=np.stack([source, target]))
    return file


def as_npy(path: Path, source: np.ndarray, target: np.ndarray) -> Path:
    file = path.with_suffix(".npy")
    np.save(file, np.stack([source, target], axis=1).astype(np.int32))
    return file


@pytest.mark.parametrize("write", [as_csv, as_compressed_tsv, as_parquet, as_npz, as_npy])
def test_every_format_is_the_same_graph(tmp_path: Path, write: Callable[..., Path]):
    source, target = random_edges(NODES, EDGES)
    names = np.random.Generator(np.random.Philox(1)).permutation(1000)[:NODES] * 1000 - 70_000
    path = write(tmp_path / "edges", names[source], names[target])
    raw = Files(edges=(str(path),), batch_size=17).open()
    known = np.unique(names[[source, target]])
    np.testing.assert_array_equal(raw.ids, known)
    expected = np.searchsorted(known, names[source]).tolist(), np.searchsorted(known, names[target]).tolist()
    assert edges_of(raw) == expected
    assert (raw.edges.num_nodes, raw.edges.num_edges) == (len(known), EDGES)


@pytest.mark.parametrize("write", [as_csv, as_compressed_tsv, as_parquet])
def test_text_ids(tmp_path: Path, write: Callable[..., Path]):
    source, target = random_edges(NODES, EDGES)
    names = np.asarray([f"n{number * 7919 % 1009}é" for number in range(NODES)])
    raw = Files(edges=(str(write(tmp_path / "edges", names[source], names[target])),), batch_size=17).open()
    known = sorted(set(names[source]) | set(names[target]))
    assert raw.ids.tolist() == known
    sources, targets = ([known.index(name) for name in names[ends]] for ends in (source, target))
    assert edges_of(raw) == (sources, targets)


def test_numbers_with_zeros_in_front_are_text(tmp_path: Path):
    (tmp_path / "edges.csv").write_text("source,target\n01234,55\n1234,66\n")
    raw = Files(edges=(str(tmp_path / "edges.csv"),)).open()
    assert raw.ids.tolist() == ["01234", "1234", "55", "66"]
    assert edges_of(raw) == ([0, 1], [2, 3])
    (tmp_path / "nodes.csv").write_text("id\n1234\n01234\n66\n55\n")
    raw = Files(edges=(str(tmp_path / "edges.csv"),), nodes=str(tmp_path / "nodes.csv")).open()
    assert raw.ids.tolist() == ["1234", "01234", "66", "55"]
    assert edges_of(raw) == ([1, 0], [3, 2])


@pytest.mark.parametrize(
    "ids", [("1", "2", "x7"), ("9223372036854775808", "2", "7"), ("-0", "0", "3"), ("1", "1.5", "2")]
)
def test_one_id_of_text_makes_all_of_them_text(tmp_path: Path, ids: tuple[str, ...]):
    for name, (source, target) in {"a": ids[:2], "b": ids[1:]}.items():
        (tmp_path / f"{name}.csv").write_text(f"source,target\n{source},{target}\n")
    (tmp_path / "nodes.csv").write_text("\n".join(["id", *ids]))
    for nodes in ("", str(tmp_path / "nodes.csv")):
        raw = Files(edges=(str(tmp_path / "a.csv"), str(tmp_path / "b.csv")), nodes=nodes).open()
        assert raw.ids.tolist() == (list(ids) if nodes else sorted(ids))
        known = raw.ids.tolist()
        assert edges_of(raw) == ([known.index(name) for name in ids[:2]], [known.index(name) for name in ids[1:]])


def test_numbers_may_have_spaces_around_them_and_be_any_int64(tmp_path: Path):
    (tmp_path / "a.csv").write_text("source,target\n 5 ,-9223372036854775808\n9223372036854775807,\t-7\n")
    as_npy(tmp_path / "b", np.asarray([5]), np.asarray([0]))
    raw = Files(edges=(str(tmp_path / "a.csv"), str(tmp_path / "b.npy"))).open()
    assert raw.ids.tolist() == [-(2**63), -7, 0, 5, 2**63 - 1]
    assert edges_of(raw) == ([3, 4, 3], [0, 1, 2])
    (tmp_path / "d.csv").write_text("source,target\n 10, 9\n 9,\t10\n")
    raw = Files(edges=(str(tmp_path / "d.csv"),)).open()
    assert (raw.ids.tolist(), edges_of(raw)) == ([9, 10], ([1, 0], [0, 1]))
    (tmp_path / "c.csv").write_text("source,target\n 5,x\n")
    assert Files(edges=(str(tmp_path / "c.csv"),)).open().ids.tolist() == [" 5", "x"], "text is kept as it is"


def test_types_of_late_values_do_not_matter(tmp_path: Path):
    """The first megabyte of a CSV file says nothing of the others, nor does a column that nobody asked for."""
    count = 150_000
    rows = [f"{number},{number},,1" for number in range(count)]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,x,use,note", *rows, "last,0.5,train,hello"]))
    (tmp_path / "edges.csv").write_text(
        "\n".join(["a,b,w", *(f"{number},0,1" for number in range(count)), "last,1,0.5"])
    )
    raw = Files(
        edges=(str(tmp_path / "edges.csv"),),
        source="a", target="b", weight="w", nodes=str(tmp_path / "nodes.csv"), columns=("x",), split="use",
    ).open()  # fmt: skip
    assert raw.split.tolist() == [0] * count + [1]
    assert np.concatenate(list(raw.features.batches()))[-1] == 0.5
    assert np.concatenate(list(raw.edge_weights))[-1] == 0.5
    assert raw.ids[count] == "last"


def test_a_split_in_csv_may_be_of_numbers(tmp_path: Path):
    as_csv(tmp_path / "edges", np.asarray([0]), np.asarray([1]))
    (tmp_path / "nodes.csv").write_text("id,use\n0,1\n1,3\n2,NA\n3,0\n4, 2\n5,\n")
    dataset = Files(edges=(str(tmp_path / "edges.csv"),), nodes=str(tmp_path / "nodes.csv"), split="use")
    assert dataset.open().split.tolist() == [1, 3, 0, 0, 2, 0]


def test_ids_that_are_dense_already_need_no_dictionary(tmp_path: Path):
    raw = Files(edges=(str(as_npy(tmp_path / "edges", np.asarray([2, 0]), np.asarray([1, 2]))),)).open()
    assert raw.ids is None
    assert edges_of(raw) == ([2, 0], [1, 2])


def test_undirected_edges_and_their_weights(tmp_path: Path):
    table = {"source": [5, 6, 5], "target": [6, 6, 9], "strength": [1.0, 2.0, 3.0]}
    parquet.write_table(pa.table(table), tmp_path / "edges.parquet")
    raw = Files(edges=(str(tmp_path / "edges.parquet"),), weight="strength", undirected=True, batch_size=2).open()
    assert edges_of(raw) == ([0, 1, 1, 0, 2], [1, 0, 1, 2, 0])
    assert np.concatenate(list(raw.edge_weights)).tolist() == [1, 1, 2, 3, 3]
    assert [len(batch) for batch in raw.edge_weights] == [len(source) for source, _ in raw.edges]


def test_table_of_nodes_gives_order_classes_split_and_features(tmp_path: Path):
    as_csv(tmp_path / "edges", np.asarray(["z", "b"]), np.asarray(["b", "a"]))
    (tmp_path / "nodes.tsv").write_text(
        "kind\tid\tuse\tx\ty\nred\tz\ttrain\t1\t.5\nblue\ta\tvalidation\t2\t.25\n\tb\t\t3\t.125\n"
    )
    dataset = Files(
        edges=(str(tmp_path / "edges.csv"),),
        nodes=str(tmp_path / "nodes.tsv"),
        label="kind",
        split="use",
        columns=("y", "x"),
        batch_size=2,
    )
    raw = dataset.open()
    assert raw.ids.tolist() == ["z", "a", "b"]
    assert edges_of(raw) == ([0, 2], [2, 1])
    assert (raw.class_names, raw.num_classes) == (("blue", "red"), 2)
    assert raw.labels.tolist() == [1, 0, -1]
    assert raw.split.tolist() == [1, 2, 0]
    assert np.concatenate(list(raw.features.batches())).tolist() == [[0.5, 1], [0.25, 2], [0.125, 3]]
    assert raw.stream().node_weights.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "layout", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_names_of_classes_of_any_layout(tmp_path: Path, layout: pa.DataType):
    as_csv(tmp_path / "edges", np.asarray([0, 1]), np.asarray([1, 2]))
    names = pa.array(["red", "blue", None]).cast(layout)
    ids = np.arange(3)
    table = pa.table({"id": ids, "kind": names})
    file = tmp_path / "nodes.parquet"
    parquet.write_table(table, file)
    raw = Files(edges=(str(tmp_path / "edges.csv"),), nodes=str(file), label="kind").open()
    assert (raw.class_names, raw.labels.tolist()) == (("blue", "red"), [1, 0, -1])


def test_features_without_a_table_number_the_nodes(tmp_path: Path):
    as_npy(tmp_path / "edges", np.asarray([3, 0]), np.asarray([0, 1]))
    rows = np.arange(10.0).reshape(5, 2)
    np.save(tmp_path / "x.npy", rows)
    raw = Files(edges=(str(tmp_path / "edges.npy"),), features=str(tmp_path / "x.npy"), shares=(0.5, 0.25)).open()
    assert raw.edges.num_nodes == 5
    assert raw.ids is None
    assert edges_of(raw) == ([3, 0], [0, 1])
    np.testing.assert_array_equal(np.concatenate(list(raw.features.batches())), rows)
    assert raw.split.shape == (5,)


def test_pattern_stands_for_its_files_in_sorted_order(tmp_path: Path):
    as_npy(tmp_path / "b", np.asarray([2]), np.asarray([0]))
    as_npy(tmp_path / "a", np.asarray([0, 1]), np.asarray([1, 2]))
    assert edges_of(Files(edges=(str(tmp_path / "*.npy"),)).open()) == ([0, 1, 2], [1, 2, 0])


def test_fingerprint_is_of_content_and_settings(tmp_path: Path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
        as_npy(folder / "edges", np.asarray([0]), np.asarray([1]))
    prints = [Files(edges=(str(folder / "edges.npy"),)).fingerprint() for folder in (first, second)]
    assert prints[0] == prints[1]
    assert Files(edges=(str(first / "edges.npy"),), batch_size=3).fingerprint() == prints[0]
    assert Files(edges=(str(first / "edges.npy"),), undirected=True).fingerprint() != prints[0]
    as_npy(second / "edges", np.asarray([1]), np.asarray([0]))
    assert Files(edges=(str(second / "edges.npy"),)).fingerprint() != prints[0]


@pytest.mark.parametrize("kind", [np.int64, np.str_])
def test_dictionary_round_trip(tmp_path: Path, kind: type):
    ids = np.random.Generator(np.random.Philox(4)).permutation(500)[:200].astype(kind)
    Dictionary.of(ids, "here").save(tmp_path)
    dictionary = Dictionary.load(tmp_path)
    np.testing.assert_array_equal(dictionary.lookup(ids), np.arange(200))
    unknown = np.asarray([501, -1, 999]).astype(kind)
    assert dictionary.lookup(unknown).tolist() == [UNKNOWN] * 3
    assert dictionary.lookup(np.asarray(["x"]) if kind is np.int64 else np.asarray([1])).tolist() == [UNKNOWN]

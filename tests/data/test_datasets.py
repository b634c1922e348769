"""Data sets in memory and in one archive, against the libraries they come from."""

import numpy as np
import pytest
import torch
from oracle_store import random_edges
from scipy.sparse import coo_matrix, csr_matrix, random_array, save_npz
from scipy.stats import chisquare

from framework.data.arrays import InMemory, from_arrays, from_pyg, from_scipy
from framework.data.dataset import Dataset, IngestedDataset, RawGraph
from framework.data.files import Files
from framework.data.npz import Npz, Scipy
from framework.data.split import hashed_split
from framework.errors import InputError
from framework.registry import DATASETS


def matrix_of(raw: RawGraph) -> np.ndarray:
    """[source, target] counts, or sums of weights."""
    source, target = (np.concatenate(ends) for ends in zip(*raw.edges, strict=True))
    values = np.ones(len(source)) if raw.edge_weights is None else np.concatenate(list(raw.edge_weights))
    return coo_matrix((values, (source, target)), shape=(raw.edges.num_nodes,) * 2).toarray()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("undirected", [True, False])
def test_scipy_matrix(weighted, undirected):
    matrix = random_array((30, 30), density=0.1, format="csr", rng=np.random.default_rng(0), dtype=np.float32)
    expected = matrix.toarray() if weighted else (matrix.toarray() != 0).astype(float)
    if undirected:
        expected = expected + expected.T - np.diag(np.diag(expected))
    raw = from_scipy(matrix, weighted=weighted, undirected=undirected).open()
    np.testing.assert_allclose(matrix_of(raw), expected, rtol=1e-6)


def test_scipy_files(tmp_path):
    matrix = random_array((30, 30), density=0.1, format="coo", rng=np.random.default_rng(0))
    rows = random_array((30, 7), density=0.4, format="csr", rng=np.random.default_rng(1))
    save_npz(tmp_path / "edges.npz", matrix)
    save_npz(tmp_path / "rows.npz", rows)
    np.save(tmp_path / "labels.npy", np.arange(30) % 3)
    raw = Scipy(
        path=str(tmp_path / "edges.npz"),
        features=str(tmp_path / "rows.npz"),
        labels=str(tmp_path / "labels.npy"),
        weighted=True,
    ).open()
    np.testing.assert_allclose(matrix_of(raw), matrix.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(raw.features.batches())), rows.toarray())
    assert raw.num_classes == 3


def test_pyg_data():
    data_type = pytest.importorskip("torch_geometric.data").Data
    edge_index = torch.from_numpy(np.stack(random_edges(25, 90)))
    data = data_type(
        x=torch.randn(25, 4, generator=torch.Generator().manual_seed(0)),
        y=torch.arange(25) % 5,
        edge_index=edge_index,
        edge_weight=torch.arange(90.0),
        train_mask=torch.arange(25) < 10,
        val_mask=torch.arange(25) == 12,
        test_mask=torch.arange(25) > 20,
    )
    raw = from_pyg(data).open()
    for batch in raw.edges:
        np.testing.assert_array_equal(np.stack(batch), edge_index)
    np.testing.assert_array_equal(np.concatenate(list(raw.features.batches())), data.x)
    np.testing.assert_array_equal(np.concatenate(list(raw.edge_weights)), data.edge_weight)
    np.testing.assert_array_equal(raw.labels, data.y)
    assert np.bincount(raw.split, minlength=4).tolist() == [10, 10, 1, 4]


def test_planetoid_archive(tmp_path):
    generator = np.random.default_rng(0)
    num_nodes = 900
    x = random_array((num_nodes, 20), density=0.2, format="csr", rng=generator, dtype=np.float32)
    edges = np.asarray([[0, 3, 5], [1, 4, 5]])
    test = np.asarray([700, 899])
    np.savez(
        tmp_path / "graph.npz",
        edge_index=edges,
        y=np.arange(num_nodes, dtype=np.int8) % 7,
        indptr=x.indptr,
        indices=x.indices.astype(np.int16),
        data=x.data.astype(np.float16),
        shape=np.asarray(x.shape),
        n_train=140,
        test=test,
    )
    raw = Npz(path=str(tmp_path / "graph.npz")).open()
    assert matrix_of(raw)[:6, :6].tolist() == (
        csr_matrix((np.ones(5), ([0, 1, 3, 4, 5], [1, 0, 4, 3, 5])), shape=(6, 6)).toarray().tolist()
    )
    np.testing.assert_array_equal(np.concatenate(list(raw.features.batches())), x.toarray().astype(np.float16))
    assert raw.num_classes == 7
    assert (raw.split[:140] == 1).all()
    assert (raw.split[140:640] == 2).all()
    assert np.flatnonzero(raw.split == 3).tolist() == test.tolist()
    masked = {"train_mask": np.array([True, False, False]), "test_mask": np.array([False, False, True])}
    np.savez(tmp_path / "masked.npz", edge_index=[[0, 1], [1, 2]], x=np.eye(3), **masked)
    assert Npz(path=str(tmp_path / "masked.npz")).open().split.tolist() == [1, 0, 3]
    np.savez(tmp_path / "masked.npz", edge_index=[[0, 1], [1, 2]], x=np.eye(3), train_mask=np.array([0, 1, 2]))
    with pytest.raises(InputError, match=r"train_mask has shape \(3,\), of int64; expected \(3,\) of bool"):
        Npz(path=str(tmp_path / "masked.npz")).open()
    one_way = Npz(path=str(tmp_path / "graph.npz"), undirected=False, shares=(0.0, 0.0))
    assert one_way.open().edges.num_edges == 3
    assert set(one_way.open().split) == {3}
    assert one_way.fingerprint() != Npz(path=str(tmp_path / "graph.npz")).fingerprint()


def test_fingerprint_of_arrays_sees_every_array():
    base = {"features": np.zeros((3, 2)), "labels": [0, 1, 1], "split": [1, 2, 3], "edge_weights": [1.0, 2.0]}
    changed = [
        {**base, "features": np.zeros((3, 2), np.float32)},
        {**base, "features": np.ones((3, 2))},
        {**base, "labels": [0, 1, 0]},
        {**base, "labels": None},
        {**base, "split": [1, 2, 2]},
        {**base, "edge_weights": [1.0, 3.0]},
        {**base, "ids": ["a", "b", "c"]},
        {**base, "num_classes": 5},
    ]
    prints = [from_arrays([0, 1], [1, 2], **case).fingerprint() for case in (base, *changed)]
    assert len(set(prints)) == len(prints)
    assert from_arrays([0, 1], [1, 2], **base).fingerprint() == prints[0]
    assert from_arrays([0, 1], [1, 0], **base).fingerprint() not in prints


def test_hashed_split_has_its_shares_and_depends_on_the_id_alone():
    split = hashed_split(20_000, (0.5, 0.2))
    counts = np.bincount(split, minlength=4)
    assert counts[0] == 0
    assert chisquare(counts[1:], np.asarray([0.5, 0.2, 0.3]) * 20_000).pvalue > 1e-3
    np.testing.assert_array_equal(hashed_split(1000, (0.5, 0.2)), split[:1000])


def test_data_sets_keep_the_contract():
    assert {"debian", "files", "npz", "scipy"} <= set(DATASETS.names())
    assert isinstance(from_arrays([0], [1]), Dataset)
    assert isinstance(Files(edges=("x",)), IngestedDataset)
    assert isinstance(InMemory, type)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("edge_index", np.array([[0.0, 1.5], [1.0, 0.0]]), r"source holds 1.5 at 1"),
        ("y", np.array([0.0, np.nan]), r"labels holds nan at 1"),
        ("y", np.array([0.0, 1.5]), r"labels holds 1.5 at 1"),
        ("y", np.array(["one", "two"]), r"labels holds <U3; expected whole numbers"),
        ("split", np.array([1, 257]), r"split holds 257 for node 1"),
        ("split", np.array(["train", "test"]), r"split holds <U5; expected whole numbers"),
    ],
)
def test_columns_that_are_no_whole_numbers_are_named(tmp_path, column, values, message):
    content = {"edge_index": np.array([[0, 1], [1, 0]]), "y": np.array([0, 1]), "split": np.array([1, 2])}
    np.savez(tmp_path / "graph.npz", **{**content, column: values})
    with pytest.raises(InputError, match=message):
        Npz(path=str(tmp_path / "graph.npz")).open()

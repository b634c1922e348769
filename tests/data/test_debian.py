"""The Debian graph in the package, its features, and the tool that builds it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy.sparse import csr_matrix, random_array

from framework.data import debian
from framework.data.dataset import TEST, TRAIN, VALIDATION, RawGraph
from framework.data.debian import Debian
from framework.data.text import standardized, tf_idf, truncated_svd

PACKAGES = """\
Package: editor
Version: 2
Section: editors
Depends: libtext (>= 1), libc | libc-small [amd64]
Recommends: spell-checker
Description: edits text
 text text

Package: libtext
Section: contrib/libs
Description: library of text
Pre-Depends: libc

Package: libc
Section: libs
Description: library

Package: editor
Version: 1
Section: old
Description: an older version

Package: speller
Provides: spell-checker (= 1), other
Suggests: nobody-has-this
Description: checks text

Package: spell-too
Section: text
Provides: spell-checker
Enhances: editor
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "build_debian.py"
    spec = importlib.util.spec_from_file_location("build_debian", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graph() -> RawGraph:
    return Debian().open()


def test_the_folder_is_small():
    folder = Path(debian.__file__).parent
    assert sum(file.stat().st_size for file in folder.glob("*.parquet")) < 3_000_000


def test_the_graph(graph):
    assert (graph.edges.num_nodes, graph.edges.num_edges, graph.num_classes) == (63_436, 654_424, 58)
    source, target = graph.edges.source, graph.edges.target
    forward = source * 63_436 + target
    assert len(np.unique(forward)) == len(forward)
    np.testing.assert_array_equal(np.sort(forward), np.sort(target * 63_436 + source))
    assert (source != target).all()
    shares = np.bincount(graph.split)[[TRAIN, VALIDATION, TEST]] / 63_436
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=0.01)
    assert (graph.labels >= 0).all()
    assert len(graph.class_names) == 58


def test_the_features_are_scaled_and_fixed(graph):
    rows = graph.features.array
    assert rows.shape == (63_436, 128)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.mean(axis=0, dtype=np.float64), 0, atol=1e-4)
    np.testing.assert_allclose(rows.std(axis=0, dtype=np.float64), 1, atol=1e-4)


def test_tf_idf_equals_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    dense = np.random.default_rng(0).poisson(0.4, (60, 25))
    dense[3] = 0
    counts = csr_matrix(dense)
    expected = text.TfidfTransformer().fit_transform(counts).toarray()
    np.testing.assert_allclose(tf_idf(counts).toarray(), expected, rtol=1e-12)


def test_a_stored_count_of_nothing_is_none():
    counts = csr_matrix((np.array([0.0, 2, 1]), np.array([0, 0, 1]), np.array([0, 1, 3])))
    found = tf_idf(counts).toarray()
    assert not found[0].any()
    np.testing.assert_allclose(np.linalg.norm(found[1]), 1)


def test_svd_equals_the_dense_one():
    matrix = random_array((80, 30), density=0.3, format="csr", rng=np.random.default_rng(0))
    left, values, right = np.linalg.svd(matrix.toarray())
    signs = np.sign(np.take_along_axis(right.T, np.abs(right.T).argmax(axis=0)[None], axis=0))[0]
    expected = (left[:, :30] * values * signs)[:, :6]
    np.testing.assert_allclose(truncated_svd(matrix, 6), expected, atol=1e-6)


def test_standardized_leaves_a_constant_column_at_zero():
    rows = np.asarray([[1.0, 5.0], [3.0, 5.0]])
    assert standardized(rows).tolist() == [[-1, 0], [1, 0]]


def test_standardized_hides_the_last_bits():
    rows = np.random.default_rng(0).standard_normal((2000, 8))
    np.testing.assert_array_equal(standardized(rows), standardized(rows * (1 + 1e-13)))
    assert np.abs(standardized(rows) - (rows - rows.mean(axis=0)) / rows.std(axis=0)).max() <= 1 / 512 + 1e-6


def test_the_tool_builds_what_the_data_set_reads(tool, tmp_path):
    (tmp_path / "Packages").write_text(PACKAGES)
    tool.build(tmp_path / "Packages", tmp_path / "out", terms=4)
    graph = Debian(folder=str(tmp_path / "out"), columns=2).open()
    names = graph.ids.tolist()
    assert names == ["editor", "libtext", "libc", "speller", "spell-too"]
    edges = {
        tuple(sorted((names[source], names[target])))
        for batch in graph.edges
        for source, target in zip(*batch, strict=True)
    }
    assert edges == {
        ("editor", "libtext"), ("editor", "libc"), ("editor", "speller"), ("editor", "spell-too"), ("libc", "libtext"),
    }  # fmt: skip
    assert graph.edges.num_edges == 10
    assert graph.class_names == ("editors", "libs", "text")
    assert graph.labels.tolist() == [0, 1, 1, -1, 2]
    assert graph.features.shape == (5, 2)


def test_the_tool_counts_terms(tool):
    stanzas = ["Edits text: text text", "library of text", "library", ""]
    counts, terms = tool.terms_of(stanzas, 2)
    assert terms == ["library", "text"]
    assert counts.toarray().tolist() == [[0, 3], [1, 1], [1, 0], [0, 0]]


def test_the_tool_prefers_long_descriptions(tool, tmp_path):
    (tmp_path / "Packages").write_text("Package: a\nDescription: short\n\nPackage: b\nDescription: short\n")
    (tmp_path / "Translation-en").write_text("Package: a\nDescription-md5: 0\nDescription-en: long\n words\n")
    tool.build(tmp_path / "Packages", tmp_path / "out", translation=tmp_path / "Translation-en")
    nodes = parquet.read_table(tmp_path / "out" / "nodes.parquet")
    assert nodes["terms"].to_pylist() == [[0, 2], [1]]  # long, short, words
    assert nodes["counts"].to_pylist() == [[1, 1], [1]]


def test_a_virtual_name_stands_for_its_first_providers(tool):
    packages = {f"p{number}": {"Package": "", "Provides": "virtual"} for number in range(tool.PROVIDERS + 5)}
    packages["user"] = {"Package": "user", "Depends": "virtual"}
    edges = tool.edges_of(packages)
    assert edges.tolist() == [[number, len(packages) - 1] for number in range(tool.PROVIDERS)]

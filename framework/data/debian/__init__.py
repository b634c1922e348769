"""The Debian 12 package graph: packages, who depends on whom, what they say of themselves, and their section.

Assumptions: a folder holds `nodes.parquet` (section, and the term counts of the description as lists; perhaps the name)
and `edges.parquet` (each undirected edge once). Counts are stored, not TF-IDF: they are small whole numbers, and the
weights follow from them. tools/build_debian.py makes such a folder from any package index.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from framework.data.dataset import NO_LABEL, ArrayRows, RawGraph
from framework.data.fingerprint import fingerprint
from framework.data.split import hashed_split
from framework.data.text import standardized, tf_idf, truncated_svd
from framework.errors import InputError
from framework.graph.edges import ArrayEdges, both_directions
from framework.registry import DATASETS

TRAINING_SHARE, VALIDATION_SHARE = 0.5, 0.2
_FEATURES = "tf-idf, truncated svd, standardized to 1/256"  # what makes the features: to be changed with it
_TERMS = b"terms"  # the key of the number of terms in the metadata of nodes.parquet


@DATASETS.register("debian")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Debian:
    """Debian 12's packages and their dependencies, TF-IDF of descriptions as features, sections as classes."""

    columns: int = 128
    """Feature columns: a truncated SVD of the TF-IDF, each column scaled to mean 0 and variance 1."""
    folder: str = ""
    """A folder made by tools/build_debian.py. Empty: the one in this package."""

    def fingerprint(self) -> str:
        """Digest of both files and the number of columns."""
        return fingerprint({"columns": self.columns, "made by": _FEATURES}, files=self._files())

    def open(self) -> RawGraph:
        """63,436 nodes, 654,424 directed edges, 58 classes; split 50/20/30 by a hash of the node's id."""
        nodes, edges = (_read(file) for file in self._files())
        source, target = both_directions(edges["source"].to_numpy(), edges["target"].to_numpy())
        sections = nodes["section"].combine_chunks().cast(pa.string())
        names = sorted(name for name in sections.unique().to_pylist() if name is not None)
        labels = compute.fill_null(compute.index_in(sections, pa.array(names, pa.string())), NO_LABEL)
        return RawGraph(
            edges=ArrayEdges(source=source, target=target, num_nodes=len(nodes)),
            ids=np.asarray(nodes["name"].to_pylist()) if "name" in nodes.column_names else None,
            features=ArrayRows(array=standardized(truncated_svd(tf_idf(_counts(nodes)), self.columns))),
            labels=labels.to_numpy().astype(np.int64),
            num_classes=len(names),
            class_names=tuple(names),
            split=hashed_split(len(nodes), (TRAINING_SHARE, VALIDATION_SHARE)),
        )

    def _files(self) -> tuple[Path, Path]:
        folder = Path(self.folder) if self.folder else Path(__file__).parent
        return folder / "nodes.parquet", folder / "edges.parquet"


def write_folder(
    folder: Path, *, edges: NDArray[np.integer], sections: list[str | None], counts: Any, names: list[str] | None = None
) -> None:
    """Writes what `Debian` reads. `edges`: each undirected edge once, [E, 2]; `counts`: scipy CSR [nodes, terms].

    The encodings are the smallest that need no decoding of ours (docs/decisions.md)."""
    counts = csr_matrix(counts)
    counts.sort_indices()
    starts = pa.array(counts.indptr.astype(np.int32))
    columns = {
        "section": pa.array(sections, pa.string()).dictionary_encode(),
        "terms": pa.ListArray.from_arrays(starts, pa.array(counts.indices.astype(np.int16))),
        "counts": pa.ListArray.from_arrays(starts, pa.array(counts.data.astype(np.uint16))),
    }
    if names is not None:
        columns["name"] = pa.array(names)
    nodes = pa.table(columns).replace_schema_metadata({_TERMS: str(counts.shape[1])})
    ordered = edges[np.lexsort((edges[:, 1], edges[:, 0]))].astype(np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "nodes.parquet", nodes, split=["terms.list.element"], dictionary=["section"])
    pairs = pa.table({"source": ordered[:, 0], "target": ordered[:, 1]})
    _write(folder / "edges.parquet", pairs, split=["source", "target"], dictionary=[])


def _write(path: Path, table: pa.Table, *, split: list[str], dictionary: list[str]) -> None:
    parquet.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=dictionary,
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        store_schema=True,
    )


def _read(path: Path) -> pa.Table:
    try:
        return parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"'{path}' cannot be read ({reason}). Make it again by tools/build_debian.py.") from error


def _counts(nodes: pa.Table) -> Any:
    terms, counts = (nodes[name].combine_chunks() for name in ("terms", "counts"))
    shape = len(nodes), int(nodes.schema.metadata[_TERMS])
    return csr_matrix((counts.values.to_numpy(), terms.values.to_numpy(), terms.offsets.to_numpy()), shape=shape)

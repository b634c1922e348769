"""The buckets of every part become the columns of its shard.

Assumptions: the edges of one part fit in memory; feature rows do not need to, they go from one mapped file to another.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from framework.data.dataset import RawGraph
from framework.graph.build import Adjacency, Numbering, build_adjacency
from framework.graph.pairs import append_scratch, read_scratch
from framework.graph.shard import Kind, PartCounts
from framework.prepare.spill import Progress, bucket, buckets
from framework.store.columns import FileFacts, column_file, read_column, write_column

Columns = dict[str, NDArray[Any] | pa.Array]


def write_shards(
    raw: RawGraph, numbering: Numbering, kind: Kind, scratch: Path, folder: Path, told: Progress
) -> tuple[dict[str, FileFacts], tuple[PartCounts, ...]]:
    """Writes the files of all parts into `folder`; returns their facts by relative path, and what every part holds.

    Degrees come last: they are known when every part has counted the edges it has."""
    parts = len(numbering.offsets) - 1
    files: dict[str, FileFacts] = {}
    counts = []
    degrees = np.zeros(raw.edges.num_nodes, np.int64)  # by global id
    for part in range(parts):
        column_file(folder, part, "original").parent.mkdir()
        adjacency, edge_weights = _edges(raw, numbering, kind, scratch, part)
        first, last = numbering.offsets[part : part + 2]
        degrees[first:last] += adjacency.degree[: last - first]
        degrees[adjacency.halo] += adjacency.degree[last - first :] if kind == "vertex-cut" else 0
        counts.append(PartCounts(nodes=int(last - first), edges=len(adjacency.indices), halo=len(adjacency.halo)))
        columns: Columns = {name: getattr(adjacency, name) for name in ("indptr", "indices", "halo")}
        columns |= edge_weights | _node_columns(raw, numbering, scratch, part)
        files |= _write(folder, part, columns)
        del adjacency, edge_weights, columns
        shutil.rmtree(buckets(scratch, part), ignore_errors=True)
        told("write shards", (part + 1) / parts)
    for part in range(parts):
        halo = read_column(column_file(folder, part, "halo")).to_numpy()
        owned = degrees[numbering.offsets[part] : numbering.offsets[part + 1]]
        known: Columns = {"degree": owned, "halo_original": numbering.originals[halo], "halo_degree": degrees[halo]}
        files |= _write(folder, part, known)
    return files, tuple(counts)


def _write(folder: Path, part: int, columns: Columns) -> dict[str, FileFacts]:
    paths = {column_file(folder, part, name): values for name, values in columns.items()}
    return {str(path.relative_to(folder)): write_column(path, values) for path, values in paths.items()}


def _edges(raw: RawGraph, numbering: Numbering, kind: Kind, scratch: Path, part: int) -> tuple[Adjacency, Columns]:
    """The part's edges, and the column of `edge_weights` where the graph has them."""
    pieces = sorted(buckets(scratch, part).glob("*.pairs"))
    pairs = [read_scratch(piece, np.int64, columns=2) for piece in pieces]
    source, target = np.concatenate([np.empty((0, 2), np.int64), *pairs]).T
    adjacency = build_adjacency(numbering, part, kind, source, target)
    if raw.edge_weights is None:
        return adjacency, {}
    weights = [read_scratch(piece.with_suffix(".weights"), np.float32) for piece in pieces]
    return adjacency, {"edge_weights": np.concatenate([np.empty(0, np.float32), *weights])[adjacency.edges]}


def _node_columns(raw: RawGraph, numbering: Numbering, scratch: Path, part: int) -> Columns:
    """`original`, and `ids`, `labels`, `split`, `features` where the graph has them."""
    owned = numbering.owned(part)
    columns: Columns = {"original": owned}
    if raw.ids is not None:
        columns["ids"] = pa.array(raw.ids[owned])
    if raw.labels is not None:
        columns["labels"] = np.asarray(raw.labels[owned], dtype=np.int64)
    if raw.split is not None:
        columns["split"] = np.asarray(raw.split[owned], dtype=np.uint8)
    if raw.features is not None:
        rows, rest = (bucket(scratch, part, piece, "features") for piece in (0, 1))
        append_scratch(rows, read_scratch(rest, np.float32))
        columns["features"] = read_scratch(rows, np.float32, columns=raw.features.shape[1])
    return columns

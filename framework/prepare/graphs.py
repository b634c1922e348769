"""Prepare many small graphs: a data set of them becomes a collection on disk, once.

Assumptions: as for shard stores: the folder is named by a digest of everything it depends on and appears by one rename.
Graphs are made in chunks of samples, each by a call that may run in another process on the same file system; how the
samples are chunked shows in no byte of the collection. The graphs of one part at a time are held in memory.
"""

import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from framework import config
from framework.data.dataset import TRAIN, Mapper, each
from framework.data.digests import remembering
from framework.data.graph_sets import GraphSet, Samples, SmallGraph, check_samples, fault_of
from framework.errors import InputError, NewerVersionError, PluginError, StoreError
from framework.graph.collection import VERSION, Collection, CollectionCounts, Failure
from framework.graph.columns import FileFacts, write_column
from framework.graph.folder import publish, temporary_folder
from framework.graph.pairs import full_disk_named, require_scratch
from framework.graph.store import column_file
from framework.kernels.csr import build_csr
from framework.prepare.spill import Progress
from framework.registry import GRAPH_SETS

Shape = tuple[int, int, bool]
"""What all graphs of a set have alike: feature columns, dimensions of positions, and whether edges have weights."""
CHUNK = 64
"""Samples made by one call."""
CACHE = "graph-cache"
"""The folder, beneath that of the collections, which keeps what took long to compute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedGraphs:
    """A collection that is ready, and what it took."""

    collection: Collection
    """The collection."""
    seconds: float
    """Wall time of this call."""
    reused: bool
    """Whether it was there already."""


def prepare_graphs(
    graph_set: GraphSet,
    parts: int,
    root: Path,
    *,
    mapper: Mapper = map,
    progress: Progress | None = None,
    chunk: int = CHUNK,
) -> PreparedGraphs:
    """The collection of `graph_set` in `parts` parts, in a folder beneath `root`; at once where it is there.

    Samples that no graph can be made of are in its `failures`. Raises InputError for raw data that cannot be used, for
    a number of parts below 1, and for a full disk, which leaves nothing behind."""
    began = time.monotonic()
    if parts < 1:
        raise InputError(f"--parts is {parts}; expected a whole number of at least 1.")
    told = progress or (lambda step, fraction: None)
    told("fingerprint", 0.0)
    with remembering(root):
        data_digest = graph_set.fingerprint()
    digest = config.digest([data_digest, parts, VERSION])
    path = root / digest[:16]
    found = _whole(path)
    if found is None:
        with temporary_folder(root, path.name) as folder:
            draft = _build(graph_set, parts, folder, root / CACHE, mapper, told, chunk)
            dataclasses.replace(draft, digest=digest, data_digest=data_digest).seal()
            publish(folder, path, whole=_whole)
    return PreparedGraphs(
        collection=found or Collection.open(path), seconds=time.monotonic() - began, reused=found is not None
    )


def _whole(path: Path) -> Collection | None:
    """The collection in `path`, or None where there is none or a damaged one. Raises NewerVersionError."""
    try:
        return Collection.open(path)
    except NewerVersionError:
        raise
    except StoreError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Chunk:
    """Samples whose graphs one call makes."""

    graph_set: GraphSet
    """Who makes them."""
    contents: Sequence[Any]
    """What of."""
    numbers: NDArray[np.int64]
    """Their numbers in the raw data."""
    file: Path
    """The scratch file that the graphs go to."""
    cache: Path
    """Where the set keeps what took long."""


Columns = dict[str, NDArray[Any]]
"""Graphs one after the other: their numbers of `nodes` and `edges`, and the columns of a collection, degrees instead of
`indptr`."""


def _build(
    graph_set: GraphSet, parts: int, folder: Path, cache: Path, mapper: Mapper, told: Progress, chunk: int
) -> Collection:
    """Writes every file of the collection but the manifest into `folder`; returns what that will say, digests open."""
    told("read", 0.0)
    samples = graph_set.open()
    check_samples(samples)
    scratch = folder / "scratch"
    scratch.mkdir()
    reasons = _unknown_targets(samples)
    known = np.flatnonzero([not reason for reason in reasons])
    chunks = [
        _Chunk(
            graph_set=graph_set,
            contents=[samples.contents[number] for number in numbers],
            numbers=numbers,
            file=scratch / f"{place:09d}.npz",
            cache=cache,
        )
        for place, numbers in enumerate(np.split(known, range(chunk, len(known), chunk)))
    ]
    shapes = set()
    for done, (refused, shape) in enumerate(each(mapper, _make, chunks)):
        for number, reason in refused:
            reasons[number] = reason
        shapes |= {shape} - {None}
        told("make graphs", (done + 1) / len(chunks))
    if len(shapes) > 1:
        raise _uneven(shapes)
    usable = np.flatnonzero([not reason for reason in reasons])
    if not (samples.split[usable] == TRAIN).any():
        first = next(reason for reason in reasons if reason)
        raise InputError(
            f"no training sample has a graph (one reason: {first}); look at the raw data and its settings."
        )
    draft = _write(folder, samples, usable, [item.file for item in chunks], parts)
    shutil.rmtree(scratch)
    return dataclasses.replace(draft, failures=_failures(samples, reasons))


def _make(chunk: _Chunk) -> tuple[list[tuple[int, str]], Shape | None]:
    """Writes the graphs of a chunk to its file; returns the samples without one, each with the reason, and what all
    graphs have in common. Raises PluginError for a graph that is malformed."""
    require_scratch(chunk.file.parent)
    refused, made = [], []
    for number, content in zip(chunk.numbers.tolist(), chunk.contents, strict=True):
        graph = chunk.graph_set.graph(content, chunk.cache)
        if isinstance(graph, str):
            refused.append((number, graph))
            continue
        fault = fault_of(graph)
        if fault:
            name = GRAPH_SETS.name_of(type(chunk.graph_set))
            raise PluginError(f"graph set '{name}' made of sample {number} a graph with {fault}. Mend its graph().")
        made.append(graph)
    shapes = {(graph.features.shape[1], graph.positions.shape[1], graph.weights is not None) for graph in made}
    if len(shapes) > 1:
        raise _uneven(shapes)
    with full_disk_named(chunk.file):
        np.savez(chunk.file, **_joined([_columns(graph) for graph in made]) if made else {})  # type: ignore[arg-type]  # of their allow_pickle
    return refused, next(iter(shapes), None)


def _columns(graph: SmallGraph) -> Columns:
    """One graph as columns."""
    nodes = len(graph.features)
    csr = build_csr(torch.from_numpy(graph.target), torch.from_numpy(graph.source), nodes)
    columns = {
        "nodes": np.array([nodes]),
        "edges": np.array([len(csr.indices)]),
        "features": np.asarray(graph.features, np.float32),
        "positions": np.asarray(graph.positions, np.float32),
        "degrees": csr.indptr.diff().numpy(),
        "indices": csr.indices.to(torch.int32).numpy(),
    }
    if graph.weights is not None:
        columns["weights"] = np.asarray(graph.weights, np.float32)[csr.edges.numpy()]
    return columns


def _joined(several: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([columns[name] for columns in several]) for name in several[0]}


def _cut(columns: Columns, begin: int, end: int) -> Columns:
    """The graphs `begin` to `end` of several."""
    ends = {kind: np.concatenate([[0], columns[kind].cumsum()]) for kind in ("nodes", "edges")}
    nodes, edges = (slice(ends[kind][begin], ends[kind][end]) for kind in ("nodes", "edges"))
    by_kind = {"nodes": slice(begin, end), "edges": slice(begin, end), "indices": edges, "weights": edges}
    return {name: values[by_kind.get(name, nodes)] for name, values in columns.items()}


def _part_columns(files: Sequence[Path], sizes: Sequence[int], begin: int, end: int) -> Columns:
    """The graphs `begin` to `end` of those in all scratch files, of which each has `sizes`; perhaps none."""
    pieces: list[Columns] = []
    first = 0
    for file, size in zip(files, sizes, strict=True):
        low, high = max(begin, first) - first, min(end, first + size) - first
        if low < high or (not pieces and size):  # an empty piece in front has the columns' types, if nothing else
            with np.load(file, allow_pickle=False) as arrays:
                pieces.append(_cut(dict(arrays), min(low, size), min(max(low, high), size)))
        first += size
    return _joined(pieces)


def _write(
    folder: Path, samples: Samples, usable: NDArray[np.int64], scratch: Sequence[Path], parts: int
) -> Collection:
    """Writes the columns of all parts; returns the collection, digests and failures left open."""
    offsets = np.linspace(0, len(usable), parts + 1).astype(np.int64)
    sizes = [_graphs_in(file) for file in scratch]
    files: dict[str, FileFacts] = {}
    counts = []
    for part, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        made = _part_columns(scratch, sizes, begin, end)
        counts.append(CollectionCounts(graphs=end - begin, nodes=len(made["degrees"]), edges=len(made["indices"])))
        columns = {
            **{name: values for name, values in made.items() if name not in ("nodes", "edges", "degrees")},
            "node_offsets": np.concatenate([[0], made["nodes"].cumsum()]),
            "indptr": np.concatenate([[0], made["degrees"].cumsum()]),
            **_sample_columns(samples, usable[begin:end]),
        }
        column_file(folder, part, "split").parent.mkdir()
        for name, values in columns.items():
            file = column_file(folder, part, name)
            files[str(file.relative_to(folder))] = write_column(file, values)
    means, deviations = _scales(samples, usable)
    return Collection(
        path=folder,
        digest="",
        data_digest="",
        offsets=torch.from_numpy(offsets),
        num_features=made["features"].shape[1],
        num_dimensions=made["positions"].shape[1],
        num_classes=samples.num_classes,
        class_names=samples.class_names,
        target_names=samples.target_names,
        target_means=means,
        target_deviations=deviations,
        columns=tuple(sorted({Path(name).stem for name in files})),
        counts=tuple(counts),
        failures=(),
        facts=samples.facts,
        files=files,
    )


def _graphs_in(file: Path) -> int:
    with np.load(file, allow_pickle=False) as arrays:
        return len(arrays["nodes"]) if "nodes" in arrays else 0


def _sample_columns(samples: Samples, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any] | pa.Array]:
    """What is known of some samples: `ids`, `split`, and `labels` or `targets`."""
    columns: dict[str, NDArray[Any] | pa.Array] = {
        "ids": pa.array(chosen if samples.ids is None else samples.ids[chosen]),
        "split": samples.split[chosen],
    }
    if samples.labels is not None:
        columns["labels"] = samples.labels[chosen]
    if samples.targets is not None:
        columns["targets"] = samples.targets[chosen]
    return columns


def _scales(samples: Samples, usable: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every target over the training samples; 1 where all are alike."""
    if samples.targets is None:
        return (), ()
    trained = samples.targets[usable[samples.split[usable] == TRAIN]]
    deviations = trained.std(axis=0)
    return tuple(trained.mean(axis=0).tolist()), tuple(np.where(deviations > 0, deviations, 1.0).tolist())


def _unknown_targets(samples: Samples) -> list[str]:
    """Why a sample cannot be learned from, whatever its graph: a target that is not a number. Empty where it can."""
    if samples.targets is None:
        return [""] * len(samples.contents)
    return [
        "" if np.isfinite(row).all() else f"its {samples.target_names[int(np.argmin(np.isfinite(row)))]} is not known"
        for row in samples.targets
    ]


def _failures(samples: Samples, reasons: Sequence[str]) -> tuple[Failure, ...]:
    """The samples that there is a reason against."""
    ids = range(len(reasons)) if samples.ids is None else samples.ids.tolist()
    return tuple(
        Failure(id=ids[number], split=int(samples.split[number]), reason=reason)
        for number, reason in enumerate(reasons)
        if reason
    )


def _uneven(shapes: Iterable[Shape]) -> PluginError:
    """What to say of graphs that do not fit together."""
    told = " and ".join(
        f"{columns} columns at {dimensions} dimensions with{'' if weighted else 'out'} edge weights"
        for columns, dimensions, weighted in sorted(shapes)
    )
    return PluginError(f"graphs of one data set have {told}; expected the same for all. Mend its graph().")

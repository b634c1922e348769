"""Prepare many small graphs: a data set of them becomes a collection on disk, once.

Assumptions: as for shard stores: the folder is named by a digest of everything it depends on and appears by one rename.
Graphs are made in chunks of samples, each by a call that may run in another process on the same file system; how the
samples are chunked shows in no byte of the collection. The graphs of one part at a time are held in memory.
"""

import dataclasses
import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from framework import config
from framework.data.dataset import TRAIN, Mapper, each
from framework.data.digests import remembering
from framework.data.graph_sets import GraphSet, Samples, check_samples
from framework.errors import InputError
from framework.graph.collection import VERSION, Collection, CollectionCounts, Failure
from framework.prepare.graph_chunks import Chunk, Shape, graphs_in, make_graphs, part_columns, uneven
from framework.prepare.spill import Progress
from framework.store.columns import FileFacts, column_file, write_column
from framework.store.folder import once

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
    root = root.absolute()  # other processes, in other folders, are told of it

    def make(folder: Path) -> None:
        draft = _build(graph_set, parts, folder, root / CACHE, mapper, told, chunk)
        dataclasses.replace(draft, digest=digest, data_digest=data_digest).seal()

    collection, reused = once(root / digest[:16], Collection.open, make)
    return PreparedGraphs(collection=collection, seconds=time.monotonic() - began, reused=reused)


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
        Chunk(
            graph_set=graph_set,
            contents=[samples.contents[number] for number in numbers],
            numbers=numbers,
            file=scratch / f"{place:09d}.npz",
            cache=cache,
        )
        for place, numbers in enumerate(np.split(known, range(chunk, len(known), chunk)))
    ]
    shapes: set[Shape] = set()
    for done, (refused, shape) in enumerate(each(mapper, make_graphs, chunks)):
        for number, reason in refused:
            reasons[number] = reason
        shapes |= set() if shape is None else {shape}
        told("make graphs", (done + 1) / len(chunks))
    if len(shapes) > 1:
        raise uneven(shapes)
    usable = np.flatnonzero([not reason for reason in reasons])
    if not (samples.split[usable] == TRAIN).any():
        first = next(reason for reason in reasons if reason)
        raise InputError(f"no training sample has a graph (one reason: {first}); look at the raw data.")
    draft = _write(folder, samples, usable, [item.file for item in chunks], parts)
    shutil.rmtree(scratch)
    return dataclasses.replace(draft, failures=_failures(samples, reasons))


def _write(
    folder: Path, samples: Samples, usable: NDArray[np.int64], scratch: Sequence[Path], parts: int
) -> Collection:
    """Writes the columns of all parts; returns the collection, digests and failures left open."""
    offsets = np.arange(parts + 1) * len(usable) // parts
    sizes = [graphs_in(file) for file in scratch]
    files: dict[str, FileFacts] = {}
    counts = []
    for part, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        made = part_columns(scratch, sizes, begin, end)
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
    differ = trained.max(axis=0) > trained.min(axis=0)  # the deviation of equal values may be a rounding error
    return tuple(trained.mean(axis=0).tolist()), tuple(np.where(differ, trained.std(axis=0), 1.0).tolist())


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

"""Prepare: a data set, a partitioner and a number of parts become a shard store, once.

Assumptions: the store's folder is named by a digest of everything it depends on, so one that is there and whole is the
answer. Work goes on in a hidden folder beside it, which is renamed in one step at the end: nothing half-written is ever
found under a store's name. What has one number a node is held in memory, and the edges of one part at a time; edges
and feature rows pass through scratch files, bucketed by part.
"""

import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framework import config
from framework.data.check import check_graph
from framework.data.dataset import Dataset, IngestedDataset, Mapper
from framework.data.digests import file_digest, remembering
from framework.errors import InputError, PluginError
from framework.graph.build import Numbering
from framework.graph.edges import EdgeStream
from framework.graph.shard import PartCounts
from framework.graph.store import VERSIONS, ShardStore
from framework.partition import EdgeCut, Placement, Quality, VertexCut, balance, kind_of, place
from framework.prepare.shards import write_shards
from framework.prepare.spill import Progress, spill_edges, spill_features
from framework.registry import PARTITIONERS, is_ours
from framework.store.folder import once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A store that is ready, and what it took."""

    path: Path
    """The store's folder."""
    digest: str
    """What the store is a function of: data, partitioner (with its code, where that is not ours), parts, format."""
    data_digest: str
    """The data set's fingerprint."""
    seconds: float
    """Wall time of this call."""
    quality: dict[str, Any]
    """What the partition is worth (framework.partition.Quality)."""
    reused: bool
    """Whether the store was there already."""


def prepare(
    dataset: Dataset | IngestedDataset,
    partitioner: EdgeCut | VertexCut,
    parts: int,
    root: Path,
    *,
    mapper: Mapper = map,
    progress: Progress | None = None,
) -> Prepared:
    """The store of `dataset` cut into `parts` by `partitioner`, in a folder beneath `root`; at once where it is there.

    `mapper` runs the work on single raw files; the bytes of the shards do not depend on it. Raises InputError for raw
    data, a number of parts or a partitioner that cannot be used, and for a full disk, which leaves nothing behind."""
    began = time.monotonic()
    root = root.absolute()  # other processes, in other folders, are told of it
    _check_parts(parts)
    told = progress or _told_nobody
    told("fingerprint", 0.0)
    with remembering(root):
        data_digest = dataset.fingerprint()
    spec = config.encode(partitioner, result_only=True)
    digest = config.digest([data_digest, spec, parts, VERSIONS[kind_of(partitioner)], *_code_of(partitioner)])

    def make(folder: Path) -> None:
        draft = _build(dataset, partitioner, parts, folder, mapper, told)
        dataclasses.replace(draft, digest=digest, data_digest=data_digest).seal()

    path = root / digest[:16]
    store, reused = once(path, ShardStore.open, make)
    return Prepared(
        path=path,
        digest=digest,
        data_digest=data_digest,
        seconds=time.monotonic() - began,
        quality=dict(store.quality),
        reused=reused,
    )


def _told_nobody(step: str, fraction: float) -> None:
    """Progress that nobody asked for."""


def _check_parts(parts: int) -> None:
    if not isinstance(parts, int) or parts < 1:
        raise InputError(f"parts is {parts!r}; expected a whole number of at least 1.")


def _code_of(partitioner: EdgeCut | VertexCut) -> list[str]:
    """The digest of the file that defines somebody else's plug-in, which says no version when it answers otherwise.
    Nothing for a built-in, and for a class that no file defines."""
    module = type(partitioner).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return [] if is_ours(module) or not file or not Path(file).is_file() else [file_digest(Path(file))]


def _placed(partitioner: EdgeCut | VertexCut, graph: EdgeStream, parts: int) -> Placement:
    """As `place`; where the partitioner is at fault, the message says how to look at it more closely."""
    try:
        return place(partitioner, graph, parts)
    except PluginError as error:
        name = PARTITIONERS.name_of(type(partitioner))
        raise PluginError(f"{error} `shardyard check partitioner {name}` tries it on small graphs.") from error


def _require_measured(partitioner: EdgeCut | VertexCut, quality: Quality, counts: Sequence[PartCounts]) -> None:
    """Raises PluginError for a vertex-cut whose shards are not what was measured: it answered otherwise the second
    time."""
    mirrors, edge_balance = sum(count.halo for count in counts), balance(np.array([count.edges for count in counts]))
    if (mirrors, edge_balance) != (quality.communication_volume, quality.edge_balance):
        raise PluginError(
            f"partitioner '{PARTITIONERS.name_of(type(partitioner))}' answered otherwise the second time: {mirrors} "
            f"mirrors and an edge balance of {edge_balance:g}, after {quality.communication_volume} and "
            f"{quality.edge_balance:g}; expected the same answer each time. Draw under a seed."
        )


def _build(
    dataset: Dataset | IngestedDataset,
    partitioner: EdgeCut | VertexCut,
    parts: int,
    folder: Path,
    mapper: Mapper,
    told: Progress,
) -> ShardStore:
    """Writes every file of the store but the manifest into `folder`; returns what that will say, digests yet open."""
    scratch = folder / "scratch"
    ingested = scratch / "ingested"
    ingested.mkdir(parents=True)
    told("ingest", 0.0)
    raw = dataset.ingest(ingested, mapper) if isinstance(dataset, IngestedDataset) else dataset.open()
    check_graph(raw)
    told("partition", 0.0)
    placement = _placed(partitioner, raw.stream(), parts)
    spill_edges(raw, placement, scratch, mapper, told)
    spill_features(raw, placement, scratch, told)
    kind, quality = placement.kind, placement.quality
    numbering = Numbering.of(placement.owners, parts, placement.shared)
    del placement  # its bits, one a node and part, are not needed any more
    files, counts = write_shards(raw, numbering, kind, scratch, folder, told)
    if kind == "vertex-cut":
        _require_measured(partitioner, quality, counts)
    draft = ShardStore(
        path=folder,
        digest="",
        data_digest="",
        num_nodes=raw.edges.num_nodes,
        num_edges=raw.edges.num_edges,
        parts=parts,
        offsets=torch.from_numpy(numbering.offsets),
        num_features=raw.features.shape[1] if raw.features else 0,
        num_classes=raw.num_classes,
        class_names=raw.class_names,
        columns=tuple(sorted({Path(name).stem for name in files})),
        counts=counts,
        partitioner=config.encode(partitioner),
        quality=dataclasses.asdict(quality),
        files=files,
        kind=kind,
    )
    shutil.rmtree(scratch)
    return draft

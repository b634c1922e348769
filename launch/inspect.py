"""What a folder of ours is, told by its content, and whether every byte of it is as it was written.

What was prepared has a manifest.json, which says what it is, a checkpoint a checkpoint.json, a run's folder a run.json,
a pipeline's a pipeline.json.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from framework.engine import checkpoint as checkpoints
from framework.engine.folder import CHECKPOINTS, REPORT, RUN, encoded_run, read_mapping, read_run, verify_weights
from framework.engine.recorded import recorded_digest
from framework.engine.state import weights_digest
from framework.errors import InputError, StoreError
from framework.graph import collection
from framework.graph.collection import Collection
from framework.graph.store import ShardStore
from framework.samples import images, pairs
from framework.samples.images import ImageStore
from framework.samples.pairs import PairReader, PairStore
from framework.store import product
from framework.store.manifest import MANIFEST, format_of
from framework.store.product import ProductFolder
from framework.workloads.samples import SPLITS
from launch.record import DIGEST, PIPELINE

_INDEX = "checkpoint.json"
_EXPECTED = (
    "the folder of a shard store (manifest.json), a checkpoint (checkpoint.json), a run (run.json) or a pipeline "
    "(pipeline.json)"
)
_NAMED = 3  # folders that are meant, perhaps: the last ones, which are the newest checkpoints
_LONGEST_NAME = 200
_REMEDY = "Start the run again to write it anew."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found."""

    kind: Literal["store", "collection", "images", "pairs", "product", "checkpoint", "run", "pipeline"]
    """What the folder is."""
    path: str
    """The folder."""
    facts: Mapping[str, Any]
    """What it says of itself: names and plain values."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """What it is made of, a row each: shards, parts, files, tensors, checkpoints, steps."""
    verified: bool = False
    """Whether every byte was read and compared with its digest."""


def inspect(path: Path, *, verify: bool = False) -> Inspection:
    """Tells what `path` (a folder, or the file that marks one) is. With `verify`, reads every byte.

    Raises StoreError where something is missing, torn or altered, InputError for a folder that is none of ours."""
    readers: dict[str, Callable[[Path, bool], Inspection]] = {
        MANIFEST: _prepared,
        _INDEX: _checkpoint,
        RUN: _run,
        PIPELINE: _pipeline,
        REPORT: _run,
    }
    try:
        folder = path.parent if path.is_file() and path.name in readers else path
        for mark, read in readers.items():
            if (folder / mark).exists():
                return read(folder, verify)
        if not path.exists():
            raise InputError(f"'{path}' is not there; expected {_EXPECTED}.")
        raise InputError(f"'{path}' is {_misnamed(path, list(readers))}")
    except OSError as error:
        raise InputError(f"'{_named(path)}' cannot be read: {error.strerror}.") from error


def _named(path: Path) -> str:
    """A path as it can be read in one line."""
    return str(path) if len(str(path)) <= _LONGEST_NAME else f"{str(path)[:_LONGEST_NAME]}..."


def _misnamed(path: Path, marks: list[str]) -> str:
    """What a path is that is none of ours, and which one near it is meant, if one is."""
    if path.is_file():
        what, near = "a file", [folder for folder in path.absolute().parents if _has_one(folder, marks)][:1]
    else:
        what, near = "none of ours", sorted(folder for folder in path.iterdir() if _has_one(folder, marks))
        near += [path.absolute().parent] if _has_one(path.absolute().parent, marks) else []
    give = " or ".join(f"'{_shown(folder)}'" for folder in near[-_NAMED:])
    return f"{what}; expected {_EXPECTED}.{f' Give {give}.' if give else ''}"


def _has_one(folder: Path, marks: list[str]) -> bool:
    return any((folder / mark).is_file() for mark in marks)


def _shown(folder: Path) -> Path:
    """A folder as a user would name it from here."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _prepared(folder: Path, verify: bool) -> Inspection:
    readers = {
        collection.FORMAT: _collection,
        images.FORMAT: _images,
        pairs.FORMAT: _pairs,
        product.FORMAT: _product,
    }
    return readers.get(format_of(folder), _store)(folder, verify)


def _product(folder: Path, verify: bool) -> Inspection:
    found = ProductFolder.open(folder)
    if verify:
        found.verify()
    facts = {"digest": found.digest, **dict(_flat(found.facts))}
    parts = tuple({"file": name, "bytes": file.bytes} for name, file in found.files.items())
    return Inspection(kind="product", path=str(folder), facts=facts, parts=parts, verified=verify)


def _collection(folder: Path, verify: bool) -> Inspection:
    found = Collection.open(folder)
    if verify:
        found.verify()
    facts = {
        "graphs": found.num_graphs,
        "nodes": sum(counts.nodes for counts in found.counts),
        "edges": sum(counts.edges for counts in found.counts),
        "features": found.num_features,
        "dimensions": found.num_dimensions,
        "classes": found.num_classes,
        "targets": ", ".join(found.target_names),
        "parts": found.parts,
        "bytes": sum(file.bytes for file in found.files.values()),
        "digest": found.digest,
        "data_digest": found.data_digest,
        **found.facts,
        **{f"failed: {failure.id}": failure.reason for failure in found.failures},
    }
    parts = tuple({"part": part, **dataclasses.asdict(counts)} for part, counts in enumerate(found.counts))
    return Inspection(kind="collection", path=str(folder), facts=facts, parts=parts, verified=verify)


def _images(folder: Path, verify: bool) -> Inspection:
    found = ImageStore.open(folder)
    if verify:
        found.verify()
    facts = {
        "images": found.num_images,
        "size": " x ".join(map(str, found.shape)),
        "classes": found.num_classes,
        "names": ", ".join(found.class_names),
        "means": ", ".join(f"{mean:.4f}" for mean in found.means),
        "deviations": ", ".join(f"{deviation:.4f}" for deviation in found.deviations),
        "parts": found.parts,
        "bytes": sum(file.bytes for file in found.files.values()),
        "digest": found.digest,
        "data_digest": found.data_digest,
    }
    parts = tuple({"part": part, "images": count} for part, count in enumerate(found.offsets.diff().tolist()))
    return Inspection(kind="images", path=str(folder), facts=facts, parts=parts, verified=verify)


def _pairs(folder: Path, verify: bool) -> Inspection:
    found = PairStore.open(folder)
    if verify:
        found.verify()
    reader = PairReader(found)
    counts: dict[str, int] = {name: int((reader.split == value).sum()) for name, value in SPLITS}
    facts = {
        "pairs": found.num_pairs,
        **counts,
        "source_tokens": int(reader.source_lengths.sum()),
        "target_tokens": int(reader.target_lengths.sum()),
        "vocabulary": found.vocabulary_size,
        "vocabulary_digest": found.vocabulary_digest,
        "parts": found.parts,
        "bytes": sum(file.bytes for file in found.files.values()),
        "digest": found.digest,
        "data_digest": found.data_digest,
        **found.facts,
    }
    parts = tuple({"part": part, "pairs": count} for part, count in enumerate(found.offsets.diff().tolist()))
    return Inspection(kind="pairs", path=str(folder), facts=facts, parts=parts, verified=verify)


def _store(folder: Path, verify: bool) -> Inspection:
    store = ShardStore.open(folder)
    if verify:
        store.verify()
    facts = {
        "nodes": store.num_nodes,
        "edges": store.num_edges,
        "features": store.num_features,
        "classes": store.num_classes,
        "parts": store.parts,
        "partitioner": _settings(store.partitioner),
        "kind": store.kind,
        "bytes": sum(file.bytes for file in store.files.values()),
        "digest": store.digest,
        "data_digest": store.data_digest,
        **{f"quality.{name}": value for name, value in store.quality.items()},
    }
    parts = tuple({"part": part, **dataclasses.asdict(counts)} for part, counts in enumerate(store.counts))
    return Inspection(kind="store", path=str(folder), facts=facts, parts=parts, verified=verify)


def _checkpoint(folder: Path, verify: bool) -> Inspection:
    found = checkpoints.read(folder)  # compares every file with its digest, asked for or not
    losses = found.facts.get("losses", [])
    facts = {
        "epoch": found.epoch,
        "step": found.step,
        "loss": losses[-1] if losses else None,
        **found.facts.get("metrics", {}),
        "run_digest": found.run_digest,
        "weights_digest": weights_digest(found.tensors.get("model", {})),
    }
    parts = tuple(
        {"file": file, "tensor": name, "type": str(tensor.dtype), "shape": list(tensor.shape)}
        for file, tensors in found.tensors.items()
        for name, tensor in sorted(tensors.items())
    )
    return Inspection(kind="checkpoint", path=str(folder), facts=facts, parts=parts, verified=True)


def _run(folder: Path, verify: bool) -> Inspection:
    report = read_mapping(folder / REPORT, _REMEDY) if (folder / REPORT).exists() else {}
    facts = dict(_flat(encoded_run(folder))) if (folder / RUN).exists() else {}
    facts |= {
        "finished": bool(report) and _is_of(report, folder),
        **{f"report.{name}": value for name, value in _flat(report)},
    }
    names = checkpoints.places(folder / CHECKPOINTS)
    if verify:
        for name in names:
            checkpoints.read(folder / CHECKPOINTS / name)
        if "weights_digest" in report:
            verify_weights(folder, report, _REMEDY)
    parts = tuple({"checkpoint": name} for name in names)
    return Inspection(kind="run", path=str(folder), facts=facts, parts=parts, verified=verify)


def _pipeline(folder: Path, verify: bool) -> Inspection:
    encoded = read_mapping(folder / PIPELINE, _REMEDY)
    report = read_mapping(folder / REPORT, _REMEDY) if (folder / REPORT).exists() else {"steps": {}}
    same = report.get(DIGEST) == encoded.get(DIGEST, report.get(DIGEST))  # older folders do not say
    facts = dict(_flat(encoded)) | {"finished": same and report.get("finished", False)}
    parts = []
    steps, made = (held.get("steps") for held in (encoded, report))
    if not isinstance(steps, dict) or not isinstance(made, dict):
        torn = PIPELINE if not isinstance(steps, dict) else REPORT
        raise StoreError(f"'{folder / torn}' is no pipeline's: it has no steps. {_REMEDY}")
    for name in steps:
        told = made.get(name, {})
        place = _place(folder, told["path"]) if told else "not made yet"
        if verify and told:
            inspect(Path(place), verify=True)
        parts.append({"step": name, "digest": told.get("digest", "")[:16], "folder": str(place)})
    return Inspection(kind="pipeline", path=str(folder), facts=facts, parts=tuple(parts), verified=verify)


def _is_of(report: Mapping[str, Any], folder: Path) -> bool:
    """Whether a report is of the run that its folder is of now, which may have been begun again with more epochs.

    Nothing is imported that no installed plug-in announces: such a run is told by its epochs."""
    if not (folder / RUN).exists():
        return True
    encoded = encoded_run(folder)
    try:
        now = recorded_digest(encoded, read_run(folder))
    except (InputError, StoreError):
        early = encoded.get("patience") is not None
        return early or report.get("epochs", encoded.get("epochs")) == encoded.get("epochs")
    return bool(report.get("run_digest", now) == now)


def _place(folder: Path, path: str) -> Path:
    """Where what a step made lies: a run's folder beside it, wherever the pipeline's has been moved to."""
    beside = folder / Path(path).name
    return beside if beside.is_dir() else Path(path)


def _settings(encoded: Mapping[str, Any]) -> str:
    """An encoded plug-in on one line: `fennel gamma=1.5 passes=2`."""
    fields = [f"{name}={value}" for name, value in encoded.items() if name != "plugin"]
    return " ".join([str(encoded.get("plugin", "")).rpartition(":")[2], *fields])


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Nested names joined by dots, with the plain values they lead to; a plug-in's name stands for the plug-in."""
    rows: list[tuple[str, Any]] = []
    for name, inner in value.items():
        here = ".".join(filter(None, [path, name if name != "plugin" else ""]))
        rows += _flat(inner, here) if isinstance(inner, Mapping) else [(here or name, inner)]
    return rows

"""Prepare pairs of sentences: a data set of them becomes a vocabulary and a store of tokens on disk, once.

Assumptions: as for shard stores: a folder is named by a digest of everything it depends on and appears by one rename.
The vocabulary has a folder of its own, for sets made of the same set share it. Sentences are tokenised a part at a
time, each by a call that may run in another process on the same file system; who does it shows in no byte.
"""

import dataclasses
import itertools
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from framework import config
from framework.data.dataset import TRAIN, Mapper, each
from framework.data.digests import remembering
from framework.data.pair_sets import PairSet, RawPairs, check_pairs
from framework.graph.pairs import require_scratch
from framework.prepare.spill import Progress
from framework.samples.pairs import VERSION, VOCABULARY, PairStore
from framework.samples.vocabulary import Vocabulary
from framework.store.columns import FileFacts, column_file, write_column
from framework.store.folder import once
from framework.store.manifest import read_manifest, write_manifest

PAIRS_A_PART = 8192
VOCABULARY_FORMAT, VOCABULARY_VERSION = "shardyard-vocabulary", 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedPairs:
    """A store of pairs that is ready, and what it took."""

    store: PairStore
    """The store."""
    seconds: float
    """Wall time of this call."""
    reused: bool
    """Whether it was there already."""


def prepare_pairs(
    pair_set: PairSet,
    vocabulary_size: int,
    root: Path,
    *,
    mapper: Mapper = map,
    progress: Progress | None = None,
    pairs_a_part: int = PAIRS_A_PART,
) -> PreparedPairs:
    """The store of `pair_set` in tokens of a vocabulary of that size, in a folder beneath `root`; at once where it is
    there. Raises InputError for raw data that cannot be used, and for a full disk, which leaves nothing behind."""
    began = time.monotonic()
    told = progress or (lambda step, fraction: None)
    told("fingerprint", 0.0)
    root = root.absolute()  # other processes, in other folders, are told of it
    with remembering(root):
        fingerprint = pair_set.fingerprint()
        told("learn vocabulary", 0.0)
        vocabulary = prepare_vocabulary(pair_set.origin(), vocabulary_size, root)
    data_digest = config.digest([fingerprint, vocabulary.digest])
    digest = config.digest([data_digest, pairs_a_part, VERSION])

    def make(folder: Path) -> None:
        told("read", 0.0)
        raw = pair_set.open()
        check_pairs(raw)
        draft = _written(folder, raw, vocabulary, pairs_a_part, mapper, told)
        dataclasses.replace(draft, digest=digest, data_digest=data_digest).seal()

    store, reused = once(root / digest[:16], PairStore.open, make)
    return PreparedPairs(store=store, seconds=time.monotonic() - began, reused=reused)


def prepare_vocabulary(pair_set: PairSet, size: int, root: Path) -> Vocabulary:
    """The vocabulary of `size` tokens of the training sentences of both sides, in a folder beneath `root`; read where
    it is there. Raises InputError as Vocabulary.learn."""
    library = version("sentencepiece")  # others may join other pairs
    digest = config.digest([pair_set.fingerprint(), size, library, VOCABULARY_FORMAT, VOCABULARY_VERSION])

    def make(folder: Path) -> None:
        raw = pair_set.open()
        check_pairs(raw)
        trained = pa.array(raw.split == TRAIN)
        sentences = itertools.chain.from_iterable(side.filter(trained).to_pylist() for side in (raw.source, raw.target))
        file = folder / VOCABULARY
        file.write_bytes(Vocabulary.learn(sentences, size).model)
        content = {"digest": digest, "files": {VOCABULARY: FileFacts.of(file)}}
        write_manifest(folder, content, format=VOCABULARY_FORMAT, version=VOCABULARY_VERSION)

    def open(folder: Path) -> Vocabulary:
        read_manifest(folder, format=VOCABULARY_FORMAT, versions=[VOCABULARY_VERSION], what="vocabulary")
        return Vocabulary.read(folder / VOCABULARY)

    vocabulary, _ = once(root / digest[:16], open, make)
    return vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """The pairs of a part, to be tokenised by one call."""

    folder: Path
    """The store's, which holds the vocabulary and takes the part."""
    part: int
    """The part's number."""
    source: list[str]
    """Sentences."""
    target: list[str]
    """Their translations."""
    split: NDArray[np.uint8]
    """What they are for."""
    ids: NDArray[Any]
    """Their raw ids."""


def _written(
    folder: Path, raw: RawPairs, vocabulary: Vocabulary, pairs_a_part: int, mapper: Mapper, told: Progress
) -> PairStore:
    """Writes every file of the store but the manifest; returns what that will say, digests open."""
    number = len(raw.source)
    ids = np.arange(number) if raw.ids is None else raw.ids
    offsets = [*range(0, number, pairs_a_part), number]
    (folder / VOCABULARY).write_bytes(vocabulary.model)
    pieces = [
        Piece(
            folder=folder,
            part=part,
            source=raw.source[begin:end].to_pylist(),
            target=raw.target[begin:end].to_pylist(),
            split=raw.split[begin:end],
            ids=ids[begin:end],
        )
        for part, (begin, end) in enumerate(itertools.pairwise(offsets))
    ]
    files = {VOCABULARY: FileFacts.of(folder / VOCABULARY)}
    for done, facts in enumerate(each(mapper, tokenize, pieces), 1):
        files |= facts
        told("tokenize", done / len(pieces))
    return PairStore(
        path=folder,
        digest="",
        data_digest="",
        offsets=torch.tensor(offsets),
        vocabulary_size=len(vocabulary),
        vocabulary_digest=vocabulary.digest,
        facts=raw.facts,
        files=files,
    )


def tokenize(piece: Piece) -> Mapping[str, FileFacts]:
    """Writes the columns of a part; returns the facts of their files by their paths in the store."""
    require_scratch(piece.folder)
    vocabulary = Vocabulary.read(piece.folder / VOCABULARY)
    columns: dict[str, Any] = {"split": piece.split, "ids": pa.array(piece.ids)}
    for side, texts in (("source", piece.source), ("target", piece.target)):
        sentences = vocabulary.encode(texts)
        columns[f"{side}_text"] = pa.array(texts, pa.string())
        columns[f"{side}_tokens"] = np.fromiter(itertools.chain.from_iterable(sentences), dtype=np.int32)
        columns[f"{side}_offsets"] = np.cumsum([0, *map(len, sentences)], dtype=np.int64)
    files = {}
    column_file(piece.folder, piece.part, "split").parent.mkdir()
    for name, values in columns.items():
        file = column_file(piece.folder, piece.part, name)
        files[str(file.relative_to(piece.folder))] = write_column(file, values)
    return files

"""Pairs of sentences on disk: a folder with a manifest, a vocabulary, and a folder of Arrow files a part; their reader.

Assumptions: pairs are numbered 0 to s - 1 in the order of the raw data, and part p holds the pairs offsets[p] to
offsets[p + 1]. A store appears whole (by rename) and is never written again. One number a pair (its lengths, its split)
fits in memory; tokens and texts are read where they are mapped. Every sentence ends with EOS, and so has a token.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from framework.errors import StoreError
from framework.random import Key
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import PAD, Vocabulary
from framework.store.columns import REMEDY, FileFacts, column_file, map_column, part_folder, read_column
from framework.store.manifest import read_manifest, verify_files, write_manifest

Side = Literal["source", "target"]

FORMAT = "shardyard-pairs"
VERSION = 1
"""Of the format: raised whenever what is written changes, so that older pairs are prepared again."""
VOCABULARY = "vocabulary.model"
"""The vocabulary's file in a store."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairStore:
    """Prepared pairs on disk."""

    path: Path
    """The folder."""
    digest: str
    """What the store is a function of: data, vocabulary, pairs a part, format. 64 hex digits."""
    data_digest: str
    """What the pairs are: the fingerprint of their data set, and their vocabulary."""
    offsets: Tensor
    """Part p holds the pairs offsets[p] to offsets[p + 1]. int64 [parts + 1]."""
    vocabulary_size: int
    """Tokens of the vocabulary."""
    vocabulary_digest: str
    """SHA-256 of its file."""
    facts: Mapping[str, Any]
    """What the data set says of itself: pairs that were left out, and why."""
    files: Mapping[str, FileFacts]
    """Every file but the manifest, by its path inside the folder."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.offsets) - 1

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return int(self.offsets[-1])

    @classmethod
    def open(cls, path: Path | str) -> "PairStore":
        """The store in the folder `path`. Raises StoreError for one that is missing, torn, altered or newer."""
        path = Path(path)
        content = read_manifest(path, format=FORMAT, versions=[VERSION], what="store of pairs of sentences")
        return cls(**{**content, "path": path, "offsets": torch.tensor(content["offsets"], dtype=torch.int64)})

    def seal(self) -> None:
        """Writes the manifest into the store's folder: the last step of making one. Raises OSError."""
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["path"]
        write_manifest(
            self.path,
            {**fields, "offsets": self.offsets.tolist(), "facts": dict(self.facts)},
            format=FORMAT,
            version=VERSION,
        )

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of both sides, every byte of it compared. Raises StoreError for a damaged file."""
        vocabulary = Vocabulary.read(self.path / VOCABULARY)
        if vocabulary.digest != self.vocabulary_digest:
            raise StoreError(f"'{self.path / VOCABULARY}' was altered: it is not the vocabulary of the pairs. {REMEDY}")
        return vocabulary

    def tokens(self, part: int, side: Side) -> tuple[Tensor, Tensor]:
        """The sentences of a part's side, mapped: tokens int32 [t], and offsets int64 [n + 1] of the n sentences in it.

        Raises StoreError for a damaged file."""
        tokens, offsets = (map_column(column_file(self.path, part, f"{side}_{name}")) for name in ("tokens", "offsets"))
        expected = int(self.offsets[part + 1] - self.offsets[part]) + 1
        if len(offsets) != expected or int(offsets[-1]) != len(tokens):
            file = column_file(self.path, part, f"{side}_offsets")
            raise StoreError(f"'{file}' has {len(offsets)} rows and does not fit the tokens beside it. {REMEDY}")
        return tokens, offsets

    def split(self) -> Tensor:
        """What every pair is for: uint8 [s], the values of framework.data.dataset. Raises StoreError."""
        return torch.cat([map_column(column_file(self.path, part, "split")) for part in range(self.parts)])

    def raw_ids(self) -> pa.ChunkedArray:
        """The ids that the raw data knows the pairs by: int64 or text [s]. Raises StoreError for a damaged file."""
        return self._chunks("ids")

    def texts(self, side: Side) -> pa.ChunkedArray:
        """The sentences as they were given: text [s], mapped. Raises StoreError for a damaged file."""
        return self._chunks(f"{side}_text")

    def verify(self, part: int | None = None) -> None:
        """Reads every byte of every file, or of one part's. Raises StoreError that names one not as its digest says."""
        verify_files(self.path, self.files, within="" if part is None else part_folder(part))

    def _chunks(self, column: str) -> pa.ChunkedArray:
        return pa.chunked_array([read_column(column_file(self.path, part, column)) for part in range(self.parts)])


class PairReader:
    """Reads pairs by their numbers, wherever they lie."""

    def __init__(self, store: PairStore) -> None:
        """Maps all parts. Raises StoreError for a damaged file."""
        self.store = store
        self.split = store.split()
        """What every pair is for: uint8 [s]."""
        self._sides = {side: [store.tokens(part, side) for part in range(store.parts)] for side in _SIDES}
        self.source_lengths = self._lengths("source")
        """Tokens of every source sentence, EOS counted: int64 [s]."""
        self.target_lengths = self._lengths("target")
        """Tokens of every target sentence, EOS counted: int64 [s]."""

    def tokens(self, side: Side, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The sentences of `samples` (int64 [n], in any order): int64 [n, L], PAD behind the end, and lengths [n]."""
        lengths = (self.source_lengths if side == "source" else self.target_lengths)[samples]
        places = torch.arange(int(lengths.max()) if len(lengths) else 0)
        rows = torch.full((len(samples), len(places)), PAD, dtype=torch.int64)
        ascending, order = samples.sort()
        ends = torch.searchsorted(ascending, self.store.offsets).tolist()
        for part, (begin, end) in enumerate(itertools.pairwise(ends)):
            if begin < end:
                tokens, offsets = self._sides[side][part]
                first = offsets[ascending[begin:end] - self.store.offsets[part]]
                entries = (first[:, None] + places).clamp(max=len(tokens) - 1)
                rows[order[begin:end]] = tokens[entries].long()
        return rows.masked_fill_(places >= lengths[:, None], PAD), lengths

    def lengths(self, samples: Tensor) -> Tensor:
        """Number, source length and target length of pairs int64 [n]: int64 [n, 3]."""
        return torch.stack([samples, self.source_lengths[samples], self.target_lengths[samples]], dim=1)

    def batch(self, samples: Tensor, everyone: Tensor, *, key: Key) -> PairBatch:
        """The pairs `samples` (int64 [n]) as a share of a global batch of `everyone`, as `lengths` gives it."""
        source, source_lengths = self.tokens("source", samples)
        target, target_lengths = self.tokens("target", samples)
        return PairBatch(
            samples=samples,
            source=source,
            source_lengths=source_lengths,
            target=target,
            target_lengths=target_lengths,
            key=key,
            everyone=everyone,
        )

    def texts(self, side: Side, samples: Tensor) -> list[str]:
        """The sentences of `samples` (int64 [n]) as they were given."""
        texts: list[str] = self.store.texts(side).take(pa.array(samples.numpy())).to_pylist()
        return texts

    def _lengths(self, side: Side) -> Tensor:
        return torch.cat([offsets.diff() for _, offsets in self._sides[side]])


_SIDES: tuple[Side, Side] = ("source", "target")

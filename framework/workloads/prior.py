"""A prior over target words as a step of a pipeline: from raw data, for a student that learns from a teacher's.

Ding et al., "Understanding and improving lexical choice in non-autoregressive translation", ICLR 2021.
"""

import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.data.dataset import TRAIN
from framework.engine.run import Event, Mapper, Run
from framework.errors import InputError, StoreError
from framework.kernels.sparse_rows import SparseRows
from framework.lexicon.arrays import read_arrays, write_arrays
from framework.lexicon.pair_priors import ALIGNER, ROWS, write_rows
from framework.lexicon.pairwise import joined_pairwise
from framework.lexicon.prior import Flattening, TypeCounts, flattened, heaviest, mean_of
from framework.made import Made
from framework.samples.pairs import PairReader
from framework.store.folder import once
from framework.workloads.agreement import require_same_pairs
from framework.workloads.align import Alignment, learned_from, told
from framework.workloads.decode import translating_of
from framework.workloads.forced import Forcing, LinkedTypes, cut, forced
from framework.workloads.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """What is known of a target word by the source word that it comes from."""

    align: Made
    """The step `Align`, of raw pairs."""
    student: Made | None = None
    """The step that trained a student on the same pairs: what it predicts is asked too. None: the alignment alone."""
    alignment: bool = True
    """Whether how often words are linked is asked; with a student as well, the prior is the mean of both."""
    flattening: Flattening = Flattening()
    """How frequencies of links become a distribution, and how long a row may be."""
    kept: int = 64
    """The likeliest tokens of a student's prediction, which are added up; the rest of it is left out."""
    piece_tokens: int = 2048
    """Tokens of either side that a student predicts at a time, at most, padding counted."""

    def __post_init__(self) -> None:
        if not self.alignment and self.student is None:
            raise InputError("a prior of neither alignment nor student says nothing; name one of them.")
        for name in ("kept", "piece_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a whole number of at least 1.")

    def agree(self, steps: Mapping[str, Any]) -> None:
        """Refuses a student of other pairs than those that were aligned, or of another vocabulary."""
        require_same_pairs(self, {"student": self.student}, steps)

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Writes the rows, and a copy of the aligner's model.

        Raises InputError for steps that made something else, or of other pairs; StoreError for damaged folders."""
        alignment, top = Alignment.of(self.align), self.flattening.top
        priors: list[SparseRows] = []
        if self.alignment:
            priors.append(flattened(alignment.table().relative(), self.flattening))
        if self.student is not None:
            priors.append(heaviest(self._predicted(self.student, alignment, work, mapper, watch), top))
        rows = mean_of(priors, top)
        (folder / ROWS).mkdir()
        write_rows(rows, folder / ROWS)
        shutil.copytree(alignment.model, folder / ALIGNER)
        known = alignment.product.facts
        return {
            **{name: known[name] for name in ("aligner", "pairs_digest", "vocabulary", "vocabulary_digest")},
            "types": int(rows.known.sum()),
            "entries": len(rows.tokens),
            "bytes": sum(array.numel() * array.element_size() for array in (rows.indptr, rows.tokens, rows.weights)),
        }

    def _predicted(
        self, student: Made, alignment: Alignment, work: Path, mapper: Mapper, watch: Callable[[Event], None]
    ) -> TypeCounts:
        """What the student predicts where source tokens are linked to, over the training pairs, by source type."""
        run, store = learned_from(student, mapper, watch)
        if store.digest != alignment.product.facts["pairs_digest"]:
            raise InputError(
                f"step '{student.step}' learned from other pairs than '{self.align.step}' aligned; expected the same."
            )
        reader = PairReader(store)
        asked = cut(_trained_on(run, reader), reader, self.piece_tokens)
        forcing = Forcing(
            translating=translating_of(run, student, store.vocabulary_size), summary=LinkedTypes(kept=self.kept)
        )
        missing = [number for number in range(len(asked)) if not _folder(work, number).exists()]
        found = forced(forcing, [asked[number] for number in missing], reader, alignment.links(), mapper)
        for number, counts in zip(missing, found, strict=True):
            once(_folder(work, number), _present, functools.partial(_write, counts))
            told(watch, "ask the student", (number + 1) / len(asked))
        return summed(_read(_folder(work, number), store.vocabulary_size) for number in range(len(asked)))


def _trained_on(run: Run, reader: PairReader) -> Tensor:
    """The training pairs that the run did not leave out for their length: int64 [n]."""
    longest = run.workload.longest if isinstance(run.workload, Translation) else sys.maxsize
    short = (reader.source_lengths <= longest) & (reader.target_lengths <= longest)
    return torch.nonzero((reader.split == TRAIN) & short).squeeze(1)


def summed(pieces: Iterable[TypeCounts]) -> TypeCounts:
    """The sums over all pieces, at least one."""
    return joined_pairwise(pieces, TypeCounts.joined)


def _folder(work: Path, number: int) -> Path:
    return work / f"predicted-{number:07d}"


def _present(folder: Path) -> Path:
    if not folder.exists():
        raise StoreError(f"'{folder}' is not there.")
    return folder


def _write(counts: TypeCounts, folder: Path) -> None:
    write_arrays(folder, {"keys": counts.keys, "counts": counts.counts})


def _read(folder: Path, vocabulary: int) -> TypeCounts:
    return TypeCounts(vocabulary=vocabulary, **read_arrays(folder, ("keys", "counts")))

"""Decoding as a distributed job: a trained model translates a split of its data, every sentence exactly once.

Assumptions: sentences are cut, the longest first, into pieces of nearly equal lengths; a piece is a function of data
and settings, and what it becomes one of the weights, computed with one thread. So it does not show who made which
piece, nor how many were at it, nor whether they were stopped. A piece that is done is a file, which appears whole.
"""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from framework.config import decode, encode, plugin_name
from framework.data.pair_sets import PairSet
from framework.engine.files import replacing
from framework.engine.folder import read_run, read_weights, weights_in
from framework.engine.run import Event, Mapper, Run
from framework.engine.state import weights_digest
from framework.errors import InputError, StoreError
from framework.made import Made
from framework.models.translation.translator import TranslationModel
from framework.samples.decoded import LEFT_OUT, write_decoded
from framework.samples.pairs import PairReader, PairStore
from framework.workloads.samples import Split, of_splits
from framework.workloads.translation import Translation, cut_by_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode:
    """What a trained translator makes of the sentences of a split: the targets of students (Kim and Rush, 2016).

    Sources that are longer than any it was trained on are left out, and counted: what is made of them is not learned
    from either."""

    model: Made
    """The step that trained it."""
    split: Split = "train"
    """Whose sources are translated."""
    piece_tokens: int = 2048
    """Source tokens that are translated at a time, at most, padding counted; a longer sentence goes alone."""

    def __post_init__(self) -> None:
        """Refuses pieces without a token."""
        if self.piece_tokens < 1:
            raise InputError(f"piece-tokens is {self.piece_tokens}; expected a whole number of at least 1.")

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Translates what is not in `work` yet, then writes the files of `framework.samples.decoded`.

        Raises InputError where the step trained no translator, StoreError for damaged data or weights."""
        run = read_run(self.model.folder, trusted=True)  # which the walk wrote
        prepared = run.workload.prepare(Path(run.store), mapper, watch)
        store = PairStore.open(prepared.path)
        store.verify()
        reader = PairReader(store)
        asked = of_splits(reader.split, [self.split])
        wanted = asked[reader.source_lengths[asked] <= _longest(run.workload)]
        if not len(wanted):
            raise InputError(
                f"split is '{self.split}', of which the data of step '{self.model.step}' has no sentence that the step "
                "has learned to translate."
            )
        cut = pieces(wanted, reader.source_lengths[wanted], self.piece_tokens)
        translating = translating_of(run, self.model, reader.store.vocabulary_size)
        _translate(cut, reader, translating, work, mapper, watch)
        samples, sentences, scores = _all_of(cut, work)
        check_each_once(samples, wanted.numpy())
        texts = reader.store.vocabulary().decode([sentence.tolist() for sentence in sentences])
        write_decoded(folder, samples.tolist(), texts, scores.tolist())
        return {
            "split": self.split,
            "sentences": len(samples),
            LEFT_OUT: len(asked) - len(wanted),
            "tokens": sum(map(len, sentences)),
            "pieces": len(cut),
            "weights_digest": weights_digest(load(translating.weights)),
        }


def pieces(samples: Tensor, lengths: Tensor, most: int) -> list[Tensor]:
    """`samples` (int64 [n]) in pieces of at most `most` tokens, as long as the longest counted; int64 [any] each.

    The longest come first, so that none is left to wait for at the end; of equal length, in their order."""
    order = torch.argsort(lengths, descending=True, stable=True)
    return cut_by_tokens(samples[order], lengths[order], most)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Sentences that are translated together, and what they become."""

    samples: NDArray[np.int64]
    """Their numbers in the data set: [n]."""
    sentences: list[NDArray[np.int32]]
    """Tokens of each: of the sources, EOS at the end, before; of the translations, without it, after."""
    scores: NDArray[np.float64] | None = None
    """The mean log-probability of the tokens of a translation: [n]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translating:
    """A trained translator that a mapper's processes keep; it needs no file, and so may be on any host."""

    model: dict[str, Any]
    """The model, encoded."""
    vocabulary: int
    """Its tokens."""
    dtype: str
    """The type that it computes in."""
    weights: bytes
    """Its weights, as safetensors."""

    @functools.cached_property
    def network(self) -> nn.Module:
        """The opened model, in evaluation mode."""
        model: TranslationModel = decode(self.model, trusted=True)  # by the process that made the pieces
        network = model.build(self.vocabulary).to(getattr(torch, self.dtype))
        network.load_state_dict(load(self.weights))
        return network.eval()

    def __call__(self, piece: Piece) -> Piece:
        """The piece's translations."""
        rows = [torch.from_numpy(sentence).long() for sentence in piece.sentences]
        source = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with one_thread(), torch.inference_mode():
            found = self.network.translate(source, torch.tensor([len(row) for row in rows]))  # type: ignore[operator]
        tokens = found.tokens.to(torch.int32).numpy()
        sentences = [row[:length].copy() for row, length in zip(tokens, found.lengths.tolist(), strict=True)]
        return Piece(samples=piece.samples, sentences=sentences, scores=found.scores.double().numpy())


def _longest(workload: Any) -> int:
    """Tokens of the longest source that a translator was trained on, as far as its settings tell."""
    longest = workload.longest if isinstance(workload, Translation) else sys.maxsize
    model = getattr(workload, "model", None)
    places = getattr(model, "longest", longest) if getattr(model, "positions", None) == "learned" else longest
    return min(longest, places)


def check_each_once(samples: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
    """Raises StoreError where a sentence of `wanted` (distinct) is not among `samples`, or is there twice."""
    found, times = np.unique(samples, return_counts=True)
    wrong = [
        *(f"sentence {number} is missing" for number in np.setdiff1d(wanted, found)),
        *(f"sentence {number} was not asked for" for number in np.setdiff1d(found, wanted)),
        *(f"sentence {number} is there {count} times" for number, count in zip(found, times, strict=True) if count > 1),
    ]
    if wrong:
        raise StoreError(f"translations are not one a sentence: {wrong[0]} ({len(wrong)} such). Start again.")


def translator_of(run: Run) -> TranslationModel | None:
    """The run's model, where it learns from pairs of sentences; None where it learns something else."""
    model, data = (getattr(run.workload, name, None) for name in ("model", "data"))
    return model if isinstance(model, TranslationModel) and isinstance(data, PairSet) else None


def translating_of(run: Run, made: Made, vocabulary: int) -> Translating:
    """The run's model with its weights. Raises InputError where it is none that translates, StoreError without them."""
    model = translator_of(run)
    if model is None:
        given = plugin_name(type(run.workload)).rpartition(":")[2]
        raise InputError(f"step '{made.step}' trained a run of '{given}'; expected one of 'translation'.")
    weights = read_weights(made)
    weights_in(weights, made)  # torn weights are told of here, not by every process
    return Translating(model=encode(model), vocabulary=vocabulary, dtype=run.dtype, weights=weights)


def _translate(
    cut: Sequence[Tensor],
    reader: PairReader,
    translating: Translating,
    work: Path,
    mapper: Mapper,
    watch: Callable[[Event], None],
) -> None:
    """Makes the files of the pieces that have none in `work`."""
    missing = [number for number, samples in enumerate(cut) if _read(_file(work, number), samples) is None]
    asked = [source_piece(reader, cut[number]) for number in missing]
    made = each_translated(asked, translating, mapper, watch, what="decode", total=sum(map(len, cut)))
    for number, piece in zip(missing, made, strict=True):
        _write(_file(work, number), piece)


def each_translated(
    asked: Sequence[Piece],
    translating: Translating,
    mapper: Mapper,
    watch: Callable[[Event], None],
    *,
    what: str,
    total: int,
) -> Iterator[Piece]:
    """The translations of pieces, in their order, as they come. Tells how far it is: of `total` sentences, those that
    are not asked for were done before."""
    done = before = total - sum(len(piece.samples) for piece in asked)
    began = time.monotonic()
    for piece in mapper(translating, asked):
        yield piece
        done += len(piece.samples)
        rate = (done - before) / (time.monotonic() - began)
        watch(
            {"event": "pieces", "what": what, "unit": "sentences", "done": done, "total": total}
            | {"rate": rate, "left": (total - done) / rate}
        )


def source_piece(reader: PairReader, samples: Tensor) -> Piece:
    """The sentences of a piece, to be translated."""
    tokens, lengths = reader.tokens("source", samples)
    rows = tokens.to(torch.int32).numpy()
    sentences = [row[:length].copy() for row, length in zip(rows, lengths.tolist(), strict=True)]
    return Piece(samples=samples.numpy(), sentences=sentences)


def _all_of(
    cut: Sequence[Tensor], work: Path
) -> tuple[NDArray[np.int64], list[NDArray[np.int32]], NDArray[np.float64]]:
    """What all pieces became: numbers of the sentences, their translations' tokens, and scores."""
    made = [piece for number, samples in enumerate(cut) if (piece := _read(_file(work, number), samples)) is not None]
    return (
        np.concatenate([np.empty(0, dtype=np.int64), *(piece.samples for piece in made)]),
        [sentence for piece in made for sentence in piece.sentences],
        np.concatenate([np.empty(0), *(piece.scores for piece in made if piece.scores is not None)]),
    )


def _file(work: Path, number: int) -> Path:
    return work / f"piece-{number:07d}.arrow"


def _write(path: Path, piece: Piece) -> None:
    """Writes a translated piece; the file appears whole."""
    columns = {
        "samples": pa.array(piece.samples),
        "sentences": pa.array([sentence.tolist() for sentence in piece.sentences], pa.list_(pa.int32())),
        "scores": pa.array(piece.scores),
    }
    batch = pa.record_batch(columns)
    with replacing(path) as torn, pa.OSFile(str(torn), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _read(path: Path, samples: Tensor) -> Piece | None:
    """The translated piece in a file; None where there is none of these samples, whole."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
            found = batch.column("samples").to_numpy().copy()
            sentences = [np.asarray(row, dtype=np.int32) for row in batch.column("sentences").to_pylist()]
            scores = batch.column("scores").to_numpy().copy()
    except (OSError, KeyError, pa.ArrowException):
        return None
    same = np.array_equal(found, samples.numpy())
    return Piece(samples=found, sentences=sentences, scores=scores) if same else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread meanwhile: how many there are decides in which order a sum is taken."""
    before = torch.get_num_threads()
    if before == 1:  # always so in a mapper's threads, which must not change what others compute with
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

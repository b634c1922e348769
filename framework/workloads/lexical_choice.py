"""Accuracy of a trained translator's lexical choice as a step of a pipeline (`framework.lexicon.choice` defines it).

A token is one of the vocabulary, a piece of a word mostly. Source and reference are linked by the aligner that learned
from the raw pairs; reference and translation by the same kind of aligner, which learns from them and from the
references beside themselves, so that it knows that equal words go together.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from framework.config import plugin_name
from framework.engine.run import Event, Mapper
from framework.errors import InputError
from framework.lexicon.bitext import Bitext, Sentences
from framework.lexicon.choice import BOUNDS, Buckets, hits_of_choice, probability_of_choice, require_bounds
from framework.lexicon.links import Links
from framework.lexicon.pair_priors import require_vocabulary
from framework.lexicon.stored import bitext_of
from framework.made import Made
from framework.samples.pairs import PairReader
from framework.workloads.agreement import require_same_pairs
from framework.workloads.align import Alignment, learned_from, told
from framework.workloads.decode import Translating, pieces, source_piece, translating_of
from framework.workloads.forced import Forcing, OfReferences, cut, forced
from framework.workloads.samples import of_splits

RESULT = "lexical_choice.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LexicalChoice:
    """How often a trained translator chooses the word that the reference has, by how frequent the source word is."""

    model: Made
    """The step that trained it."""
    align: Made
    """The step `Align`, of raw pairs: its links, and how often words occur in training."""
    split: Literal["validation", "test"] = "test"
    """Whose sentences are looked at."""
    probabilities: bool = True
    """Whether AoLC-prob is asked for, of which only students that predict all words at once have one."""
    bounds: tuple[int, ...] = BOUNDS
    """Occurrences at which a bucket of fixed counts ends and the next begins."""
    piece_tokens: int = 2048
    """Tokens that are translated or predicted at a time, at most, padding counted."""

    def __post_init__(self) -> None:
        if self.piece_tokens < 1:
            raise InputError(f"piece-tokens is {self.piece_tokens}; expected a whole number of at least 1.")
        require_bounds(self.bounds)

    def agree(self, steps: Mapping[str, Any]) -> None:
        """Refuses an alignment of other pairs than the model learned from, or of another vocabulary; and probabilities
        of a model that writes word after word."""
        require_same_pairs(self, {"model": self.model}, steps)
        model = getattr(getattr(steps[self.model.step], "workload", None), "model", None)
        if self.probabilities and not getattr(model, "learns_prior", True):
            name = plugin_name(type(model)).rpartition(":")[2]
            raise InputError(
                f"step '{self.model.step}' trains a {name}, which writes word after word: it has no probabilities of "
                "words that are predicted all at once; leave them out, as by --choice.no-probabilities."
            )

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Writes the measures as JSON, which are the facts as well."""
        facts = lexical_choice(self, work, mapper, watch)
        (folder / RESULT).write_text(json.dumps(facts, indent=1))
        return facts


def lexical_choice(asked: LexicalChoice, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
    """`hit` (AoLC-hit) and `probability` (AoLC-prob), by `rank` (H, M, L: thirds of types; O: unseen) and by `count`.

    Raises InputError for steps that made something else, or of another vocabulary, and for a split without sentences;
    StoreError for damaged folders."""
    run, store = learned_from(asked.model, mapper, watch)
    alignment, size = Alignment.of(asked.align), store.vocabulary_size
    require_vocabulary(alignment.product, store)
    reader = PairReader(store)
    samples = of_splits(reader.split, [asked.split])
    if not len(samples):
        raise InputError(f"split is '{asked.split}', of which the data of step '{asked.model.step}' has no sentence.")
    everything = bitext_of(store)
    pairs = everything.take(samples.numpy())
    links = alignment.aligner.links(alignment.model, pairs, size)
    occurrences = alignment.occurrences()
    buckets = {"rank": Buckets.by_rank(occurrences), "count": Buckets.by_count(occurrences, asked.bounds)}
    translating = translating_of(run, asked.model, size)
    told(watch, "translate", 0.0)
    written = _translated(translating, samples, reader, asked.piece_tokens, mapper)
    again = _monolingual(alignment, pairs.target, written, size, work, mapper)
    facts: dict[str, Any] = {
        "split": asked.split,
        "sentences": len(samples),
        "hit": {
            name: dataclasses.asdict(hits_of_choice(pairs.source, pairs.target, written, links, again, of))
            for name, of in buckets.items()
        },
    }
    if asked.probabilities:
        told(watch, "predict", 0.0)
        own = _of_references(translating, samples, reader, asked.piece_tokens, mapper)
        facts["probability"] = {
            name: dataclasses.asdict(probability_of_choice(pairs.source, pairs.target, links, own, of))
            for name, of in buckets.items()
        }
    return facts


def _translated(translating: Translating, samples: Tensor, reader: PairReader, most: int, mapper: Mapper) -> Sentences:
    """What the translator writes for `samples` (int64 [n]), in their order."""
    asked = pieces(samples, reader.source_lengths[samples], most)
    sentences: dict[int, list[int]] = {}
    for piece in mapper(translating, [source_piece(reader, chosen) for chosen in asked]):
        sentences |= dict(zip(piece.samples.tolist(), (row.tolist() for row in piece.sentences), strict=True))
    return Sentences.of(sentences[number] for number in samples.tolist())


def _monolingual(
    alignment: Alignment, reference: Sentences, written: Sentences, vocabulary: int, work: Path, mapper: Mapper
) -> Links:
    """Links from references to what was written."""
    model, scratch = work / "monolingual", work / "monolingual-work"
    shutil.rmtree(model, ignore_errors=True)  # what a killed process left there may not be whole
    model.mkdir()
    scratch.mkdir(exist_ok=True)
    pairs = Bitext(source=reference, target=written)
    taught = Bitext(source=Sentences.joined([reference, reference]), target=Sentences.joined([written, reference]))
    alignment.aligner.estimate(taught, vocabulary, model, scratch, mapper, lambda share: None)
    return alignment.aligner.links(model, pairs, vocabulary)


def _of_references(
    translating: Translating, samples: Tensor, reader: PairReader, most: int, mapper: Mapper
) -> NDArray[np.float64]:
    """The probabilities of the words of the references of `samples`, sentence after sentence."""
    asked, nothing = cut(samples, reader, most), Links.of([[] for _ in range(reader.store.num_pairs)])
    rows: dict[int, NDArray[np.float64]] = {}
    found = forced(Forcing(translating=translating, summary=OfReferences()), asked, reader, nothing, mapper)
    for chosen, piece in zip(asked, found, strict=True):
        rows |= dict(zip(chosen.tolist(), piece, strict=True))
    return np.concatenate([np.empty(0), *(rows[number] for number in samples.tolist())])

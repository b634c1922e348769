"""Sentences that no store holds, translated by a trained run: text in, text out, in the order given.

Assumptions: sentences and what they become fit in memory. They are cut into pieces of nearly equal lengths, which a
mapper's processes translate; what a sentence becomes depends neither on the others nor on who translates it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from framework.engine.folder import REPORT, WEIGHTS, read_mapping, verify_weights
from framework.engine.run import Event, Mapper, Run
from framework.errors import InputError
from framework.made import Made
from framework.samples.vocabulary import Vocabulary
from framework.workloads.decode import Piece, each_translated, pieces, translating_of, translator_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translated:
    """What a sentence became."""

    text: str
    """The translation; empty where the sentence is blank."""
    score: float | None
    """The mean log-probability of its tokens; None where nothing was translated."""


def require_translator(run: Run) -> None:
    """Raises InputError where the run, whose folder is `run.out`, translates nothing, or has not been trained yet."""
    if translator_of(run) is None:
        raise InputError(f"'{run.out}' holds a run that does not translate; `shardyard predict {run.out}` asks it.")
    if not (Path(run.out) / WEIGHTS).exists():
        raise InputError(f"'{run.out}' has no trained weights yet; train the run to its end first.")


def translate(
    run: Run, vocabulary: Vocabulary, sentences: Sequence[str], mapper: Mapper, watch: Callable[[Event], None]
) -> list[Translated]:
    """What the trained run in the folder `run.out` makes of each of `sentences`, spelled by the run's `vocabulary`.

    `run.workload.evaluation_tokens` of them are translated at a time. Raises InputError for a run that translates
    nothing, and for a sentence with more tokens than its model has positions; StoreError for damaged weights."""
    require_translator(run)
    _require_unaltered(Path(run.out))
    tokens = dict(enumerate(vocabulary.encode(sentences)))
    said = {number: row for number, row in tokens.items() if sentences[number].strip()}
    _require_places(run, said)
    numbers = torch.tensor(list(said), dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in said.values()], dtype=torch.int64)
    most = getattr(run.workload, "evaluation_tokens", 2048)
    asked = [
        Piece(samples=cut.numpy(), sentences=[np.asarray(said[number], np.int32) for number in cut.tolist()])
        for cut in pieces(numbers, lengths, most)
    ]
    found = [Translated(text="", score=None)] * len(sentences)
    made = Made(step=Path(run.out).name, path=run.out)
    translating = translating_of(run, made, len(vocabulary))
    for piece in each_translated(asked, translating, mapper, watch, what="translate", total=len(said)):
        assert piece.scores is not None
        texts = vocabulary.decode([sentence.tolist() for sentence in piece.sentences])
        for number, text, score in zip(piece.samples.tolist(), texts, piece.scores.tolist(), strict=True):
            found[number] = Translated(text=text, score=score)
    return found


def _require_unaltered(folder: Path) -> None:
    """Raises StoreError where the weights in a run's folder are not those that its report tells of."""
    if (folder / REPORT).exists():
        remedy = f"Train it again: `shardyard train` with --out {folder} goes on at its last checkpoint."
        verify_weights(folder, read_mapping(folder / REPORT, remedy), remedy)


def _require_places(run: Run, said: dict[int, list[int]]) -> None:
    """Raises InputError for a sentence of more tokens than the model has learned positions."""
    model = getattr(run.workload, "model", None)
    longest = getattr(model, "longest", None)
    if longest is None or getattr(model, "positions", None) != "learned":
        return
    for number, row in said.items():
        if len(row) > longest:
            raise InputError(
                f"sentence {number + 1} has {len(row)} tokens, and the model has learned positions for {longest}; "
                "cut it in two."
            )

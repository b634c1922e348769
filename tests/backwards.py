"""A set of pairs, a translator that needs no training, for it says all backwards, and a pipeline of small models."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from framework.config import encode, placement
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.pair_sets import PairSet, RawPairs
from framework.engine.checkpoint import write_weights
from framework.engine.pipeline import Pipeline
from framework.engine.run import Event, Mapper, Prepared, Run, Task, Worker
from framework.errors import InputError
from framework.made import Made
from framework.models.translation.masked import CMLM
from framework.models.translation.transformer import Transformer
from framework.models.translation.translator import TranslationModel, Translations
from framework.prepare.pairs import prepare_pairs
from framework.workloads.translation import Translation
from launch.recipes.pipelines import distillation

WORDS = ("red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "runs", "sleeps", "sings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rhymes:
    """Sentences of one to nine words, each its own translation."""

    pairs: int = 150
    """Number of pairs; of ten, one is for validation and one for testing."""

    def fingerprint(self) -> str:
        return f"rhymes-{self.pairs}"

    def open(self) -> RawPairs:
        numbers = np.arange(self.pairs)
        texts = [
            " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(1 + number % 9))
            for number in numbers.tolist()
        ]
        split = np.full(self.pairs, TRAIN, np.uint8)
        split[numbers % 10 == 8], split[numbers % 10 == 9] = VALIDATION, TEST
        return RawPairs(source=pa.array(texts), target=pa.array(texts), split=split)

    def origin(self) -> PairSet:
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backwards:
    """Says what it is given from the end to the beginning."""

    pause: float = placement(0.0)
    """Seconds that a piece takes."""

    def build(self, vocabulary: int) -> nn.Module:
        return BackwardsNetwork(self.pause)


class BackwardsNetwork(nn.Module):
    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause, self.score = pause, nn.Parameter(torch.tensor(-0.5))

    def translate(self, source: Tensor, source_lengths: Tensor) -> Translations:
        assert torch.get_num_threads() == 1
        time.sleep(self.pause)
        sentences = [row[: length - 1].flip(0) for row, length in zip(source, source_lengths.tolist(), strict=True)]
        return Translations.of(sentences, self.score * source_lengths.double())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translating:
    """A workload that is never learned, only decoded with."""

    model: TranslationModel = Backwards()
    data: PairSet = Rhymes()

    def prepare(self, root: Path, mapper: Mapper, watch: Callable[[Event], None]) -> Prepared:
        done = prepare_pairs(self.data, 60, root)
        return Prepared(path=done.store.path, data_digest=done.store.data_digest, seconds=done.seconds, facts={})

    def open(self, run: Run, worker: Worker) -> Task:
        raise InputError("this workload is a stand-in")


def trained(folder: Path, model: TranslationModel, vocabulary: int = 60, workload: Any = None) -> Made:
    """The folder of a run that ended, with the model's first weights."""
    run = Run(workload=workload or Translating(model=model), out=str(folder), store=str(folder.parent / "stores"))
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(encode(run)))
    torch.manual_seed(0)
    write_weights(folder, model.build(vocabulary).state_dict())
    return Made(step="teacher", digest="0" * 64, path=str(folder))


def pipeline() -> Pipeline:
    """A teacher and a student of a few weights: every step of a distillation, for none to be good at."""
    size = {"width": 16, "heads": 2, "inner": 32, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1}
    workload = Translation(data=Rhymes(), model=Transformer(**size, beam=2), vocabulary=60, batch_tokens=400)
    student = CMLM(**size, passes=2, length_beam=2, longest=64)
    teacher = Run(workload=workload, epochs=1, monitor="validation_loss")
    return distillation(teacher, dataclasses.replace(teacher, workload=dataclasses.replace(workload, model=student)))


def ignored(event: dict[str, Any]) -> None:
    """What becomes of events that a test does not look at."""

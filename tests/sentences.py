"""A made-up language pair, and a run that learns it: a sentence of words, and the same words backwards in capitals."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from framework import config
from framework.data.dataset import TEST, TRAIN, VALIDATION
from framework.data.pair_sets import PairSet, RawPairs
from framework.engine.optimize import Adam
from framework.engine.run import Run
from framework.models.translation.transformer import Transformer
from framework.random import Key, bits
from framework.workloads.translation import Translation

WORDS = tuple(first + second for first in "bdgk" for second in "aeiou")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backwards:
    """`da go bi` is `BI GO DA`; or what `same_order` and `capitals` say."""

    pairs: int = 60
    longest: int = 6
    words: int = 20
    same_order: bool = False
    capitals: bool = True

    def fingerprint(self) -> str:
        return config.digest(dataclasses.asdict(self))

    def open(self) -> RawPairs:
        key = Key.root(7)
        source, target = [], []
        for number in range(self.pairs):
            draws = bits(key.fold(number), torch.arange(self.longest + 1)).tolist()
            length = 1 + draws[0] % self.longest
            words = [WORDS[draw % self.words] for draw in draws[1 : 1 + length]]
            source.append(" ".join(words))
            said = " ".join(words if self.same_order else reversed(words))
            target.append(said.upper() if self.capitals else said)
        number = np.arange(self.pairs)
        split = np.full(self.pairs, TRAIN, np.uint8)
        split[number % 10 == 8] = VALIDATION
        split[number % 10 == 9] = TEST
        return RawPairs(
            source=pa.array(source),
            target=pa.array(target),
            split=split,
            ids=np.array([f"pair {number:04d}" for number in range(self.pairs)]),
        )

    def origin(self) -> PairSet:
        return self


SMALL = Transformer(width=16, heads=2, inner=24, encoder_layers=1, decoder_layers=1, dropout=0.3, beam=2)


def sentence_run(out: Path, **fields: Any) -> Run:
    """Float64, dropout on; fields of the workload and of the run may be given."""
    workload = {"data": Backwards(), "model": SMALL, "vocabulary": 64, "batch_tokens": 60}
    workload |= {name: fields.pop(name) for name in list(fields) if name in Translation.__dataclass_fields__}
    settings = {"dtype": "float64", "epochs": 3, "optimizer": Adam(lr=3e-3), "monitor": "validation_loss"}
    return Run(
        workload=Translation(**workload),  # type: ignore[arg-type]
        **{**settings, "out": str(out), "store": str(out.parent / "stores"), **fields},
    )

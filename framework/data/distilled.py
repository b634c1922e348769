"""Pairs whose training targets are what a model made of the sources: sequence-level distillation.

Kim and Rush, "Sequence-level knowledge distillation", EMNLP 2016. What is validated and tested on stays as it was.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from framework import config
from framework.data.dataset import TRAIN
from framework.data.pair_sets import PairSet, RawPairs, without_blanks
from framework.errors import InputError
from framework.made import Made
from framework.registry import PAIR_SETS
from framework.samples.decoded import read_decoded


@PAIR_SETS.register("distilled")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled:
    """Another set, its training targets replaced by translations of their sources; spelled by that set's vocabulary."""

    of: PairSet
    """The set that was translated."""
    decoded: Made
    """The step that translated its training pairs."""

    def fingerprint(self) -> str:
        """Digest of the set and of what was made of it."""
        assert self.decoded.folder  # walked, or else the digest is none
        return config.digest([self.of.fingerprint(), self.decoded.digest])

    def open(self) -> RawPairs:
        """The pairs of the set; those whose translation is blank are left out. Raises InputError where a training pair
        was not translated."""
        pairs, decoded = self.of.open(), read_decoded(self.decoded.folder)
        training = np.flatnonzero(pairs.split == TRAIN)
        untold = np.setdiff1d(training, decoded.samples)
        if len(untold):
            raise InputError(
                f"step '{self.decoded.step}' translated {len(training) - len(untold)} of the {len(training)} training "
                f"pairs, but not number {untold[0]}; let it translate the training split of this set."
            )
        target = pairs.target.to_pylist()
        for sample, text in zip(decoded.samples.tolist(), decoded.texts.to_pylist(), strict=True):
            if pairs.split[sample] == TRAIN:
                target[sample] = text
        return without_blanks(dataclasses.replace(pairs, target=pa.array(target, pa.string())))

    def origin(self) -> PairSet:
        """The set that was translated, or what that was made of."""
        return self.of.origin()

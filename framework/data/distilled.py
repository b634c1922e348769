"""Pairs whose training targets are what a model made of the sources: sequence-level distillation.

Kim and Rush, "Sequence-level knowledge distillation", EMNLP 2016. What is validated and tested on stays as it was.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from framework import config
from framework.data.dataset import TRAIN
from framework.data.pair_sets import PairSet, RawPairs, only, without_blanks
from framework.errors import InputError
from framework.made import Made
from framework.registry import PAIR_SETS
from framework.samples.decoded import LEFT_OUT, read_decoded
from framework.store.product import ProductFolder


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
        """The pairs of the set; left out are those whose translation is blank, and those that the step left out itself.

        Raises InputError where another training pair was not translated."""
        pairs, decoded = self.of.open(), read_decoded(self.decoded.folder)
        training = np.flatnonzero(pairs.split == TRAIN)
        untold = np.setdiff1d(training, decoded.samples)
        if len(untold) != _left_out(self.decoded):
            raise InputError(
                f"step '{self.decoded.step}' translated {len(training) - len(untold)} of the {len(training)} training "
                f"pairs, but not number {untold[0]}; let it translate the training split of this set."
            )
        target = pairs.target.to_pylist()
        for sample, text in zip(decoded.samples.tolist(), decoded.texts.to_pylist(), strict=True):
            if pairs.split[sample] == TRAIN:
                target[sample] = text
        pairs = dataclasses.replace(pairs, target=pa.array(target, pa.string()))
        if len(untold):
            pairs = only(pairs, ~np.isin(np.arange(len(target)), untold), left_out="untranslated_pairs")
        return without_blanks(pairs)

    def origin(self) -> PairSet:
        """The set that was translated, or what that was made of."""
        return self.of.origin()


def _left_out(decoded: Made) -> int:
    """How many training pairs the step says that it did not translate."""
    return int(ProductFolder.open(decoded.folder).facts.get(LEFT_OUT, 0))

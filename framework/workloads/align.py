"""Alignment as a step of a pipeline: which words of a run's pairs go with which.

The aligner learns from the training pairs and links all of them, so what it saw are raw pairs where the run learned
from raw pairs. A word is a token of the run's vocabulary, a piece of a word mostly: so a prior has a row for every
token, whatever a sentence is made of.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from framework import config
from framework.data.dataset import TRAIN
from framework.engine.folder import read_run
from framework.engine.run import Event, Mapper, Run
from framework.errors import InputError
from framework.lexicon.aligner import Aligner, HmmAligner, Requiring, link_all
from framework.lexicon.arrays import read_arrays, write_arrays
from framework.lexicon.links import Links
from framework.lexicon.pair_priors import ALIGNER, LINKS
from framework.lexicon.prior import TypeCounts, count_links
from framework.lexicon.stored import bitext_of
from framework.made import Made
from framework.samples.pairs import FORMAT, PairStore
from framework.store.columns import read_column, write_column
from framework.store.manifest import format_of
from framework.store.product import ProductFolder

TABLE, OCCURRENCES = "table", "occurrences.arrow"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Align:
    """Which words of the pairs of a run go with which."""

    pairs: Made
    """The step, a run of `translation`, whose pairs are aligned."""
    aligner: Aligner = HmmAligner()
    """What aligns them."""

    def agree(self, steps: Mapping[str, Any]) -> None:
        """Refuses an aligner that is not installed: a teacher may be trained for hours before it is asked."""
        if isinstance(self.aligner, Requiring):
            self.aligner.require()

    def make(self, folder: Path, work: Path, mapper: Mapper, watch: Callable[[Event], None]) -> dict[str, Any]:
        """Writes the aligner's model, the links of all pairs, how often types are linked in training, and occur there.

        Raises InputError where the step did not learn from pairs, StoreError for damaged data."""
        _, store = learned_from(self.pairs, mapper, watch)
        size, pairs = store.vocabulary_size, bitext_of(store)
        trained = torch.nonzero(store.split() == TRAIN).squeeze(1).numpy()
        training = pairs.take(trained)
        for name in (ALIGNER, LINKS, TABLE):
            (folder / name).mkdir()
        facts = self.aligner.estimate(
            training, size, folder / ALIGNER, work, mapper, functools.partial(told, watch, "align")
        )
        links = link_all(
            *(self.aligner, folder / ALIGNER, pairs, size, work),
            mapper=mapper,
            told=functools.partial(told, watch, "link"),
        )
        links.write(folder / LINKS)
        of_training = links.take(trained)
        table = count_links(training, of_training, size)
        write_arrays(folder / TABLE, {"keys": table.keys, "counts": table.counts})
        write_column(folder / OCCURRENCES, np.bincount(training.source.tokens, minlength=size))
        linked = len(np.unique(training.target.offsets[of_training.pairs] + of_training.targets))
        return {
            "aligner": config.encode(self.aligner),
            "pairs_digest": store.digest,
            "vocabulary": size,
            "vocabulary_digest": store.vocabulary_digest,
            "pairs": len(pairs),
            "links": len(links.sources),
            "linked_targets": linked / max(len(training.target.tokens), 1),
            **facts,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """What `Align` made, on disk."""

    product: ProductFolder
    """Its folder."""

    @classmethod
    def of(cls, made: Made) -> "Alignment":
        """What the step made. Raises StoreError for a folder that is missing or torn, InputError for another step's."""
        product = ProductFolder.open(made.folder)
        if f"{LINKS}/offsets.arrow" not in product.files or OCCURRENCES not in product.files:
            raise InputError(f"step '{made.step}' made no alignment in '{made.path}'; expected a step `Align`.")
        return cls(product=product)

    @property
    def aligner(self) -> Aligner:
        """What aligned; its model is in `model`."""
        aligner: Aligner = config.decode(self.product.facts["aligner"], trusted=True)  # which the step wrote
        return aligner

    @property
    def model(self) -> Path:
        """The folder of the aligner's model."""
        return self.product.path / ALIGNER

    def links(self) -> Links:
        """The links of all pairs of the store that was aligned, in its order."""
        return Links.open(self.product.path / LINKS)

    def table(self) -> TypeCounts:
        """How often each pair of types is linked in the training pairs."""
        columns = read_arrays(self.product.path / TABLE, ("keys", "counts"))
        return TypeCounts(vocabulary=self.product.facts["vocabulary"], **columns)

    def occurrences(self) -> NDArray[np.int64]:
        """How often every type occurs in the training sources: int64 [vocabulary]."""
        found: NDArray[np.int64] = read_column(self.product.path / OCCURRENCES).to_numpy()
        return found


def learned_from(made: Made, mapper: Mapper, watch: Callable[[Event], None]) -> tuple[Run, PairStore]:
    """The run that a step was, and the pairs it learned from, every byte of them read.

    Raises InputError where it learned from none, StoreError for damaged data."""
    run = read_run(made.folder, trusted=True)  # which the walk wrote
    prepared = run.workload.prepare(Path(run.store), mapper, watch)
    if format_of(prepared.path) != FORMAT:
        raise InputError(
            f"step '{made.step}' is a run of {type(run.workload).__name__}; expected one of `translation`."
        )
    store = PairStore.open(prepared.path)
    store.verify()
    return run, store


def told(watch: Callable[[Event], None], what: str, share: float) -> None:
    """Tells a watcher which share of `what` is done."""
    watch({"event": "prepare", "what": what, "done": share})

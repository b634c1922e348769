"""What a prior says of the pairs of a store: the prior, and the links of the pairs by the model it was made with.

The folder of a prior holds its rows and the aligner's model, which saw raw pairs alone. Pairs that a student learns
from, whose targets a teacher wrote, are linked by that model; the links and the rows become a folder beside the store.
"""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from framework import config
from framework.data.dataset import Mapper
from framework.errors import InputError
from framework.kernels.sparse_rows import SparseRows
from framework.lexicon.aligner import Aligner, link_all
from framework.lexicon.arrays import write_arrays
from framework.lexicon.links import Links
from framework.lexicon.prior import position_priors
from framework.lexicon.stored import bitext_of
from framework.samples.pairs import PairStore
from framework.store.columns import map_column
from framework.store.folder import once_resumed
from framework.store.product import ProductFolder

WORK = "linking"
"""The folder, beneath that of the stores, which keeps links of pieces until all are there."""
VERSION = 1
"""Of what is written: raised whenever it changes, so that older folders are made again."""
FEWEST_UPDATES = 3
"""With fewer the logarithms of `prior_weight` are not positive."""
ALIGNER, LINKS, ROWS = "aligner", "links", "rows"
"""What lies in the folders of products: the model of an aligner, links of pairs, the rows of a prior."""
_COLUMNS = tuple(field.name for field in dataclasses.fields(SparseRows))


def write_rows(rows: SparseRows, folder: Path) -> None:
    """Writes a prior's rows into the new `folder`. Raises OSError."""
    write_arrays(folder, {name: getattr(rows, name).numpy() for name in _COLUMNS})


def open_rows(folder: Path) -> SparseRows:
    """The rows that were written to `folder`, mapped. Raises StoreError."""
    return SparseRows(**{name: map_column(folder / f"{name}.arrow") for name in _COLUMNS})


def require_vocabulary(product: ProductFolder, store: PairStore) -> None:
    """Raises InputError where what a step made is of another vocabulary than a store's."""
    theirs = product.facts["vocabulary_digest"]
    if theirs != store.vocabulary_digest:
        raise InputError(
            f"'{product.path}' is of the vocabulary {theirs[:16]}, the pairs of '{store.path}' of "
            f"{store.vocabulary_digest[:16]}; expected one for both: pairs of one origin, and --vocabulary alike."
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairPriors:
    """What is known beforehand of the target positions of a store's pairs."""

    path: Path
    """The folder."""
    prior: SparseRows
    """The rows of source types."""
    links: Links
    """The links of all pairs of the store."""

    @classmethod
    def open(cls, path: Path) -> "PairPriors":
        """The priors in the folder `path`. Raises StoreError."""
        return cls(path=path, prior=open_rows(path / ROWS), links=Links.open(path / LINKS))

    def rows(self, samples: Tensor, source: Tensor, width: int) -> SparseRows:
        """What is known of the target positions of the pairs `samples` (int64 [n]), in the order of [n, width].

        `source`: their source tokens, int64 [n, S]."""
        return position_priors(self.prior, source, self.links.take(samples.numpy()), width)


def prior_weight(update: int, updates: int) -> float:
    """The weight of a prior in global update number `update`, from 0, of a run of `updates` (Ding et al., ICLR 2021).

    log(I / (2 (i + 1))) / log(I / 2) for i up to I / 2, of I `updates` and i `update`; never below 0. A run of fewer
    than FEWEST_UPDATES has no such weights, and none."""
    if updates < FEWEST_UPDATES:
        return 0.0
    return max(0.0, math.log(updates / (2 * (update + 1))) / math.log(updates / 2))


def prepare_pair_priors(
    store: PairStore,
    prior: Path,
    root: Path,
    *,
    mapper: Mapper = map,
    told: Callable[[float], None] = lambda share: None,
) -> Path:
    """The folder, beneath `root`, of what the prior in the folder `prior` says of a store; at once where it is there.

    `told` hears which share is linked. Raises InputError where the prior is none, or of another vocabulary, StoreError
    for a damaged prior or store."""
    product = ProductFolder.open(prior)
    if f"{ROWS}/indptr.arrow" not in product.files:
        raise InputError(f"no prior was made in '{prior}'; expected the folder of a step `Prior`.")
    require_vocabulary(product, store)
    digest = config.digest([store.digest, product.digest, VERSION])
    path = root.absolute() / digest[:16]
    work = root.absolute() / WORK / digest[:16]

    def make(folder: Path) -> None:
        store.verify()
        aligner: Aligner = config.decode(product.facts["aligner"], trusted=True)  # which the prior's step wrote
        links = link_all(
            aligner, prior / ALIGNER, bitext_of(store), store.vocabulary_size, work, mapper=mapper, told=told
        )
        (folder / LINKS).mkdir()
        links.write(folder / LINKS)
        shutil.copytree(prior / ROWS, folder / ROWS)
        ProductFolder.seal(folder, digest=digest, facts={"links": len(links.sources)})

    once_resumed(path, work, ProductFolder.open, make)
    return path

"""The sentences of a store of pairs as a bitext, their ends left out."""

import numpy as np
import torch

from framework.lexicon.bitext import Bitext, Sentences
from framework.samples.pairs import PairStore, Side


def bitext_of(store: PairStore) -> Bitext:
    """All pairs of a store, in their order; a position in a sentence is that of the store. Raises StoreError."""
    return Bitext(source=_words(store, "source"), target=_words(store, "target"))


def _words(store: PairStore, side: Side) -> Sentences:
    """A side without EOS, with which every sentence ends."""
    words, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for part in range(store.parts):
        tokens, offsets = store.tokens(part, side)
        kept = torch.ones(len(tokens), dtype=torch.bool)
        kept[offsets[1:] - 1] = False
        words.append(tokens[kept].numpy())
        lengths.append((offsets.diff() - 1).numpy())
    return Sentences(
        offsets=np.concatenate([[0], np.concatenate(lengths).cumsum()]).astype(np.int64), tokens=np.concatenate(words)
    )

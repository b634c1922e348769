"""Bitexts with a known lexicon, which tests of alignments share."""

import numpy as np

from framework.lexicon.bitext import Bitext, Sentences

WORDS = 30
"""Source tokens are below it; the translation of token f is f + WORDS, so that a vocabulary has 2 * WORDS tokens."""


def drawn(pairs: int, *, seed: int = 0, longest: int = 8, noise: float = 0.1, swaps: float = 0.2) -> Bitext:
    """Word-by-word translations, some words swapped with the next, some replaced; frequent words and rare ones."""
    generator = np.random.default_rng(seed)
    rank = 1 / np.arange(1, WORDS + 1)
    sources, targets = [], []
    for _ in range(pairs):
        source = generator.choice(WORDS, size=generator.integers(1, longest + 1), p=rank / rank.sum())
        target = source + WORDS
        target[generator.random(len(target)) < noise] = WORDS
        for place in range(len(target) - 1):
            if generator.random() < swaps:
                target[[place, place + 1]] = target[[place + 1, place]]
        sources.append(source.tolist())
        targets.append(target[generator.random(len(target)) > noise].tolist() or [WORDS])
    return Bitext(source=Sentences.of(sources), target=Sentences.of(targets))

"""BLEU of detokenised text (Papineni et al., ACL 2002) by sacrebleu (Post, WMT 2018), summed over workers.

Assumption: the statistics of a corpus are the sums of those of its parts: matches and n-grams of every order, lengths.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ORDER = 4
"""N-grams up to so many words."""


def bleu_sums(translations: Sequence[str], references: Sequence[str]) -> Tensor:
    """What BLEU is made of, to be added up: matches and n-grams by order, words of translations and of references.

    float64 [2 * ORDER + 2]; zeros where there are no sentences."""
    if not translations:
        return torch.zeros(2 * ORDER + 2, dtype=torch.float64)
    score = _bleu().corpus_score(list(translations), [list(references)])
    return torch.tensor([*score.counts, *score.totals, score.sys_len, score.ref_len], dtype=torch.float64)


def bleu(sums: Tensor) -> float:
    """BLEU, 0 to 100, of such sums."""
    numbers = [int(number) for number in sums.tolist()]
    score = _bleu().compute_bleu(
        correct=numbers[:ORDER],
        total=numbers[ORDER : 2 * ORDER],
        sys_len=numbers[-2],
        ref_len=numbers[-1],
        smooth_method="exp",
    )
    return float(score.score)


def bleu_signature() -> str:
    """How it is computed, as sacrebleu says it: version, tokens, smoothing."""
    metric = _bleu()
    metric.corpus_score(["."], [["."]])  # tells it the number of references
    return str(metric.get_signature())


def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU  # where it is needed alone

    return BLEU(max_ngram_order=ORDER)

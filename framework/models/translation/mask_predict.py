"""Mask-Predict: all words at once, then those again that were least sure (Ghazvininejad et al., EMNLP 2019).

Ten passes are ten calls of the decoder, the first of which sees placeholders alone. (fairseq counts its iterations from
0: what it calls ten are eleven.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from framework.models.translation.hiding import lowest
from framework.models.translation.layers import within
from framework.samples.vocabulary import EOS, MASK, PAD

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Canvases int64 [m, C], and which of their places to predict: bool [m, C], k of them -> words int64 [k], and their
log-probabilities [k]."""


def masked_canvas(words: Tensor, columns: int) -> Tensor:
    """Canvases of `words` (int64 [m]) placeholders each, EOS behind them, then PAD: int64 [m, columns]."""
    canvas = words.new_full((len(words), columns), PAD)
    return canvas.masked_fill_(within(words + 1, columns), EOS).masked_fill_(within(words, columns), MASK)


def mask_predict(predict: Predict, words: Tensor, passes: int) -> tuple[Tensor, Tensor]:
    """Sentences of `words` (int64 [m]) words, one or more each: canvases without placeholders, int64 [m, C], and mean
    log-probabilities, float64 [m].

    After pass c of T the floor(L (T - c) / T) least likely of a sentence's L words are placeholders again. A word that
    stays keeps the probability with which it was predicted."""
    columns = int(words.max()) + 1
    canvas = masked_canvas(words, columns)
    taken = masked = within(words, columns)
    scores = torch.zeros(canvas.shape, dtype=torch.float64, device=canvas.device)
    for done in range(1, passes + 1):
        canvas = canvas.masked_fill(masked, MASK)
        predicted, log_probabilities = predict(canvas, masked)
        canvas[masked], scores[masked] = predicted, log_probabilities.double()
        masked = lowest(scores, taken, words * (passes - done) // passes)
    return canvas, scores.sum(dim=1) / words

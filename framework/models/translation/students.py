"""What students share that predict many words at a time: the term of a lexical prior, likeliest words, first weights.

The prior's term is of Ding et al., ICLR 2021:

    L = (1 - weight) L_student + weight L_prior,    L_prior = mean over predicted words of KL(prior || model)

Only words have a prior: lengths, placeholders and deletions have none. The mean is over all words that the global batch
predicts; one of which the prior knows nothing adds nothing, and is counted: how many are known would have to be asked
of the other workers, how many are predicted would not.
"""

import math

import torch
from torch import Tensor, nn

from framework.kernels.sparse_rows import sparse_kl
from framework.models.translation.attention import Memory
from framework.models.translation.layers import SOURCE, EncoderDecoder, visible
from framework.samples.pair_batch import PairBatch
from framework.samples.vocabulary import BOS, EOS, MASK, PAD, UNKNOWN

_NEVER_WRITTEN = (PAD, BOS, EOS, UNKNOWN, MASK)


def with_prior(loss: Tensor, scores: Tensor, hidden: Tensor, predicted: Tensor, batch: PairBatch) -> Tensor:
    """This share of a global batch's loss in training, with its prior's term where the batch has a prior.

    `loss`: the student's own; `scores` [k, V], before the softmax, of the words that are predicted here, which are the
    `hidden` ones (bool [n, T]) of the targets; `predicted`: how many the global batch predicts."""
    weight = batch.prior_weight
    if batch.prior is None or weight == 0:
        return loss
    prior = batch.prior.take(hidden.flatten().nonzero().squeeze(1))
    divergence = sparse_kl(scores.log_softmax(dim=1), prior).sum() / predicted
    return (1 - weight) * loss + weight * divergence


def likeliest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest words by scores [k, V] of all tokens, int64 [k], and their log-probabilities among words, [k].

    Overwrites the scores: a copy would be the largest tensor of a translation."""
    scores.index_fill_(1, torch.tensor(_NEVER_WRITTEN, device=scores.device), -torch.inf)
    best = scores.max(dim=1)
    return best.indices, best.values - scores.logsumexp(dim=1)


def encoded_source(body: EncoderDecoder, batch: PairBatch) -> tuple[Tensor, list[Memory]]:
    """A batch's source [n, S, width], and what decoder layers look at of it; with dropout in training."""
    length = batch.source.shape[1]
    seen = visible(batch.source_lengths, length)
    encoded = body.encode(batch.source, seen, body.drops(batch.key, SOURCE, batch.samples, length))
    return encoded, body.remember(encoded, seen)


def draw_weights(network: nn.Module, body: EncoderDecoder, deviation: float) -> None:
    """First weights as BERT's (Devlin et al., NAACL 2019): normal; biases 0; norms as they are.

    An embedding scales its tokens but not its places: places are drawn as wide as scaled tokens, as BERT's are."""
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=deviation)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    if body.embedding.places is not None:
        nn.init.normal_(body.embedding.places, std=deviation * math.sqrt(body.embedding.weight.shape[1]))

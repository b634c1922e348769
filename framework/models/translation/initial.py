"""Weights that a translator begins with: those of another one's encoder and decoder.

A student that begins as its teacher ends knows the words of both languages and how to read a source (Guo et al.,
"Fine-tuning by curriculum learning for non-autoregressive neural machine translation", AAAI 2020); what it has to learn
is to write without looking back.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from framework.errors import InputError

_SHARED = "body."  # an EncoderDecoder, by whatever network it is in


@torch.no_grad()
def begin_with(network: nn.Module, weights: Mapping[str, Tensor], *, of: str) -> None:
    """Gives the encoder and decoder of `network` what `weights`, by name, has for them; what it has not stays as drawn:
    further layers, heads, positions that only this one learns.

    Raises InputError where weights have other shapes, or `of`, who trained them, has no encoder and decoder."""
    given = [(name, mine) for name, mine in network.named_parameters() if name.startswith(_SHARED) and name in weights]
    if not given:
        raise InputError(f"a model begins with the weights of {of}, which have no encoder and decoder like its own.")
    for name, mine in given:
        if mine.shape != weights[name].shape:
            raise InputError(
                f"a model begins with the weights of {of}: its '{name.removeprefix(_SHARED)}' is {tuple(mine.shape)}, "
                f"and theirs {tuple(weights[name].shape)}; take the same sizes and the same vocabulary."
            )
        mine.copy_(weights[name])

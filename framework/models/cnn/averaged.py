"""A network and the exponential moving average of its weights, which evaluation uses.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with a decay that begins small, so
that the first weights are soon forgotten. What is averaged are the weights that training steps begin with, and whatever
else a network learns in, such as running statistics; the average is made of buffers, so checkpoints hold it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """Learns as its network does, and answers by the average in evaluation."""

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Step t, from 1 on, keeps the share min(decay, t / (t + 9)) of the average before it."""
        super().__init__()
        self.network, self.decay = network, decay
        self.average = _of_buffers(network)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, reconstruct: bool = False) -> Tensor:
        """As the network's."""
        if self.training:
            self._follow()
        asked: Any = self.network if self.training else self.average
        answer: Tensor = asked(images, reconstruct=True) if reconstruct else asked(images)
        return answer

    @torch.no_grad()
    def _follow(self) -> None:
        self.steps += 1
        followed = self.steps.double()
        share = 1 - (followed / (followed + 9)).clamp(max=self.decay)
        weights = self.network.named_parameters(remove_duplicate=False)  # shared ones have a name in every layer
        now = {**dict(weights), **dict(self.network.named_buffers(remove_duplicate=False))}
        for name, before in self.average.named_buffers():
            if before.is_floating_point():
                before.lerp_(now[name], share.to(before))
            else:
                before.copy_(now[name])


def _of_buffers(network: nn.Module) -> nn.Module:
    """A copy of a network that has buffers in place of parameters: nothing in it is learned."""
    average = copy.deepcopy(network)
    for layer in average.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, weight.detach().clone())
    return average

"""Multi-path: DenseNet-BC, whose every layer sees the outputs of all layers before it.

Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks", CVPR 2017, section 3: three dense
blocks of bottleneck layers (B), with compression (C) in the transitions between them.
"""

import dataclasses

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.models.cnn.layers import Classifier, blocks_of, convolution, preactivated
from framework.models.cnn.normalize import BatchNorm
from framework.models.settings import require_widths
from framework.registry import IMAGE_MODELS

_BOTTLENECK = 4  # times the growth: channels between the two convolutions of a layer


@IMAGE_MODELS.register("densenet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNet:
    """DenseNet-BC for small images (Huang et al., CVPR 2017)."""

    depth: int = 100
    """Layers: 6 n + 4."""
    growth: int = 12
    """Channels that a layer adds."""
    compression: float = 0.5
    """Share of the channels that goes on to the next block."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=4)
        require_widths(self, "growth")
        if not 0 < self.compression <= 1:
            raise InputError(f"--model.compression is {self.compression}; expected more than 0 and at most 1.")
        if not all(self._kept()):
            raise InputError(
                f"--model.compression is {self.compression}, which leaves no channel of so few; expected more, or a "
                "larger --model.growth."
            )

    def build(self, channels: int, classes: int) -> nn.Module:
        """769,162 weights at depth 100 and growth 12, for 3 channels and 10 classes."""
        width, transitions = 2 * self.growth, self._kept()
        features: list[nn.Module] = [convolution(channels, width)]
        for block in range(3):
            for _ in range(blocks_of(self.depth, layers=2, ends=4)):
                features.append(_Dense(width, self.growth))
                width += self.growth
            if block < 2:
                features += [preactivated(width, transitions[block], 1), nn.AvgPool2d(2, ceil_mode=True)]
                width = transitions[block]
        return Classifier([*features, BatchNorm(width), nn.ReLU()], width, classes)

    def _kept(self) -> list[int]:
        """The channels behind the first two blocks."""
        added = blocks_of(self.depth, layers=2, ends=4) * self.growth
        first = int((2 * self.growth + added) * self.compression)
        return [first, int((first + added) * self.compression)]


class _Dense(nn.Module):
    """Its input, and beside it what two convolutions make of that."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        middle = _BOTTLENECK * growth
        self.grow = nn.Sequential(preactivated(inputs, middle, 1), preactivated(middle, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(x)], dim=1)

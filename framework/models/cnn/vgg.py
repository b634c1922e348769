"""Spatial exploitation: VGG, nothing but small convolutions and pooling, here with batch normalisation.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, with the mean
over the image and one linear layer in place of the three large ones, as is usual for images of 32 pixels.
"""

import dataclasses
from typing import Literal

from torch import nn

from framework.errors import InputError
from framework.models.cnn.layers import Classifier, convolved
from framework.models.settings import require_widths
from framework.registry import IMAGE_MODELS

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Of each of the five stages, by depth: the paper's configurations A, B, D and E."""
_WIDTHS = (1, 2, 4, 8, 8)


@IMAGE_MODELS.register("vgg")
@dataclasses.dataclass(frozen=True, kw_only=True)
class VGG:
    """VGG with batch normalisation (Simonyan and Zisserman, ICLR 2015)."""

    depth: Literal[11, 13, 16, 19] = 16
    """Layers with weights, as the paper counts them (its last three are one here)."""
    width: int = 64
    """Channels of the first stage; later ones have 2, 4, 8 and 8 times as many."""

    def __post_init__(self) -> None:
        require_widths(self, "width")
        if self.depth not in CONVOLUTIONS:
            raise InputError(f"--model.depth is {self.depth}; expected 11, 13, 16 or 19.")

    def build(self, channels: int, classes: int) -> nn.Module:
        """14,724,042 weights at the paper's width, for 3 channels and 10 classes."""
        features: list[nn.Module] = []
        for count, factor in zip(CONVOLUTIONS[self.depth], _WIDTHS, strict=True):
            for _ in range(count):
                features.append(convolved(channels, factor * self.width))
                channels = factor * self.width
            features.append(nn.MaxPool2d(2, ceil_mode=True))  # of any size, a pixel is left
        return Classifier(features, channels, classes)

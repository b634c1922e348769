"""Exploiting feature maps, and attention: residual networks whose blocks weigh their channels, or channels and places.

Hu, Shen and Sun, "Squeeze-and-excitation networks", CVPR 2018; Woo, Park, Lee and Kweon, "CBAM: convolutional block
attention module", ECCV 2018. The two linear layers have no biases, so that a block has 2 C^2 / r weights more than
without, and with attention over places 2 k^2 on top.
"""

import dataclasses

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.models.cnn.layers import blocks_of, convolution
from framework.models.cnn.residual import residual_network
from framework.registry import IMAGE_MODELS


@IMAGE_MODELS.register("se-resnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SEResNet:
    """Residual network whose blocks weigh their channels by the whole image (Hu et al., CVPR 2018)."""

    depth: int = 20
    """Layers: 6 n + 2."""
    width: int = 16
    """Channels of the first stage; the others have 2 and 4 times as many."""
    reduction: int = 16
    """How many times fewer numbers than channels the weights are made of."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=2)
        _require_reducible(self.width, self.reduction)

    def build(self, channels: int, classes: int) -> nn.Module:
        """A ResNet with 2 C^2 / reduction weights more in every block of C channels."""
        return residual_network(
            channels,
            classes,
            depth=self.depth,
            width=self.width,
            refine=lambda width: ChannelAttention(width, self.reduction, peaks=False),
        )


@IMAGE_MODELS.register("cbam-resnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CBAMResNet:
    """Residual network whose blocks attend to channels, then to places (Woo et al., ECCV 2018)."""

    depth: int = 20
    """Layers: 6 n + 2."""
    width: int = 16
    """Channels of the first stage; the others have 2 and 4 times as many."""
    reduction: int = 16
    """How many times fewer numbers than channels the channels' weights are made of."""
    kernel: int = 7
    """Pixels of a side of the window that a place's weight is made of: an odd number."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=2)
        _require_reducible(self.width, self.reduction)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"--model.kernel is {self.kernel}; expected an odd number of pixels.")

    def build(self, channels: int, classes: int) -> nn.Module:
        """A ResNet with 2 C^2 / reduction + 2 kernel^2 weights more in every block of C channels."""
        return residual_network(
            channels,
            classes,
            depth=self.depth,
            width=self.width,
            refine=lambda width: nn.Sequential(
                ChannelAttention(width, self.reduction, peaks=True), SpatialAttention(self.kernel)
            ),
        )


class ChannelAttention(nn.Module):
    """Weighs every channel, 0 to 1, by two linear layers over the channels' means, and maxima where `peaks` says so."""

    def __init__(self, channels: int, reduction: int, *, peaks: bool) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
        )
        self.peaks = peaks

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> the same."""
        scores = self.weigh(x.mean(dim=(2, 3)))
        if self.peaks:
            scores = scores + self.weigh(x.amax(dim=(2, 3)))
        weighed: Tensor = x * scores.sigmoid()[:, :, None, None]
        return weighed


class SpatialAttention(nn.Module):
    """Weighs every place, 0 to 1, by a convolution over the mean and the maximum of its channels."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.weigh = convolution(2, 1, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, height, width] -> the same."""
        summary = torch.stack([x.mean(dim=1), x.amax(dim=1)], dim=1)
        weighed: Tensor = x * self.weigh(summary).sigmoid()
        return weighed


def _require_reducible(width: int, reduction: int) -> None:
    if width < 1 or reduction < 1 or width % reduction:
        raise InputError(
            f"--model.width is {width} and --model.reduction {reduction}; expected one that the other divides."
        )

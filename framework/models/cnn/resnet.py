"""Depth: residual networks of any depth."""

import dataclasses

from torch import nn

from framework.models.cnn.layers import blocks_of
from framework.models.cnn.residual import residual_network
from framework.models.settings import require_widths
from framework.registry import IMAGE_MODELS


@IMAGE_MODELS.register("resnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet:
    """Residual network for small images (He et al., CVPR 2016, section 4.2)."""

    depth: int = 20
    """Layers: 6 n + 2."""
    width: int = 16
    """Channels of the first stage; the others have 2 and 4 times as many."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=2)
        require_widths(self, "width")

    def build(self, channels: int, classes: int) -> nn.Module:
        """269,722 weights at depth 20, 853,018 at 56, 1,727,962 at 110, for 3 channels and 10 classes."""
        return residual_network(channels, classes, depth=self.depth, width=self.width)

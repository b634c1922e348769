"""The residual network of He et al. for small images, and what may stand at the end of its blocks.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2: a convolution, three
stages of blocks of two convolutions, of 1, 2 and 4 times the width, each stage after the first at half the height and
width; shortcuts without weights.
"""

from collections.abc import Callable

from torch import Tensor, nn

from framework.models.cnn.layers import Classifier, blocks_of, convolution, convolved
from framework.models.cnn.normalize import BatchNorm

Refine = Callable[[int], nn.Module]
"""Of a number of channels: what a block's output goes through before the shortcut is added."""


def residual_network(channels: int, classes: int, *, depth: int, width: int, refine: Refine | None = None) -> nn.Module:
    """The network of `depth` = 6 n + 2 layers. Raises InputError for another depth."""
    features: list[nn.Module] = [convolved(channels, width)]
    before = width
    for stage in range(3):
        for number in range(blocks_of(depth, layers=2, ends=2)):
            after = width * 2**stage
            stride = 2 if stage and not number else 1
            features.append(_Block(before, after, stride, refine(after) if refine else nn.Identity()))
            before = after
    return Classifier(features, before, classes)


class _Block(nn.Module):
    """Two convolutions around a shortcut, which takes every other pixel and pads channels by zeros where it must."""

    def __init__(self, inputs: int, outputs: int, stride: int, refine: nn.Module) -> None:
        super().__init__()
        self.first = convolved(inputs, outputs, stride=stride)
        self.second = nn.Sequential(convolution(outputs, outputs), BatchNorm(outputs), refine)
        self.stride, self.padding = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, self.padding))
        return nn.functional.relu(out + x)

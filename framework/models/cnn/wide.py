"""Width: residual networks of more channels (WideResNet), and of more paths in a block (ResNeXt).

Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016 (without dropout); Xie, Girshick, Dollar, Tu and He,
"Aggregated residual transformations for deep neural networks", CVPR 2017, section 5.2.
"""

import dataclasses

from torch import Tensor, nn

from framework.models.cnn.layers import Classifier, blocks_of, convolution, convolved, preactivated
from framework.models.cnn.normalize import BatchNorm
from framework.models.settings import require_widths
from framework.registry import IMAGE_MODELS

_EXPANSION = 4  # times the width: channels between the blocks of a ResNeXt


@IMAGE_MODELS.register("wide-resnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNet:
    """Residual network that is wide rather than deep (Zagoruyko and Komodakis, BMVC 2016)."""

    depth: int = 16
    """Layers: 6 n + 4."""
    widen: int = 4
    """Times as many channels as in a ResNet of width `width`."""
    width: int = 16
    """Channels of the first convolution."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=4)
        require_widths(self, "widen", "width")

    def build(self, channels: int, classes: int) -> nn.Module:
        """36,479,194 weights at depth 28 widened 10 times, 2,748,890 at 16 and 4, for 3 channels and 10 classes."""
        features: list[nn.Module] = [convolution(channels, self.width)]
        before = self.width
        for stage in range(3):
            for number in range(blocks_of(self.depth, layers=2, ends=4)):
                after = self.width * self.widen * 2**stage
                features.append(_Wide(before, after, stride=2 if stage and not number else 1))
                before = after
        return Classifier([*features, BatchNorm(before), nn.ReLU()], before, classes)


class _Wide(nn.Module):
    """Two preactivated convolutions; where the shape changes the shortcut is a convolution of the activated input."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(BatchNorm(inputs), nn.ReLU())
        self.convolve = nn.Sequential(convolution(inputs, outputs, stride=stride), preactivated(outputs, outputs))
        self.shortcut = convolution(inputs, outputs, 1, stride=stride) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        out: Tensor = self.convolve(active)
        return out + (x if self.shortcut is None else self.shortcut(active))


@IMAGE_MODELS.register("resnext")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNeXt:
    """Residual network of blocks with many equal paths (Xie et al., CVPR 2017)."""

    depth: int = 29
    """Layers: 9 n + 2."""
    cardinality: int = 8
    """Paths of a block."""
    path: int = 64
    """Channels of each path in the first stage; later ones have 2 and 4 times as many."""
    width: int = 64
    """A quarter of the channels between the blocks of the first stage."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=3, ends=2)
        require_widths(self, "cardinality", "path", "width")

    def build(self, channels: int, classes: int) -> nn.Module:
        """34,426,698 weights at depth 29, 8 x 64, for 3 channels and 10 classes."""
        features: list[nn.Module] = [convolved(channels, self.width)]
        before = self.width
        for stage in range(3):
            for number in range(blocks_of(self.depth, layers=3, ends=2)):
                after = _EXPANSION * self.width * 2**stage
                middle = self.cardinality * self.path * 2**stage
                stride = 2 if stage and not number else 1
                features.append(_Paths(before, middle, after, stride=stride, groups=self.cardinality))
                before = after
        return Classifier(features, before, classes)


class _Paths(nn.Module):
    """A bottleneck whose middle convolution has groups: each is a path, and the last one adds them up."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            convolved(inputs, middle, 1),
            convolved(middle, middle, stride=stride, groups=groups),
            convolution(middle, outputs, 1),
            BatchNorm(outputs),
        )
        self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride=stride), BatchNorm(outputs))
        if inputs == outputs and stride == 1:
            self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.convolve(x) + self.shortcut(x))

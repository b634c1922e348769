"""What convolutional networks are made of: convolutions by He's rule, the orders they stand in, and the head."""

from collections.abc import Sequence

from torch import Tensor, nn

from framework.errors import InputError
from framework.models.cnn.normalize import BatchNorm


def convolution(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps height and width, but for its stride.

    Its weights are drawn by He et al., "Delving deep into rectifiers", ICCV 2015 (fan-out)."""
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def convolved(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    layer = convolution(inputs, outputs, size, stride=stride, groups=groups)
    return nn.Sequential(layer, BatchNorm(outputs), nn.ReLU())


def preactivated(inputs: int, outputs: int, size: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Batch normalisation, ReLU, convolution (He et al., "Identity mappings in deep residual networks", ECCV 2016)."""
    return nn.Sequential(BatchNorm(inputs), nn.ReLU(), convolution(inputs, outputs, size, stride=stride))


class Classifier(nn.Module):
    """Features of any height and width, their mean over the image, a linear layer."""

    def __init__(self, features: Sequence[nn.Module], width: int, classes: int) -> None:
        """`width`: the channels that the last of the features gives."""
        super().__init__()
        self.features = nn.Sequential(*features)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> [n, classes]."""
        scores: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return scores


def blocks_of(depth: int, layers: int, ends: int) -> int:
    """How many blocks of `layers` layers a stage of three has, where `ends` layers are in none.

    Raises InputError for a depth that no whole number of blocks comes to."""
    blocks, left = divmod(depth - ends, 3 * layers)
    if left or blocks < 1:
        some = ", ".join(str(3 * layers * count + ends) for count in (1, 2, 3))
        raise InputError(f"--model.depth is {depth}; expected {3 * layers} n + {ends}: {some}, ...")
    return blocks

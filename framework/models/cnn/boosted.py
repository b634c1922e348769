"""Channel boosting: an auto-encoder's channels beside those of the images.

Khan, Sohail and Ali, "A new channel boosted convolutional neural network using transfer learning", 2018: an
auto-encoder is trained on the training images first; what its encoder then says of an image is given to the classifier
as additional channels. The encoder has no batch normalisation: once it is frozen, an image's code stays what it is.
"""

import dataclasses

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.models.cnn.layers import blocks_of, convolution
from framework.models.cnn.residual import residual_network
from framework.models.settings import require_widths
from framework.registry import IMAGE_MODELS


@IMAGE_MODELS.register("boosted-resnet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BoostedResNet:
    """Residual network that sees an auto-encoder's channels, too (channel boosting; Khan et al., 2018)."""

    depth: int = 20
    """Layers of the classifier: 6 n + 2."""
    width: int = 16
    """Channels of its first stage; the others have 2 and 4 times as many."""
    auxiliary: int = 8
    """Channels that the encoder adds."""
    hidden: int = 16
    """Channels between the layers of encoder and decoder."""
    pretraining: int = 2
    """Epochs at the start of a run in which the auto-encoder is learned, and nothing else."""

    def __post_init__(self) -> None:
        blocks_of(self.depth, layers=2, ends=2)
        require_widths(self, "width", "auxiliary", "hidden")
        if self.pretraining < 0:
            raise InputError(f"--model.pretraining is {self.pretraining}; expected a number of epochs.")

    def build(self, channels: int, classes: int) -> nn.Module:
        """A ResNet of `auxiliary` channels more, and the auto-encoder."""
        classifier = residual_network(channels + self.auxiliary, classes, depth=self.depth, width=self.width)
        return BoostedNetwork(AutoEncoder(channels, self.hidden, self.auxiliary), classifier)


class AutoEncoder(nn.Module):
    """Images in a quarter of their pixels, and back: two convolutions each way, the first at half the size."""

    def __init__(self, channels: int, hidden: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            convolution(channels, hidden, stride=2), nn.ReLU(), convolution(hidden, code), nn.Tanh()
        )
        self.decoder = nn.Sequential(convolution(code, hidden), nn.ReLU(), convolution(hidden, channels))

    def encoded(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> the code at the images' size: [n, code, height, width]."""
        return _sized(self.encoder(images), images)

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> the same, as the decoder has it from the code."""
        decoded: Tensor = self.decoder(self.encoded(images))
        return decoded


class BoostedNetwork(nn.Module):
    """A classifier of images and of the channels that a frozen encoder gives beside them."""

    def __init__(self, auto_encoder: AutoEncoder, classifier: nn.Module) -> None:
        super().__init__()
        self.auto_encoder, self.classifier = auto_encoder, classifier

    def forward(self, images: Tensor, reconstruct: bool = False) -> Tensor:
        """[n, channels, height, width] -> class scores [n, classes]; or, to learn the auto-encoder, its images."""
        if reconstruct:
            decoded: Tensor = self.auto_encoder(images)
            return decoded
        with torch.no_grad():
            boost = self.auto_encoder.encoded(images)
        scores: Tensor = self.classifier(torch.cat([images, boost], dim=1))
        return scores


def _sized(x: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")

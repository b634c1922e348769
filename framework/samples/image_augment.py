"""Augmentation of images: moved, mirrored, with a hole, mixed with another image, each by draws of its own.

Assumptions: a draw is keyed by what it is for and by the sample's id, so an image becomes the same in any batch and on
any worker; two images are mixed by the draw of the one whose turn it is.
"""

import dataclasses
import math

import torch
from scipy.special import betaincinv
from torch import Tensor

from framework.errors import InputError
from framework.random import Key, shuffled, uniform

_DOWN, _RIGHT, _MIRRORED, _HOLE_DOWN, _HOLE_RIGHT, _SHARE = range(6)  # an image's draws: the streams of its id


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """How training images are changed, anew in every epoch. Nothing, by default."""

    crop: int = 0
    """Pixels by which an image is moved at most along each side; what comes in is black."""
    flip: bool = False
    """Whether every other image, by a draw, is mirrored, left for right."""
    cutout: int = 0
    """Pixels of a side of the square that is cut out around a pixel of the image (DeVries and Taylor, 2017)."""
    mixup: float = 0.0
    """Alpha of the Beta(alpha, alpha) that says how much of an image and how much of another one of the batch is mixed,
    pixels and classes (Zhang et al., ICLR 2018). 0: nothing is."""

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(f"--augment.{name} is {getattr(self, name)}; expected a number of pixels.")
        if not 0 <= self.mixup < math.inf:
            raise InputError(f"--augment.mixup is {self.mixup}; expected a number of at least 0.")

    def moved(self, pixels: Tensor, samples: Tensor, key: Key) -> Tensor:
        """Images [n, height, width, channels] cropped and flipped, as `samples` (int64 [n]) draw."""
        if not self.crop and not self.flip:
            return pixels
        height, width = pixels.shape[1:3]
        rows, columns = torch.arange(height).expand(len(samples), -1), torch.arange(width).expand(len(samples), -1)
        if self.flip:
            mirrored = uniform(key, samples, stream=_MIRRORED)[:, None] < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        if self.crop:
            pixels = torch.nn.functional.pad(pixels, (0, 0, *[self.crop] * 4))
            rows = rows + self._shift(key, samples, _DOWN)
            columns = columns + self._shift(key, samples, _RIGHT)
        images = torch.arange(len(samples))[:, None, None]
        return pixels[images, rows[:, :, None], columns[:, None, :]]

    def holed(self, images: Tensor, samples: Tensor, key: Key) -> Tensor:
        """Images [n, channels, height, width] with a hole, as `samples` draw: the mean pixel, which is 0."""
        if not self.cutout:
            return images
        inside = [
            _within(size, self.cutout, uniform(key, samples, stream=stream))
            for size, stream in ((images.shape[2], _HOLE_DOWN), (images.shape[3], _HOLE_RIGHT))
        ]
        hole = inside[0][:, :, None] & inside[1][:, None, :]
        return images.masked_fill(hole[:, None].to(images.device), 0)

    def partners(self, batch: Tensor, key: Key) -> Tensor:
        """Whom every sample of a global batch (int64 [g], ascending) is mixed with: another one, where there is one.

        `key`: of the step."""
        order = batch[shuffled(key, batch)]
        return order.roll(-1)[torch.argsort(order)]

    def shares(self, samples: Tensor, key: Key) -> Tensor:
        """How much of each sample is its own, once it is mixed: float64 [n], from Beta(alpha, alpha)."""
        draws = uniform(key, samples, stream=_SHARE).numpy()
        return torch.from_numpy(betaincinv(self.mixup, self.mixup, draws))

    def _shift(self, key: Key, samples: Tensor, stream: int) -> Tensor:
        """Where the crop begins in an image with a margin: 0 to 2 crop, int64 [n, 1]."""
        return (uniform(key, samples, stream=stream) * (2 * self.crop + 1)).long()[:, None]


def _within(size: int, side: int, draws: Tensor) -> Tensor:
    """Which of `size` pixels lie in a stretch of `side` around the one that is drawn: bool [n, size]."""
    begin = (draws * size).long()[:, None] - side // 2
    place = torch.arange(size)
    return (place >= begin) & (place < begin + side)

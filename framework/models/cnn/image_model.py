"""The contract of a model of images, and what a network of images may learn before their classes.

A network is called with images, float [n, channels, height, width], and returns class scores [n, classes], whatever
their height and width. An empty share of a batch is a batch too: n may be 0.
"""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class ImageModel(Protocol):
    """A model of images as a value. A plug-in: its fields are its configuration."""

    def build(self, channels: int, classes: int) -> nn.Module:
        """A new network from images of `channels` channels to scores of `classes` classes."""


@runtime_checkable
class Pretrained(Protocol):
    """An ImageModel whose network learns to give images back before it learns their classes.

    For so many epochs at the start of a run the network is called as `network(images, reconstruct=True)`, and returns
    images, [n, channels, height, width], to be compared with those it was given."""

    @property
    def pretraining(self) -> int:
        """Epochs of it."""

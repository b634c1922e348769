"""A data set of small random images with classes, and a run that learns from it with everything on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from framework import config
from framework.data.image_sets import RawImages, shared_out
from framework.engine.optimize import SGD, Cosine
from framework.engine.run import Run
from framework.models.cnn.layers import Classifier, convolved
from framework.random import Key, bits
from framework.samples.image_augment import ImageAugmentation
from framework.workloads.images import ImageClassification

EVERYTHING = ImageAugmentation(crop=1, flip=True, cutout=3, mixup=0.7)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stripes:
    """Noise, brighter in the columns that the class says; made from its number."""

    images: int = 70
    classes: int = 3
    height: int = 7
    width: int = 6
    channels: int = 2
    broken: int = -1

    def fingerprint(self) -> str:
        return config.digest(dataclasses.asdict(self))

    def open(self) -> RawImages:
        numbers = np.arange(self.images)
        return RawImages(
            contents=numbers.tolist(),
            ids=np.array([f"stripes {number}" for number in numbers]),
            labels=numbers % self.classes,
            split=shared_out(self.images, 0.15, 0.2),
            num_classes=self.classes,
            class_names=tuple("abcdefghij"[: self.classes]),
        )

    def decode(self, contents: Sequence[Any]) -> NDArray[np.uint8]:
        return np.stack([self.image(number) for number in contents])

    def image(self, number: int) -> NDArray[np.uint8]:
        if number == self.broken:
            return np.zeros((1, 1, self.channels), np.uint8)
        noise = bits(Key.root(number), torch.arange(self.height * self.width * self.channels)) % 128
        image = noise.numpy().reshape(self.height, self.width, self.channels)
        image[:, number % self.classes :: self.classes] += 100
        return image.astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
    """Two convolutions with batch normalisation."""

    width: int = 4

    def build(self, channels: int, classes: int) -> nn.Module:
        layers = [convolved(channels, self.width), convolved(self.width, 2 * self.width, stride=2)]
        return Classifier(layers, 2 * self.width, classes)


def image_run(out: Path, **fields: Any) -> Run:
    """Float64 and everything on; fields of the workload and of the run may be given."""
    workload = {
        "data": Stripes(),
        "model": Small(),
        "batch_size": 16,
        "augment": EVERYTHING,
        "label_smoothing": 0.1,
        "ema": 0.9,
    }
    workload |= {name: fields.pop(name) for name in list(fields) if name in ImageClassification.__dataclass_fields__}
    settings = {
        "dtype": "float64",
        "epochs": 4,
        "optimizer": SGD(lr=0.05, nesterov=True, weight_decay=5e-4),
        "schedule": Cosine(warmup=1, by="step"),
        "out": str(out),
        "store": str(out.parent / "stores"),
    }
    return Run(workload=ImageClassification(**workload), **{**settings, **fields})  # type: ignore[arg-type]

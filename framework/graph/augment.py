"""Augmentation: graphs turned, mirrored, moved and shaken, each by draws of its own.

Assumptions: a draw is keyed by what it is for and by the sample's id (a node's identity where nodes differ), so a graph
becomes the same in any batch and on any worker. Draws are made in float64, whatever the type of the positions.
"""

import dataclasses
import math

import torch
from torch import Tensor

from framework.errors import InputError
from framework.graph.batch import GraphBatch
from framework.kernels.segments import segment_sum
from framework.random import Key, uniform

_ROTATION, _REFLECTION, _TRANSLATION, _JITTER = range(4)  # which of a graph's draws a key is folded by
_BISECTIONS = 60  # halvings of a half turn: to the last bit of a float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How the positions of a graph are changed, anew in every epoch. Nothing, by default."""

    rotation: float = 0.0
    """Largest angle of a turn about the graph's middle, in degrees; 180 makes all turns equally likely. In two or three
    dimensions."""
    reflection: bool = False
    """Whether every other graph, by a draw, is mirrored: its first coordinate, before it is turned."""
    translation: float = 0.0
    """Largest shift along every axis, in the unit of the positions."""
    jitter: float = 0.0
    """Standard deviation of a node's own shift along every axis, in the unit of the positions."""

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise InputError(f"--augment.rotation is {self.rotation}; expected 0 to 180 degrees.")
        for name, value in (("translation", self.translation), ("jitter", self.jitter)):
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"--augment.{name} is {value}; expected a number of at least 0.")

    def of(self, batch: GraphBatch, key: Key) -> GraphBatch:
        """The batch with its graphs changed as `key` and their ids say. Raises InputError for a turn in a dimension
        that has none."""
        if self == Augmentation():
            return batch
        positions = batch.positions.double()
        dimensions = positions.shape[1]
        if self.jitter:
            deviations = _normal(key.fold(_JITTER), batch.original.cpu(), dimensions).to(positions.device)
            positions = positions + self.jitter * deviations
        if self.reflection or self.rotation:
            counts = batch.offsets.diff().clamp(min=1)[:, None]
            middle = (segment_sum(batch.offsets, positions) / counts)[batch.graph_of]
            linear = self._linear(batch.samples.cpu(), dimensions, key).to(positions.device)[batch.graph_of]
            positions = middle + (linear * (positions - middle)[:, None, :]).sum(dim=2)
        if self.translation:
            draws = _draws(key.fold(_TRANSLATION), batch.samples.cpu(), dimensions).to(positions.device)
            positions = positions + (self.translation * (2 * draws - 1))[batch.graph_of]
        return dataclasses.replace(batch, positions=positions.to(batch.positions.dtype))

    def _linear(self, samples: Tensor, dimensions: int, key: Key) -> Tensor:
        """The turn of every graph, after its reflection: float64 [g, dimensions, dimensions]."""
        linear = torch.eye(dimensions, dtype=torch.float64).repeat(len(samples), 1, 1)
        if self.rotation:
            linear = rotations(samples, dimensions, self.rotation, key.fold(_ROTATION))
        if self.reflection:
            mirrored = uniform(key.fold(_REFLECTION), samples) < 0.5
            linear[mirrored, :, 0] *= -1
        return linear


def rotations(samples: Tensor, dimensions: int, largest: float, key: Key) -> Tensor:
    """A rotation for every sample, by at most `largest` degrees: float64 [g, dimensions, dimensions].

    In the plane angles are uniform; in space rotations are, that is, axes are uniform on the sphere and the density of
    an angle a is proportional to 1 - cos a (Miles, "On random rotations in R^3", Biometrika 52, 1965). `samples` int64
    [g]. Raises InputError for another number of dimensions."""
    limit = math.radians(largest)
    if dimensions == 2:
        angle = limit * (2 * uniform(key, samples) - 1)
        cosine, sine = angle.cos(), angle.sin()
        return torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
    if dimensions != 3:
        raise InputError(f"positions have {dimensions} dimensions, not 2 or 3; leave --augment.rotation 0.")
    draws = _draws(key, samples, 3)
    height, longitude = 2 * draws[:, 0] - 1, 2 * math.pi * draws[:, 1]
    radius = (1 - height * height).clamp(min=0).sqrt()
    x, y, z = radius * longitude.cos(), radius * longitude.sin(), height
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)  # of the axis, with a vector
    angle = _angles(draws[:, 2], limit)[:, None, None]
    return torch.eye(3, dtype=torch.float64) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)  # Rodrigues


def _angles(draws: Tensor, limit: float) -> Tensor:
    """The angles a in [0, limit] at which (a - sin a) / (limit - sin limit) are `draws`, by bisection."""
    wanted = draws * (limit - math.sin(limit))
    low, high = torch.zeros_like(draws), torch.full_like(draws, limit)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = middle - middle.sin() < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def _draws(key: Key, ids: Tensor, columns: int) -> Tensor:
    """Uniform draws of [0, 1): float64 [n, columns]."""
    return torch.stack([uniform(key, ids, stream=column) for column in range(columns)], dim=1)


def _normal(key: Key, ids: Tensor, columns: int) -> Tensor:
    """Standard normal draws, float64 [n, columns] (Box and Muller, "A note on the generation of random normal
    deviates", Ann. Math. Statist. 29, 1958)."""
    draws = _draws(key, ids, 2 * columns)
    radius, angle = (-2 * (1 - draws[:, :columns]).log()).sqrt(), 2 * math.pi * draws[:, columns:]
    return radius * angle.cos()

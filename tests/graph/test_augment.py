"""Augmentation turns, mirrors and moves every graph by draws of its own, whatever batch it is in."""

import dataclasses
import math

import pytest
import torch
from small_graphs import alone, small_graphs

from framework.errors import InputError
from framework.graph.augment import Augmentation, rotations
from framework.random import Key

KEY = Key.root(3).fold(7)
ALL = Augmentation(rotation=180, reflection=True, translation=2.0, jitter=0.3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_graph_becomes_the_same_in_any_batch(dimensions: int) -> None:
    batch = small_graphs([4, 1, 7, 3], dimensions=dimensions)
    changed = ALL.of(batch, KEY)
    assert not changed.positions.allclose(batch.positions)
    for number in range(4):
        single = ALL.of(alone(batch, number), KEY)
        torch.testing.assert_close(single.positions, alone(changed, number).positions, rtol=0, atol=1e-12)
    assert ALL.of(batch, KEY).positions.equal(changed.positions)
    assert not ALL.of(batch, KEY.fold(1)).positions.allclose(changed.positions)
    assert changed.x is batch.x
    assert changed.indices is batch.indices


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("reflection", [False, True])
def test_turned_graphs_keep_their_distances_and_their_middle(dimensions: int, reflection: bool) -> None:
    batch = small_graphs([5, 6, 9], dimensions=dimensions)
    turned = Augmentation(rotation=180, reflection=reflection).of(batch, KEY)
    for number in range(3):
        before, after = alone(batch, number).positions, alone(turned, number).positions
        torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), rtol=0, atol=1e-10)
        torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=1e-12)


def test_half_of_the_graphs_are_mirrored() -> None:
    samples = torch.arange(2000)
    linear = Augmentation(reflection=True)._linear(samples, 3, KEY)
    mirrored = torch.linalg.det(linear) < 0
    assert 0.45 < float(mirrored.double().mean()) < 0.55


@pytest.mark.parametrize("largest", [15.0, 90.0, 180.0])
def test_angles_in_the_plane_are_uniform(largest: float) -> None:
    turns = rotations(torch.arange(20_000), 2, largest, KEY)
    angles = torch.atan2(turns[:, 1, 0], turns[:, 0, 0]).rad2deg()
    assert float(angles.abs().max()) <= largest + 1e-9
    shares = torch.histc(angles, bins=10, min=-largest, max=largest) / len(angles)
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)


@pytest.mark.parametrize("largest", [30.0, 180.0])
def test_rotations_in_space_are_proper_and_spread_as_they_should(largest: float) -> None:
    turns = rotations(torch.arange(20_000), 3, largest, KEY)
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand_as(turns), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(len(turns)).double(), rtol=0, atol=1e-12)
    trace = turns.diagonal(dim1=1, dim2=2).sum(1)
    angles = ((trace - 1) / 2).clamp(-1, 1).arccos()
    limit = math.radians(largest)
    assert float(angles.max()) <= limit + 1e-6
    shares = (angles - angles.sin()) / (limit - math.sin(limit))  # uniform where the density is that of rotations
    found = torch.histc(shares, bins=10, min=0, max=1) / len(shares)
    assert found.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    if largest == 180:  # a uniform rotation takes a vector anywhere alike
        images = turns[:, :, 0]
        assert images.mean(0).tolist() == pytest.approx([0, 0, 0], abs=0.02)
        spread = images.mT @ images / len(images)
        torch.testing.assert_close(spread, torch.eye(3).double() / 3, rtol=0, atol=0.02)


def test_shifts_are_bounded_and_jitter_is_normal() -> None:
    batch = small_graphs([1500, 1500], density=0.0)
    shifted = Augmentation(translation=0.5).of(batch, KEY).positions - batch.positions
    assert float(shifted.abs().max()) <= 0.5
    assert len(shifted.round(decimals=9).unique(dim=0)) == 2  # one a graph
    shaken = (Augmentation(jitter=2.0).of(batch, KEY).positions - batch.positions) / 2
    assert shaken.mean(0).tolist() == pytest.approx([0, 0], abs=0.05)
    assert shaken.std(0).tolist() == pytest.approx([1, 1], abs=0.05)
    assert float((shaken.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.02)


def test_nothing_is_the_default() -> None:
    batch = small_graphs([3, 4])
    assert Augmentation().of(batch, KEY) is batch
    single = dataclasses.replace(batch, positions=batch.positions.float())
    assert ALL.of(single, KEY).positions.dtype == torch.float32


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="positions have 4 dimensions"):
        Augmentation(rotation=10).of(small_graphs([3], dimensions=4), KEY)
    for wrong in ({"rotation": 181.0}, {"rotation": -1.0}, {"jitter": math.nan}, {"translation": -0.1}):
        with pytest.raises(InputError, match=f"--augment.{next(iter(wrong))} is"):
            Augmentation(**wrong)  # type: ignore[arg-type]

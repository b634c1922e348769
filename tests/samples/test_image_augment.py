"""Augmentation of images: each by its own draws, as a plain loop over pixels would."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from framework.errors import InputError
from framework.random import Key
from framework.samples.image_augment import ImageAugmentation

KEY = Key.root(3).fold(5, 0)
SAMPLES = torch.arange(400) * 7 + 2**33


def pictures(count: int, height: int = 6, width: int = 5, channels: int = 2) -> Tensor:
    """No two pixels of an image are alike, and none is black."""
    numbers = 1 + torch.arange(height * width * channels, dtype=torch.uint8)
    return numbers.view(1, height, width, channels).repeat(count, 1, 1, 1)


def shifts(before: Tensor, after: Tensor, reach: int) -> tuple[int, int, bool]:
    """By how much an image was moved, and whether it was mirrored first: the only way that gives it."""
    height, width = before.shape[:2]
    found = []
    for mirrored in (False, True):
        image = before.flip(1) if mirrored else before
        margin = torch.nn.functional.pad(image, (0, 0, reach, reach, reach, reach))
        found += [
            (down, right, mirrored)
            for down in range(2 * reach + 1)
            for right in range(2 * reach + 1)
            if margin[down : down + height, right : right + width].equal(after)
        ]
    (only,) = found
    return only


def test_images_are_moved_and_mirrored_uniformly() -> None:
    before = pictures(len(SAMPLES))
    after = ImageAugmentation(crop=1, flip=True).moved(before, SAMPLES, KEY)
    drawn = [shifts(old, new, 1) for old, new in zip(before, after, strict=True)]
    assert {(down, right) for down, right, _ in drawn} == {(down, right) for down in range(3) for right in range(3)}
    for place in range(2):
        counts = np.bincount([shift[place] for shift in drawn], minlength=3)
        assert stats.chisquare(counts).pvalue > 0.001
    assert 150 < sum(mirrored for _, _, mirrored in drawn) < 250


def test_an_image_becomes_the_same_in_any_batch() -> None:
    augment, before = ImageAugmentation(crop=2, flip=True, cutout=3, mixup=0.5), pictures(len(SAMPLES))
    few = torch.tensor([300, 2, 77])
    whole = augment.moved(before, SAMPLES, KEY)
    assert augment.moved(before[few], SAMPLES[few], KEY).equal(whole[few])
    seen = whole.permute(0, 3, 1, 2).double()
    assert augment.holed(seen[few], SAMPLES[few], KEY).equal(augment.holed(seen, SAMPLES, KEY)[few])
    assert augment.shares(SAMPLES[few], KEY).equal(augment.shares(SAMPLES, KEY)[few])
    assert not augment.moved(before, SAMPLES, KEY.fold(1)).equal(whole)
    assert augment.moved(before[:0], SAMPLES[:0], KEY).shape == (0, 6, 5, 2)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_hole_is_a_square_around_a_pixel_of_the_image(side: int) -> None:
    images = torch.ones(len(SAMPLES), 2, 6, 5, dtype=torch.float64)
    holed = ImageAugmentation(cutout=side).holed(images, SAMPLES, KEY)
    possible = {}
    for down in range(6):
        for right in range(5):
            top, left = down - side // 2, right - side // 2
            rows, columns = slice(max(0, top), top + side), slice(max(0, left), left + side)
            image = torch.ones(2, 6, 5, dtype=torch.float64)
            image[:, rows, columns] = 0
            possible[tuple(image.flatten().tolist())] = (down, right)
    found = {possible[tuple(image.flatten().tolist())] for image in holed}
    assert len(found) == 30


def test_partners_are_others_of_the_global_batch() -> None:
    augment = ImageAugmentation(mixup=1.0)
    batch = SAMPLES[:50]
    partners = augment.partners(batch, KEY)
    assert partners.sort().values.equal(batch)
    assert not (partners == batch).any()
    assert not augment.partners(batch, KEY.fold(1)).equal(partners)
    assert augment.partners(batch[:1], KEY).equal(batch[:1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    shares = ImageAugmentation(mixup=alpha).shares(torch.arange(2000), KEY)
    assert stats.kstest(shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_nothing_is_changed_by_default() -> None:
    before, augment = pictures(3), ImageAugmentation()
    assert augment.moved(before, SAMPLES[:3], KEY) is before
    seen = before.permute(0, 3, 1, 2).double()
    assert augment.holed(seen, SAMPLES[:3], KEY) is seen


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"--augment.crop is -1; expected a number of pixels"):
        ImageAugmentation(crop=-1)
    with pytest.raises(InputError, match=r"--augment.mixup is nan; expected a number of at least 0"):
        ImageAugmentation(mixup=float("nan"))

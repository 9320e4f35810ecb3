from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medcap_core.data.batches import Augmenter
from tests.support.tiny_blip import TinySplit, tiny_config


def build(num_images: int = 9, epoch: int = 1, **changes: object) -> Augmenter:
    return Augmenter(tiny_config(Path("unused"), **changes), num_images, epoch)


def find_spot(image: Tensor) -> tuple[float, float]:
    """Centre of the bright pixels of (3, S, S), in pixels right of and below the image's centre."""
    weights = image[0].double()
    steps = torch.arange(len(weights)) - (len(weights) - 1) / 2
    return float((weights.sum(0) * steps).sum() / weights.sum()), float((weights.sum(1) * steps).sum() / weights.sum())


def test_no_rotation_and_no_change_of_brightness_is_the_image_itself() -> None:
    split, positions = TinySplit(4, seed=0), np.arange(4)
    augmented = build(max_rotation_degrees=0, max_brightness_change=0).apply(
        torch.from_numpy(split.pixels(positions)), positions
    )
    assert augmented.dtype == torch.float32
    torch.testing.assert_close(augmented, torch.from_numpy(split.images).float(), atol=2e-3, rtol=0)


def test_draws_stay_within_their_bounds_and_fill_them() -> None:
    augmenter = build(num_images=2000, max_rotation_degrees=4, max_brightness_change=0.2)
    degrees = np.degrees(augmenter.angles)
    assert 3.9 < degrees.max() <= 4
    assert -4 <= degrees.min() < -3.9
    assert 1.19 < augmenter.brightness.max() <= 1.2
    assert 0.8 <= augmenter.brightness.min() < 0.81


def test_draws_depend_on_seed_and_epoch() -> None:
    draws = [build(epoch=epoch, seed=seed).angles.tolist() for seed, epoch in [(0, 1), (0, 2), (1, 1)]]
    assert len({tuple(draw) for draw in draws}) == 3
    assert build(epoch=2, seed=0).angles.tolist() == draws[1]


def test_an_image_is_changed_alike_however_the_batch_is_dealt() -> None:
    split, augmenter = TinySplit(9, seed=0), build()
    whole = augmenter.apply(torch.from_numpy(split.images), np.arange(9))
    positions = np.array([7, 2, 5])
    part = augmenter.apply(torch.from_numpy(split.pixels(positions)), positions)
    assert torch.equal(part, whole[positions])
    assert not torch.equal(whole[0], torch.from_numpy(split.images[0]).float())


def test_brightness_scales_pixels_and_stops_at_white() -> None:
    augmenter = build(max_rotation_degrees=0, max_brightness_change=0.3)
    augmenter.brightness[:2] = (1.25, 0.75)
    pixels = torch.tensor([100, 240], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    augmented = augmenter.apply(pixels, np.array([0, 1]))
    assert augmented[0].unique().tolist() == pytest.approx([125])
    assert augmented[1].unique().tolist() == pytest.approx([180])
    assert augmenter.apply(pixels, np.array([1, 0]))[1].unique().tolist() == [255]


@pytest.mark.parametrize("degrees", [-15, 6, 15])
def test_images_are_turned_about_their_centre_and_never_mirrored(degrees: float) -> None:
    augmenter = build()
    augmenter.angles[3], augmenter.brightness[3] = np.radians(degrees), 1.0
    pixels = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    pixels[:, :, 30:34, 4:8] = 200
    x, y = find_spot(pixels[0])
    new_x, new_y = find_spot(augmenter.apply(pixels, np.array([3]))[0])
    assert new_x < -10  # what was on the left stays there
    assert np.hypot(new_x, new_y) == pytest.approx(np.hypot(x, y), abs=0.1)
    turned = np.degrees(np.arctan2(new_y, new_x) - np.arctan2(y, x))
    assert abs(turned) == pytest.approx(abs(degrees), abs=0.5)


def test_corners_are_filled_with_black() -> None:
    augmenter = build()
    augmenter.angles[0], augmenter.brightness[0] = np.radians(15), 1.0
    augmented = augmenter.apply(torch.full((1, 3, 48, 48), 255, dtype=torch.uint8), np.array([0]))
    assert [float(augmented[0, 0, row, column]) for row in (0, -1) for column in (0, -1)] == [0, 0, 0, 0]
    assert float(augmented[0, 0, 24, 24]) == pytest.approx(255)

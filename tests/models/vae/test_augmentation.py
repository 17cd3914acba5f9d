"""Augmentation: mirrored halves and vertical windows, decided by the generator alone."""

import pytest
import torch
from torch.nn.functional import interpolate

from image_longitudinal.models.vae.augmentation import augment, centre_view


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_half_of_the_images_are_mirrored() -> None:
    """400 tosses of a fair coin: 200 ± 10, within four standard errors. Columns survive a vertical crop untouched."""
    ramp = torch.linspace(0, 1, 16).expand(400, 1, 16, 16)
    mirrored = augment(ramp, generator())[:, 0, 8, 0] > 0.5
    assert 160 <= int(mirrored.sum()) <= 240


def test_every_image_shows_a_window_of_190_of_224_rows_at_a_random_height() -> None:
    rows = torch.linspace(0, 1, 224)[:, None].expand(200, 1, 224, 224).clone()
    windows = augment(rows, generator())
    first, last = windows[:, 0, 0, 0] * 223, windows[:, 0, -1, 0] * 223
    # Ends are weighted means of neighbouring rows: half a row inside.
    torch.testing.assert_close(last - first, torch.full((200,), 189.0), atol=1.0, rtol=0)
    tops = first.round().int()
    assert tops.min() <= 2
    assert tops.max() >= 32
    assert len(tops.unique()) > 25  # of 35


def test_the_centre_view_is_the_middle_window_and_not_mirrored() -> None:
    images = torch.rand(2, 1, 224, 224)
    expected = interpolate(images[:, :, 17:207], (224, 224), mode="bilinear", antialias=True)
    torch.testing.assert_close(centre_view(images), expected)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_size_and_range_stay(size: int) -> None:
    images = (torch.rand(3, 1, size, size) > 0.5).float()
    for view in (augment(images, generator()), centre_view(images)):
        assert view.shape == images.shape
        assert 0 <= view.min() <= view.max() <= 1
    flat = torch.full((2, 1, size, size), 0.3)
    torch.testing.assert_close(augment(flat, generator()), flat)


def test_the_generator_decides_and_the_argument_is_left_alone() -> None:
    images = torch.rand(6, 1, 32, 32)
    before = images.clone()
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))
    assert torch.equal(images, before)

"""The gain of the detail: fitted in closed form, applied image by image."""

import numpy as np
import pytest
import torch
from torch import Tensor

from image_longitudinal.models.flattened.detail_gain import GREATEST, LEVELS, fit_detail_gain, split


def _images(n: int, dark: float, bright: float, seed: int) -> Tensor:
    """Ramps of grey with noise whose standard deviation goes from ``dark`` to ``bright``, (n, 1, 48, 48)."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 1, 48, 48))).float()
    grey = torch.linspace(0.2, 0.8, 48)[:, None]
    return grey + noise * torch.linspace(dark, bright, 48)[:, None]


def _roughness(images: Tensor) -> tuple[float, float]:
    """Standard deviation of the finest detail in the darkest and the brightest quarter of rows."""
    fine = split(images)[0][0]
    return float(fine[:, :, 4:12].std()), float(fine[:, :, -12:-4].std())


def test_the_parts_add_up_to_the_image() -> None:
    images = _images(3, 0.05, 0.05, 0)
    bands, local = split(images)
    torch.testing.assert_close(sum(bands, local), images, atol=1e-6, rtol=0)


def test_detail_gets_the_strength_of_that_of_scans_at_every_grey_level() -> None:
    scans, generated = _images(40, 0.01, 0.04, 0), _images(40, 0.03, 0.02, 1)
    dark, bright = _roughness(scans)
    before = _roughness(generated)
    assert before[0] > 1.7 * dark
    assert before[1] < 0.75 * bright
    gained = fit_detail_gain(generated, scans).apply(_images(40, 0.03, 0.02, 2))  # others than it was fitted to
    after = _roughness(gained)
    # The gain is constant within a range of grey and linear between them: here the wanted one varies within each.
    assert after[0] == pytest.approx(dark, rel=0.1)
    assert after[1] == pytest.approx(bright, rel=0.1)
    coarse = torch.nn.functional.avg_pool2d(gained, 16)
    torch.testing.assert_close(
        coarse, torch.nn.functional.avg_pool2d(_images(40, 0.03, 0.02, 2), 16), atol=5e-3, rtol=0
    )


def test_images_like_scans_stay_as_they_are() -> None:
    scans = _images(20, 0.03, 0.03, 0)
    fitted = fit_detail_gain(scans, scans)
    torch.testing.assert_close(fitted.gain, torch.ones(2, LEVELS))
    torch.testing.assert_close(fitted.apply(scans), scans.clamp(0, 1), atol=1e-5, rtol=0)


def test_the_batch_changes_nothing() -> None:
    fitted = fit_detail_gain(_images(10, 0.03, 0.02, 0), _images(10, 0.01, 0.04, 1))
    images = _images(5, 0.03, 0.02, 2)
    assert torch.equal(fitted.apply(images), torch.cat([fitted.apply(one) for one in images.split(1)]))


def test_the_order_of_images_changes_nothing() -> None:
    generated, scans = _images(10, 0.03, 0.02, 0), _images(10, 0.01, 0.04, 1)
    one, other = fit_detail_gain(generated, scans), fit_detail_gain(generated.flip(0), scans.flip(0))
    torch.testing.assert_close(one.gain, other.gain)


def test_gains_are_bounded_where_there_is_nothing_to_learn_from() -> None:
    """Scans of few grey levels, generated images without detail, ranges that no generated image has."""
    flat = torch.full((4, 1, 48, 48), 0.5)
    for generated, scans in ((flat, _images(4, 0.02, 0.02, 0)), (_images(4, 0.02, 0.02, 0), flat), (flat, flat)):
        fitted = fit_detail_gain(generated, scans)
        assert bool(torch.isfinite(fitted.grey).all())
        assert bool(((fitted.gain >= 1 / GREATEST) & (fitted.gain <= GREATEST)).all())
        assert bool((fitted.grey.diff() >= 0).all())
        assert bool(torch.isfinite(fitted.apply(_images(2, 0.02, 0.02, 1))).all())
    dark = fit_detail_gain(_images(4, 0.02, 0.02, 0) * 0.3, _images(4, 0.02, 0.02, 1))
    assert float(dark.gain[0, -1]) == 1  # no generated pixel is so bright

"""Boundaries traced in phantoms, whose true geometry is known, and in phantoms that were torn or interrupted."""

import numpy as np
import pytest

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.imaging.phantom import layer_depths, render
from image_longitudinal.models.quality.judge.anatomy import flatten, smooth, trace, unit_of
from tests.models.quality.judge.corruptions import torn

N = 40


def latents_and_seeds() -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(N)
    return normals(stream_key(5, "anatomy"), ids, 12).astype(np.float32), ids


@pytest.mark.parametrize("size", [64, 128])
def test_boundaries_of_phantoms_are_found(size: int) -> None:
    latents, seeds = latents_and_seeds()
    lines = trace(render(latents, seeds, size))
    truth = layer_depths(latents, seeds, size)
    unit = size / 64
    for found, true, most in ((lines.outer, truth[-1], 0.6), (lines.inner, truth[0], 0.4)):
        off = np.median(np.abs(found - true), axis=1) / unit
        assert np.median(off) < most
        assert np.mean(off < 2) > 0.95, "hardly an image is traced along another layer"


def test_tears_show_in_the_boundary_and_not_in_its_course() -> None:
    images = render(*latents_and_seeds(), 64)
    whole, parts = trace(images), trace(torn(images, np.random.default_rng(0)))
    jitter = [np.abs(lines.outer - smooth(lines.outer, unit_of(images))).mean() for lines in (whole, parts)]
    assert jitter[1] > 2 * jitter[0]
    moved = np.abs(smooth(whole.outer, 1.0) - smooth(parts.outer, 1.0)).mean()
    assert moved < 1.0  # the mean of tears of -2 to 2 pixels over a few parts is within a pixel


def test_a_flattened_retina_does_not_move_with_the_eye() -> None:
    latents = np.zeros((2, 12), np.float32)
    latents[1, :3] = 1.5, 1.0, -1.0  # position, tilt and curvature alone
    images = render(latents, np.zeros(2, np.int64), 128)
    flat = flatten(images, trace(images).outer, 32)
    before = np.abs(images[0].astype(float) - images[1]).mean()
    assert flat.shape == (2, 32, 32)
    assert np.abs(flat[0] - flat[1])[8:28].mean() < before / 3

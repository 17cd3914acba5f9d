"""Tracing, flattening and bending, against phantoms whose layers are known exactly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from image_longitudinal.models.imaging import geometry, phantom


@pytest.fixture(scope="module")
def phantoms() -> tuple[Tensor, Tensor]:
    """64 phantoms (64, 1, 128, 128), values 0 to 1, and the depth of their outer boundary (64, 128), in heights."""
    latents = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    seeds = np.arange(64)
    images = torch.from_numpy(phantom.render(latents, seeds, 128))[:, None].float() / 255
    return images, torch.from_numpy(np.asarray(phantom.layer_depths(latents, seeds, 128)[-1])) / 128


def _bands(rows: Tensor, size: int = 64) -> Tensor:
    """Images (B, 1, size, size) with bright bands that end at rows (K, B, size), in heights, over a dim choroid."""
    y = (torch.arange(size) + 0.5)[None, :, None] / size
    image = torch.zeros(rows.shape[1], size, size)
    for lower in rows:
        image = torch.maximum(image, ((y < lower[:, None]) & (y > lower[:, None] - 0.04)).float())
    return image[:, None]


def test_fitted_curves_of_phantoms_are_their_outer_boundary(phantoms: tuple[Tensor, Tensor]) -> None:
    images, depth = phantoms
    rows = geometry.curve_rows(geometry.fit_curve(geometry.trace_outer_boundary(images)), 128)
    # The fit keeps to a cubic and the boundary is read on a grid of 128 rows; 0.015 is the thickness of the RPE.
    assert float((rows - depth).abs().median()) < 0.015
    assert float(((rows - depth).abs().mean(1) < 0.03).float().mean()) > 0.95


def test_the_inner_limit_is_not_taken_for_the_outer_boundary() -> None:
    """A retina (dim) between two equally bright bands: only below the lower one is it dark for long."""
    lower = torch.full((1, 1, 64), 0.7)
    image = _bands(torch.cat([lower - 0.25, lower]))
    y = (torch.arange(64) + 0.5) / 64
    image = torch.maximum(image, 0.4 * ((y > 0.45) & (y < 0.7)).float()[None, None, :, None])
    assert (geometry.trace_outer_boundary(image) - 0.7).abs().max() < 0.02


def test_a_bump_does_not_bend_the_curve() -> None:
    rows = torch.full((1, 64), 0.6)
    bumped = rows.clone()
    bumped[:, 28:36] -= 0.12  # a druse, eight columns wide
    found = geometry.curve_rows(geometry.fit_curve(bumped), 64)
    plain = torch.from_numpy(geometry.legendre(64))
    least_squares = plain @ torch.linalg.lstsq(plain, bumped[0].double()).solution
    assert (found - rows).abs().max() < 0.004 < 0.01 < (least_squares - rows[0]).abs().max()


def test_fitting_a_cubic_gives_its_coefficients() -> None:
    curves = torch.tensor([[0.5, 0.1, -0.05, 0.02], [0.7, 0.0, 0.1, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(geometry.fit_curve(geometry.curve_rows(curves, 64)), curves)


def test_flattening_levels_the_boundary() -> None:
    curves = torch.tensor([[0.6, 0.08, 0.05, -0.02]], dtype=torch.float64)
    flat = geometry.flatten(_bands(geometry.curve_rows(curves, 256)[None], 256), curves, 256, 256)
    ends = (flat[0, 0] > 0.5).float().cumsum(0).argmax(0) + 1  # the row after the last bright one
    assert (ends / 256 - geometry.FLAT_ROW).abs().max() <= 1 / 256


def test_bending_undoes_flattening() -> None:
    """Of a smooth image, where the way there and back stays inside; the rest is mirrored."""
    y, x = torch.meshgrid(torch.linspace(0, 9, 256), torch.linspace(0, 7, 64), indexing="ij")
    image = (torch.sin(y) * torch.cos(x))[None, None]
    curves = torch.tensor([[0.6, 0.04, 0.03, -0.01]], dtype=torch.float64)
    back = geometry.bend(geometry.flatten(image, curves, 128, 64), curves, 64)
    expected = image.unflatten(2, (64, 4)).mean(3)
    # Whole rows of 256 move: an error of at most half a row, times the steepest slope, 9/256 a row.
    assert (back - expected)[:, :, 8:-8].abs().max() < 0.5 * 9 / 256 + 0.01


def test_reading_undoes_bending_more_exactly() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 6, 128), torch.linspace(0, 7, 64), indexing="ij")
    flat = (torch.sin(y) * torch.cos(x))[None, None]
    curves = torch.tensor([[0.62, 0.05, 0.03, -0.01]], dtype=torch.float64)
    again = geometry.flatten_smoothly(geometry.bend(flat, curves, 64), curves, 128)
    shown = geometry.visible(curves, 128, 64)[:, None].bool()
    shown[:, :, :12] = shown[:, :, -12:] = False  # the mirrored edge enters the interpolation
    assert (again - flat)[shown].abs().max() < 0.01


def test_what_is_mirrored_is_not_visible() -> None:
    curves = torch.tensor([[geometry.FLAT_ROW + 0.25, 0, 0, 0]], dtype=torch.float64)
    shown = geometry.visible(curves, 64, 8)[0]
    assert shown[:48].all()
    assert not shown[49:].any()


def test_results_do_not_depend_on_the_batch(phantoms: tuple[Tensor, Tensor]) -> None:
    images, _ = phantoms
    together = geometry.fit_curve(geometry.trace_outer_boundary(images[:8]))
    alone = torch.cat([geometry.fit_curve(geometry.trace_outer_boundary(image[None])) for image in images[:8]])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("row", [0.1, -0.4, -3.0])
def test_beyond_an_edge_a_bent_image_shows_what_lies_at_that_edge_and_no_second_retina(row: float) -> None:
    """The retina high up: what enters below is choroid, however far."""
    flat = torch.zeros(1, 1, 128, 64)
    flat[:, :, 60:80] = 1.0  # a bright retina around the boundary
    flat[:, :, 80:] = 0.3  # choroid
    image = geometry.bend(flat, torch.tensor([[row, 0, 0, 0]], dtype=torch.float64), 64)
    assert image[:, :, 20:].max() < 0.31
    assert image[:, :, 20:].min() > 0.29

"""Recoverability: R² of z read back, 1 for a perfect reading, read by encoder or PCA regression."""

import numpy as np
import torch

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.evaluation.pca_regressor import PCARegressor, fit_pca_regressor
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import PhantomImages, vae_images
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.quality.recoverability import (
    encoder_reader,
    measure_recoverability,
    most_recoverable,
    probe_latents,
    r_squared,
    recoverable_axes,
)
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.vae.network import VAE


def test_r_squared_is_1_for_the_truth_0_for_its_mean_and_negative_beyond() -> None:
    """The posterior mean of z given z + N(0, 1) explains half of it; 40,000 subjects give ±0.01."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40_000, 4))
    shrunk = (truth[:, 3] + rng.normal(size=40_000)) / 2
    estimate = np.stack([truth[:, 0], np.full(40_000, truth[:, 1].mean()), -truth[:, 2], shrunk], axis=1)
    np.testing.assert_allclose(r_squared(truth, estimate), [1, 0, -3, 0.5], atol=0.015)  # -3 up to the mean's offset


def test_probes_are_their_own_stream_and_begin_alike() -> None:
    latents, seeds = probe_latents(1, 50, 4)
    more, more_seeds = probe_latents(1, 80, 4)
    np.testing.assert_array_equal(more[:50], latents)
    np.testing.assert_array_equal(more_seeds[:50], seeds)
    assert (latents != draw_latents(1, np.arange(50), 4)).all(), "probes must not be the data set's subjects"
    assert latents.dtype == np.float32
    assert seeds.dtype == np.int64


def fitted(images: np.ndarray, latents: np.ndarray) -> PCARegressor:
    chunks = [(np.arange(len(images)), images, latents)]
    return fit_pca_regressor(lambda: iter(chunks), components=48, products=12, penalty=1.0)


def test_a_regression_reads_phantoms_it_was_not_fitted_on() -> None:
    """400 phantoms: vertical position, tilt and luminance read back above 0.8; dimension 12 changes nothing."""
    latents, seeds = probe_latents(stream_key(1, "test") >> 1, 600, 13)
    images = render(latents, seeds, 32)
    read = fitted(images[200:], latents[200:])
    figures = r_squared(latents[:200], read(images[:200]))
    assert figures[[0, 1, 3]].min() > 0.8
    assert figures[12] < 0.2
    # The reader works image by image; the products' sums may be ordered by batch: 1e-9 is far above rounding.
    np.testing.assert_allclose(read(images[:7]), read(images[:200])[:7], atol=1e-9)
    large = render(latents[:240, :2], seeds[:240], 72)  # larger than it needs
    assert r_squared(latents[:40, :2], fitted(large[40:], latents[40:240, :2])(large[:40])).min() > 0.7


def test_the_encoder_reader_gives_the_standardised_posterior_mean_of_images_of_any_size() -> None:
    torch.manual_seed(0)
    vae = VAE(32, 3, 1 / 128).eval()
    vae.shift.copy_(torch.tensor([1.0, 2.0, 3.0]))
    vae.transform.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.5]]))
    images, read = render(*probe_latents(3, 5, 4), 32), encoder_reader(vae)
    with torch.no_grad():
        raw = vae.encoder(torch.from_numpy(images)[:, None].float() / 255)[0].numpy()
    # float32 arithmetic in another order
    np.testing.assert_allclose(read(images), (raw - [1, 2, 3]) / [2, 4, 0.5], atol=1e-5)
    flat, large = (np.full((2, size, size), 120, np.uint8) for size in (32, 64))
    np.testing.assert_allclose(read(large), read(flat), atol=1e-5)


def test_the_best_dimensions_come_first_and_ties_go_to_the_lower_index() -> None:
    assert most_recoverable([0.1, 0.9, float("nan"), 0.9, -2.0, 0.5], 4) == [1, 3, 5, 0]
    assert most_recoverable([0.1, float("nan")], 2) == [0, 1]


def test_the_recoverable_axes_are_the_directions_that_survive_best_first() -> None:
    """Two of four directions, mixed over the dimensions, are read with R² 0.9 and 0.5; the others not at all."""
    rng = np.random.default_rng(1)
    mixing, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    z = rng.normal(size=(40_000, 4)).astype(np.float32)
    noisy = z @ mixing + rng.normal(size=z.shape) * np.array([np.sqrt(1 / 9), 1, 1e3, 1e3])
    axes = recoverable_axes(z, noisy @ rng.normal(size=(4, 4)))  # whatever linear mixture the reader returns
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-12)
    # A direction errs by the sampling error of a covariance, about 1/√40,000, over the gap of 0.4 between the two.
    np.testing.assert_allclose(np.abs((axes.T @ mixing)[:2, :2]), np.eye(2), atol=0.06)
    assert (axes[np.abs(axes).argmax(0), np.arange(4)] > 0).all()


def test_recoverability_is_read_by_the_encoder_if_there_is_one_else_by_regression(tiny_version: ModelVersion) -> None:
    vae = load_vae(tiny_version)
    figures, reader = measure_recoverability(vae_images(vae, ""), vae, n=64, batch_size=32, seed=1)
    assert (len(figures), reader) == (5, "encoder")
    assert measure_recoverability(vae_images(vae, ""), vae, n=64, batch_size=32, seed=1)[0] == figures
    figures, reader = measure_recoverability(PhantomImages(5, 32, ""), None, n=150, batch_size=64, seed=1)
    assert reader == "regression"
    assert min(figures[0], figures[1], figures[3]) > 0.8  # vertical position, tilt, luminance

"""The PCA regressor reads what images hold, and no more of the subjects it was fitted to than of others."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.pca_regressor import Chunk, PCARegressor, fit_pca_regressor, readable
from image_longitudinal.models.quality.recoverability import r_squared

TRAIN, IDS = slice(0, 160), np.arange(1_160)


def fitted(images: NDArray[np.uint8], latents: NDArray[np.float32], rows: int = 50) -> PCARegressor:
    """Fitted to the training subjects in chunks."""

    def chunks() -> Iterator[Chunk]:
        for start in range(0, TRAIN.stop, rows):
            part = slice(start, min(start + rows, TRAIN.stop))
            yield IDS[part], images[part], latents[part]

    return fit_pca_regressor(chunks)


def stripes(latents: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noisy images (n, 32, 32) with a band for each latent entry: one as bright as it, one by its square."""
    images = np.full((len(latents), 32, 32), 120.0) + 6 * rng.normal(size=(len(latents), 32, 32))
    images[:, 4:8] += 20 * latents[:, 0, None, None]
    images[:, 20:22] += 15 * (latents[:, 1, None, None] + 0.1 * latents[:, 1, None, None] ** 2)
    return np.clip(images, 0, 255).astype(np.uint8)


def test_it_reads_what_images_hold_in_chunks_of_any_size() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(len(IDS), 2)).astype(np.float32)
    images = stripes(z, rng)
    read = fitted(images, z)
    assert r_squared(z[160:], read(images[160:])).min() > 0.9
    assert r_squared(z[TRAIN], read.out_of_fold(images[TRAIN], IDS[TRAIN])).min() > 0.85
    # sums in another order: rounding, times the condition of the polynomial's terms
    np.testing.assert_allclose(fitted(images, z, 7)(images[160:]), fitted(images, z, 160)(images[160:]), atol=1e-6)


def test_noise_of_training_subjects_is_not_learned() -> None:
    """Noise of 160 subjects is fitted well; out of fold, R² is 0 up to 3 standard errors of it."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(len(IDS), 2)).astype(np.float32)
    images = stripes(np.zeros_like(z), rng)
    images[TRAIN, 10:14] = (120 + 20 * rng.normal(size=(160, 4, 32))).astype(np.uint8)
    read = fitted(images, z)
    assert r_squared(z[TRAIN], read.out_of_fold(images[TRAIN], IDS[TRAIN])).max() < 0.05


def test_dimensions_that_images_tell_come_best_first_and_the_others_not_at_all() -> None:
    rng = np.random.default_rng(3)
    latents, noise = rng.standard_normal((2, 5_000, 4))
    shares = np.array([0.5, 0.02, 0.9, 0.3])  # R² of an estimate share·z + √(share (1 - share))·ε is the share
    read = shares * latents + np.sqrt(shares * (1 - shares)) * noise
    assert readable(read, latents).tolist() == [2, 0, 3]
    assert readable(read, latents, least=0.99).tolist() == [2]

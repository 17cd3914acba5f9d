"""What a faster way of drawing costs: two figures of the same latents and noise seeds, drawn in two ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.imaging.backends import ImageModel, generate_in_batches
from image_longitudinal.models.quality.fidelity import encoder_features, frechet_distance
from image_longitudinal.models.quality.recoverability import encoder_reader, probe_latents, r_squared
from image_longitudinal.models.vae.network import VAE


class DrawFigures(NamedTuple):
    """Mean R² of some entries read back by the VAE's encoder, and Fréchet distance to real images in its features."""

    recoverability: float
    fd: float


def measure_draws(
    model: ImageModel,
    vae: VAE,
    entries: Sequence[int],
    real: NDArray[np.uint8],
    *,
    n: int,
    batch_size: int,
    seed: int,
) -> DrawFigures:
    """Figures of ``n`` images drawn by ``model``; two ways of drawing compare when all else is the same.

    Args:
        model: the way of drawing.
        vae: reads z and gives the features.
        entries: of z, whose R² is averaged.
        real: training images, uint8 (m, S, S).
        n: images drawn.
        batch_size: images at a time.
        seed: of latents and noise.
    """
    latents, seeds = probe_latents(seed, n, model.latent_dim)
    images = generate_in_batches(model, latents, seeds, batch_size)
    figures = r_squared(latents, encoder_reader(vae)(images))[list(entries)]
    features = encoder_features(vae)
    return DrawFigures(float(figures.mean()), frechet_distance(features(images), features(real)))


def loss_percent(reference: float | None, value: float | None, *, more_is_better: bool) -> float | None:
    """By how many per cent a figure is worse than the reference's; negative where it is better."""
    if reference is None or value is None:
        return None
    return 100 * ((reference - value) if more_is_better else (value - reference)) / abs(reference)

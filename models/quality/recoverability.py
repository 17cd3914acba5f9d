"""Recoverability: R² of each latent dimension read back from generated images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.quality.features import encoded
from image_longitudinal.models.vae.network import VAE

Reader = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def r_squared(truth: NDArray[np.floating], estimate: NDArray[np.floating]) -> NDArray[np.float64]:
    """Coefficient of determination per column, 1 - Σ(t - e)²/Σ(t - mean t)²: (n, D), (n, D) → (D,)."""
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    total = np.square(truth - truth.mean(0)).sum(0)
    return np.asarray(1 - np.square(truth - estimate).sum(0) / total)


def probe_latents(
    seed: int, n: int, latent_dim: int, purpose: str = "measure"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Latents from the prior and seeds of ``n`` probe images, as in a data set but from separate random streams."""
    ids = np.arange(n)
    latents = normals(stream_key(seed, "probe-latent", purpose), ids, latent_dim).astype(np.float32)
    return latents, subject_seeds(stream_key(seed, "probe-seed", purpose) >> 1, ids)


def encoder_reader(vae: VAE) -> Reader:
    """Reads z as the encoder's standardised posterior mean: images (n, S, S) uint8, any S → (n, D)."""

    return lambda images: encoded(vae, images, vae.encode)


def regression_reader(images: NDArray[np.uint8], latents: NDArray[np.float32], components: int = 48) -> Reader:
    """A reader fitted on pairs, for backends without an encoder: ridge regression on principal components.

    Uses the components, their squares and products of the first twelve.

    Args:
        images: (n, S, S) uint8, n well above ``components``.
        latents: what to read, (n, D).
        components: principal components kept (fewer if n is small).
    """
    flat = _small(images)
    centre = flat.mean(0)
    _, scale, axes = np.linalg.svd(flat - centre, full_matrices=False)
    keep = min(components, len(images) // 8)
    axes = axes[:keep] / (scale[:keep, None] / np.sqrt(len(images)))

    def features(new: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores = (_small(new) - centre) @ axes.T
        first = scores[:, :12]
        products = (first[:, :, None] * first[:, None, :])[:, *np.triu_indices(first.shape[1])]
        return np.concatenate([np.ones((len(new), 1)), scores, products], axis=1)

    design = features(images)
    penalty = np.eye(design.shape[1])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ latents.astype(np.float64))
    return lambda new: features(new) @ weights


def measure_recoverability(
    model: ImageModel, vae: VAE | None, *, n: int, batch_size: int, seed: int
) -> tuple[list[float], str]:
    """R² of each latent dimension read back from ``n`` images of ``model``.

    Args:
        model: generates the images, of z ~ N(0, I).
        vae: its encoder reads z back; without one, a regression fitted on 3 ``n`` other images does.
        n: images measured on.
        batch_size: images generated at a time.
        seed: of latents and images.

    Returns:
        One R² per dimension, and what read it: ``encoder`` or ``regression``.
    """
    latents, seeds = probe_latents(seed, n if vae else 4 * n, model.latent_dim)
    images = generate_in_batches(model, latents, seeds, batch_size)
    reader = encoder_reader(vae) if vae else regression_reader(images[n:], latents[n:])
    figures = r_squared(latents[:n], reader(images[:n]))
    return [float(value) for value in figures], "encoder" if vae else "regression"


def find_recoverable_axes(model: ImageModel, vae: VAE, *, n: int, batch_size: int, seed: int) -> Tensor:
    """:func:`recoverable_axes` of ``n`` images of a finished model, float32 (D, D); no figure uses these images."""
    latents, seeds = probe_latents(seed, n, model.latent_dim, "axes")
    reading = encoder_reader(vae)(generate_in_batches(model, latents, seeds, batch_size))
    return torch.from_numpy(recoverable_axes(latents, reading)).float()


def recoverable_axes(latents: NDArray[np.float32], reading: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most recoverable directions of z, best first.

    They are the eigenvectors of the covariance of the best linear estimate of z from the reading. N(0, I) is the same
    along any orthogonal axes, so rotating z to these leaves the images' distribution as it is; it concentrates what
    images hold of z in few dimensions.

    Args:
        latents: of the images, (n, D), n well above D.
        reading: z read back from the images, (n, D).

    Returns:
        float64, (D, D), orthogonal; column j is the new dimension j.
    """
    z = np.asarray(latents, np.float64) - latents.mean(0)
    r = reading - reading.mean(0)
    cross = z.T @ r
    explained = cross @ np.linalg.pinv(r.T @ r, hermitian=True) @ cross.T / len(z)
    _, axes = np.linalg.eigh((explained + explained.T) / 2)
    axes = axes[:, ::-1]
    # An eigenvector's sign is arbitrary: make its largest component positive, so that libraries agree.
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))


def most_recoverable(recoverability: NDArray[np.float64] | list[float], count: int | None = None) -> list[int]:
    """The ``count`` latent dimensions (from 0; all by default) of highest R², best first; ties by lower index."""
    return [int(i) for i in np.argsort(-np.asarray(recoverability), kind="stable")[:count]]


def _small(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Flattened images, averaged down to at most 32 pixels a side."""
    block = max(1, images.shape[1] // 32)
    side = images.shape[1] // block
    cropped = images[:, : side * block, : side * block].astype(np.float64)
    return cropped.reshape(len(images), side, block, side, block).mean((2, 4)).reshape(len(images), -1)

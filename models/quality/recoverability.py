"""How well each latent dimension can be read back from the image: what "the image holds z" means, as a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.models.imaging.grey_images import to_unit
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
    """Latents from the prior and seeds of ``n`` probe images, drawn like a data set's but from other random streams."""
    ids = np.arange(n)
    latents = normals(stream_key(seed, "probe-latent", purpose), ids, latent_dim).astype(np.float32)
    return latents, subject_seeds(stream_key(seed, "probe-seed", purpose) >> 1, ids)


def encoder_reader(vae: VAE) -> Reader:
    """A function that reads z as the encoder's standardised posterior mean: images (n, S, S) uint8, any S → (n, D)."""

    def read(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        device, size = next(vae.parameters()).device, (vae.image_size, vae.image_size)
        parts = []
        for start in range(0, len(images), 256):
            pixels = to_unit(images[start : start + 256], device)
            if pixels.shape[-2:] != size:
                pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
            with torch.no_grad():
                parts.append(vae.encode(pixels).cpu())
        return torch.cat(parts).double().numpy()

    return read


def recoverable_axes(latents: NDArray[np.float32], reading: NDArray[np.float64]) -> NDArray[np.float64]:
    """The directions of z that survive best into finished images, best first.

    They are the eigenvectors of the covariance of the best linear estimate of z from what was read. z ~ N(0, I) is
    N(0, I) along any orthogonal axes, so rotating to these changes no image's distribution; it only gathers what the
    generator keeps into few latent dimensions.

    Args:
        latents: those the images were generated from, (n, D), n well above D.
        reading: their estimates from the images, (n, D).

    Returns:
        float64, (D, D), orthogonal; column j is the new latent dimension j.
    """
    z = np.asarray(latents, np.float64) - latents.mean(0)
    r = reading - reading.mean(0)
    cross = z.T @ r
    explained = cross @ np.linalg.pinv(r.T @ r, hermitian=True) @ cross.T / len(z)
    _, axes = np.linalg.eigh((explained + explained.T) / 2)
    axes = axes[:, ::-1]
    # An eigenvector's sign is arbitrary and differs between libraries: make its largest component positive.
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))


def choose_entries(recoverability: NDArray[np.float64] | list[float], count: int) -> list[int]:
    """The ``count`` latent dimensions (from 0) that read back best, best first; ties go to the lower index."""
    return [int(i) for i in np.argsort(-np.asarray(recoverability), kind="stable")[:count]]

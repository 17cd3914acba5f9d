"""How well each latent entry can be read back from the image: what "the image holds z" means, as a number."""

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
    spread = np.square(truth - truth.mean(0)).sum(0)
    return np.asarray(1 - np.square(truth - estimate).sum(0) / spread)


def probe_latents(
    seed: int, n: int, latent_dim: int, purpose: str = "measure"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Latents from the prior and seeds of ``n`` probe images: drawn as a data set's are, from streams apart."""
    ids = np.arange(n)
    latents = normals(stream_key(seed, "probe-latent", purpose), ids, latent_dim).astype(np.float32)
    return latents, subject_seeds(stream_key(seed, "probe-seed", purpose) >> 1, ids)


def encoder_reader(vae: VAE) -> Reader:
    """Reads z as the encoder's standardised posterior mean: images (n, S, S) uint8, any S → (n, D)."""

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


def recoverable_axes(latents: NDArray[np.float32], reading: NDArray[np.float64]) -> NDArray[np.float64]:
    """The directions of z that survive best into finished images, best first.

    They are the eigenvectors of the covariance of the best linear estimate of z from what was read. z ~ N(0, I) is
    N(0, I) along any orthogonal axes, so turning to these changes no image's distribution; it only gathers what the
    generator keeps into few entries.

    Args:
        latents: what the images were made of, (n, D), n well above D.
        reading: what was read from them, (n, D).

    Returns:
        float64, (D, D), orthogonal; column j is the new entry j.
    """
    z = np.asarray(latents, np.float64) - latents.mean(0)
    r = reading - reading.mean(0)
    cross = z.T @ r
    explained = cross @ np.linalg.pinv(r.T @ r, hermitian=True) @ cross.T / len(z)
    _, axes = np.linalg.eigh((explained + explained.T) / 2)
    axes = axes[:, ::-1]
    # An eigenvector's sign is arbitrary: let its largest component be positive, whatever library computed it.
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))


def choose_entries(recoverability: NDArray[np.float64] | list[float], count: int) -> list[int]:
    """The ``count`` entries (from 0) that read back best, best first; ties go to the lower index."""
    return [int(i) for i in np.argsort(-np.asarray(recoverability), kind="stable")[:count]]


def _small(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Flattened images, averaged down to at most 32 pixels a side."""
    block = max(1, images.shape[1] // 32)
    side = images.shape[1] // block
    cropped = images[:, : side * block, : side * block].astype(np.float64)
    return cropped.reshape(len(images), side, block, side, block).mean((2, 4)).reshape(len(images), -1)

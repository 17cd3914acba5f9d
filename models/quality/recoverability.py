"""Recoverability: R² of each latent dimension read back from generated images."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.models.evaluation.pca_regressor import fit_pca_regressor
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.quality.features import encoded
from image_longitudinal.models.quality.judge.resampling import REPLICATES, bootstrap_weights, interval
from image_longitudinal.models.registry.judgement import Interval
from image_longitudinal.models.vae.latent_model import LatentModel

Reader = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def r_squared(truth: NDArray[np.floating], estimate: NDArray[np.floating]) -> NDArray[np.float64]:
    """Coefficient of determination per column, 1 - Σ(t - e)²/Σ(t - mean t)²: (n, D), (n, D) → (D,)."""
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    total = np.square(truth - truth.mean(0)).sum(0)
    return np.asarray(1 - np.square(truth - estimate).sum(0) / total)


def r_squared_intervals(truth: NDArray[np.floating], estimate: NDArray[np.floating], seed: int) -> tuple[Interval, ...]:
    """:func:`r_squared` of each column (D), with 95 % intervals by bootstrap over the images: (n, D), (n, D)."""
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    weights = bootstrap_weights(np.arange(len(truth)).astype(str), REPLICATES, np.random.default_rng(seed)) / len(truth)
    total = weights @ np.square(truth) - np.square(weights @ truth)
    replicates = 1 - weights @ np.square(truth - estimate) / total
    values = r_squared(truth, estimate)
    return tuple(interval(float(v), r, high=1.0) for v, r in zip(values, replicates.T, strict=True))


def probe_latents(
    seed: int, n: int, latent_dim: int, purpose: str = "measure"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Latents from the prior and seeds of ``n`` probe images, as in a data set but from separate random streams."""
    ids = np.arange(n)
    latents = normals(stream_key(seed, "probe-latent", purpose), ids, latent_dim).astype(np.float32)
    return latents, subject_seeds(stream_key(seed, "probe-seed", purpose) >> 1, ids)


def encoder_reader(vae: LatentModel) -> Reader:
    """A function that reads z as the encoder's standardised posterior mean: images (n, S, S) uint8, any S → (n, D)."""

    return lambda images: encoded(vae, images, vae.encode)


def measure_recoverability(
    model: ImageModel, vae: LatentModel | None, *, n: int, batch_size: int, seed: int
) -> tuple[list[float], str]:
    """R² of each latent dimension read back from ``n`` images of z ~ N(0, I), and what read it.

    That is the ``encoder`` of the VAE, or without one a ``regression`` fitted on 3 ``n`` other images. ``batch_size``
    images are generated at a time; ``seed`` is that of latents and images.
    """
    latents, seeds = probe_latents(seed, n, model.latent_dim)
    reader = encoder_reader(vae) if vae else regression_reader(model, n=n, batch_size=batch_size, seed=seed)
    figures = r_squared(latents, reader(generate_in_batches(model, latents, seeds, batch_size)))
    return [float(value) for value in figures], "encoder" if vae else "regression"


def regression_reader(model: ImageModel, *, n: int, batch_size: int, seed: int) -> Reader:
    """A function that reads z by regression on principal components: images (m, S, S) uint8 → (m, D).

    It is fitted on 3 ``n`` generated images, apart from the ``n`` of :func:`measure_recoverability`.
    """
    latents, seeds = probe_latents(seed, 4 * n, model.latent_dim)
    latents, seeds = latents[n:], seeds[n:]
    others = (np.arange(3 * n), generate_in_batches(model, latents, seeds, batch_size), latents)
    return fit_pca_regressor(lambda: iter([others]), components=48, products=12, penalty=1.0)


def find_recoverable_axes(model: ImageModel, vae: LatentModel, *, n: int, batch_size: int, seed: int) -> Tensor:
    """:func:`recoverable_axes` of ``n`` images of a finished model, float32 (D, D); no figure uses these images."""
    latents, seeds = probe_latents(seed, n, model.latent_dim, "axes")
    reading = encoder_reader(vae)(generate_in_batches(model, latents, seeds, batch_size))
    return torch.from_numpy(recoverable_axes(latents, reading)).float()


def recoverable_axes(latents: NDArray[np.float32], reading: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most recoverable directions of z, best first.

    They are the eigenvectors of the covariance of the best linear estimate of z from the reading. N(0, I) is the same
    along any orthogonal axes, so rotating z to these leaves the images' distribution as it is; it concentrates what
    images hold of z in few dimensions.

    ``latents`` and z read back from their images are (n, D), n well above D. The result is float64 (D, D), orthogonal;
    column j is the new dimension j.
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

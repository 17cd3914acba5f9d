"""All that is measured of a finished image model: what its images hold of z, how real they look, what they remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.models.imaging.backends import ImageModel, generate_in_batches
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.quality import fidelity as quality
from image_longitudinal.models.quality.latent_regressor import train_reader
from image_longitudinal.models.quality.recoverability import Reader, encoder_reader, probe_latents, r_squared
from image_longitudinal.models.vae.network import VAE

MAX_REAL = 2048  # training images whose features are compared; more change no figure that can be seen


@dataclass(frozen=True)
class Measurement:
    """Figures of one model.

    ``recoverability`` R² per latent entry; ``noise_spread`` its standard deviation over the seeds of the images' noise,
    latents held; ``quality`` by feature space, and ``memory``, as :mod:`models.quality.fidelity` gives them; ``metrics`` those
    that versions are compared by.
    """

    recoverability: list[float]
    read_by: str
    noise_spread: list[float]
    quality: dict[str, Any]
    memory: dict[str, Any]
    metrics: dict[str, float]


def measure_model(
    model: ImageModel, vae: VAE, train: ImageRows, held_out: ImageRows, probe: ProbeConfig, seed: int, device: str
) -> Measurement:
    """Draw images as a data set's are drawn, z ~ N(0, I), and measure them.

    Args:
        model: the finished model.
        vae: its VAE; gives the feature space, and the reader where ``probe.reader`` says so.
        train: the images it was trained on, uint8 (n, S, S).
        held_out: images of other patients; with fewer than eight only the recoverability is measured.
        probe: how many, by which solver, what reads.
        seed: of every draw.
        device: where a reader is trained.
    """
    latents, images = _draw(model, probe, seed, "measure", probe.n_images)
    reader = encoder_reader(vae)
    if probe.reader == "network":
        others, pictures = _draw(model, probe, seed, "reader", probe.reader_images)
        reader = train_reader(pictures, others, steps=probe.reader_steps, seed=seed, device=default_device(device))
    recoverability = r_squared(latents, reader(images))
    spread = _noise_spread(model, reader, probe, seed)
    spaces: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    if min(len(held_out), len(train)) >= 8:
        new = quality.training_views(held_out[slice(None)], seed)
        known = quality.training_views(train[_evenly(len(train))], seed + 1)
        features = {"encoder": quality.encoder_features(vae)}
        if probe.dinov2:
            features["dinov2"] = quality.dinov2_features(probe.dinov2)
        compared = {name: quality.set_figures(of(known), of(new), of(images), seed) for name, of in features.items()}
        remembered = quality.memory_figures(images, new, train)
        spaces = {name: quality.as_record(figures) for name, figures in compared.items()}
        memory = quality.as_record(remembered)
        metrics = quality.as_metrics(compared["encoder"], remembered)
    return Measurement(
        recoverability=[float(value) for value in recoverability],
        read_by=probe.reader,
        noise_spread=spread,
        quality=spaces,
        memory=memory,
        metrics=metrics,
    )


def _draw(
    model: ImageModel, probe: ProbeConfig, seed: int, purpose: str, n: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    latents, seeds = probe_latents(seed, n, model.latent_dim, purpose)
    return latents, generate_in_batches(model, latents, seeds, probe.batch_size)


def _noise_spread(model: ImageModel, reader: Reader, probe: ProbeConfig, seed: int) -> list[float]:
    """Standard deviation of R² per entry over ``probe.noise_seeds`` draws of the noise, the same latents each time."""
    n = max(16, probe.n_images // 12)
    latents, _ = probe_latents(seed, n, model.latent_dim, "spread")
    figures = []
    for repeat in range(probe.noise_seeds):
        _, seeds = probe_latents(seed, n, model.latent_dim, f"spread {repeat}")
        figures.append(r_squared(latents, reader(generate_in_batches(model, latents, seeds, probe.batch_size))))
    return [float(value) for value in np.std(figures, axis=0, ddof=1)]


def _evenly(n: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_REAL)).astype(np.int64))

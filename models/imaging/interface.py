"""The interface of every image model, and images of any number of latents from it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.imaging.sampling_pipeline import BatchSize, render_batches


class ImageModel(Protocol):
    """What the pipeline uses of an image model: latents (B, D) float32 and seeds (B,) → images (B, S, S) uint8."""

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that decides a pixel: weights, solver, steps, code version."""
        ...

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (B, S, S) uint8 of latents (B, D); each depends only on its own row and seed."""
        ...


def generate_in_batches(
    model: ImageModel, latents: NDArray[np.float32], seeds: NDArray[np.int64], batch_size: int
) -> NDArray[np.uint8]:
    """Images (n, S, S) uint8 of latents (n, D); see :func:`models.imaging.sampling_pipeline.stream_images`."""
    images = np.empty((len(latents), model.image_size, model.image_size), np.uint8)
    start = 0
    for batch in render_batches(model, latents, seeds, BatchSize(batch_size)):
        images[start : start + len(batch)] = batch
        start += len(batch)
    return images

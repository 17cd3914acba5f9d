"""The influence of each latent dimension on the VAE's image, ranked in the original's two ways."""

from dataclasses import dataclass

import torch
from torch import Tensor

from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.network import VAE

DECODED = 1024  # images decoded for the first ranking: with fewer dimensions, more latents


@dataclass(frozen=True)
class LatentImportance:
    """Per dimension of the standardised latent; lists of length D.

    ``change``: mean squared change of the decoded image (grey 0 to 1) when the dimension is resampled; more is more
    important. ``reading_error``: mean squared error of encode(decode(z)) against z ~ N(0, I); less is more important.
    """

    change: list[float]
    reading_error: list[float]


@torch.no_grad()
def latent_importance(vae: VAE, seed: int) -> LatentImportance:
    """Both rankings' figures of a VAE in evaluation mode, for latents sampled from N(0, I) with ``seed``."""
    device, dim = vae.shift.device, vae.latent_dim
    generator = step_generator(seed, "importance", 0)
    n = max(16, DECODED // dim)
    latents, resampled = (torch.randn(n, dim, generator=generator).to(device) for _ in range(2))
    images = vae.decode(latents)
    change = [_change(vae, latents, resampled, index, images) for index in range(dim)]
    reading_error = (vae.encode(images) - latents).square().mean(0)
    return LatentImportance(change, reading_error.tolist())


def _change(vae: VAE, latents: Tensor, resampled: Tensor, index: int, images: Tensor) -> float:
    changed = latents.clone()
    changed[:, index] = resampled[:, index]
    return float((vae.decode(changed) - images).square().mean())

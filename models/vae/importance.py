"""What each latent entry does to the VAE's image, ranked in the original's two ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from image_longitudinal.models.training.loop import step_generator
from image_longitudinal.models.vae.network import VAE

DECODED = 1024  # images decoded for the first ranking: with fewer entries, more latents


@dataclass(frozen=True)
class Importance:
    """Per entry of the standardised latent.

    ``change``: mean squared change of the decoded image (grey 0 to 1) when the entry is drawn anew; more is more
    important. ``reading_error``: mean squared error of encode(decode(z)) against z ~ N(0, I); less is more important.
    """

    change: list[float]
    reading_error: list[float]


@torch.no_grad()
def importance(vae: VAE, seed: int) -> Importance:
    """Both rankings' figures of a VAE in evaluation mode, for latents drawn from N(0, I) with ``seed``."""
    device, dim = vae.shift.device, vae.latent_dim
    draws = step_generator(seed, "importance", 0)
    n = max(16, DECODED // dim)
    latents, anew = (torch.randn(n, dim, generator=draws).to(device) for _ in range(2))
    images = vae.decode(latents)
    change = [_redrawn(vae, latents, anew, entry, images) for entry in range(dim)]
    reading_error = (vae.encode(images) - latents).square().mean(0)
    return Importance(change, reading_error.tolist())


def _redrawn(vae: VAE, latents: Tensor, anew: Tensor, entry: int, images: Tensor) -> float:
    changed = latents.clone()
    changed[:, entry] = anew[:, entry]
    return float((vae.decode(changed) - images).square().mean())

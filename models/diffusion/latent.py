"""Latent diffusion of our own: a straight flow (or a velocity) in the space of a small autoencoder, told z by AdaGN."""

from __future__ import annotations

import torch
from torch import Tensor

from image_longitudinal.models.diffusion.adagn import AdaGNDiffusion
from image_longitudinal.models.diffusion.codec import ImageCodec
from image_longitudinal.models.vae.network import VAE


class LatentDiffusion(AdaGNDiffusion):
    """Diffusion over the standardised latents of an autoencoder.

    Args:
        vae, channels, objective: see :class:`AdaGNDiffusion`.
        codec: the trained autoencoder. Not trained further.
        image_size: side of the images in pixels, a multiple of the autoencoder's factor.
    """

    centre: Tensor
    spread: Tensor
    encodes_ahead = True

    def __init__(self, vae: VAE, codec: ImageCodec, image_size: int, channels: tuple[int, ...], objective: str) -> None:
        side = image_size // codec.factor
        super().__init__(vae, image_size, (codec.channels, side, side), channels, objective)
        self.codec = codec.eval().requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, codec.channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, codec.channels, 1, 1))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Give every channel of the latents of images (B, 1, S, S) mean 0 and standard deviation 1."""
        raw = self.codec.encode(images)
        self.centre.copy_(raw.mean((0, 2, 3), keepdim=True))
        self.spread.copy_(raw.std((0, 2, 3), keepdim=True).clamp(min=1e-6))

    def context(self, latents: Tensor) -> Tensor:
        """What the denoiser is told at every step: the VAE's image of z, encoded, (B, C, h, w)."""
        return self.to_working(self.outline(latents), latents)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) of images (B, 1, S, S), values 0 to 1; z plays no part."""
        return (self.codec.encode(images) - self.centre) / self.spread

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, of standardised latents; the context plays no part."""
        return self.codec.decode(working * self.spread + self.centre).clamp(0, 1)

    def frozen_state(self) -> dict[str, Tensor]:
        """The autoencoder, and the scale of its latents."""
        codec = {f"codec.{key}": value for key, value in self.codec.state_dict().items()}
        return {**codec, "centre": self.centre, "spread": self.spread}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`frozen_state` gave."""
        prefix = "codec."
        self.codec.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.centre.copy_(state["centre"])
        self.spread.copy_(state["spread"])

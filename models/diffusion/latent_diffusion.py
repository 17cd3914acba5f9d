"""Latent diffusion: a straight flow (or velocity prediction) in the space of an autoencoder, conditioned by AdaGN."""

import torch
from torch import Tensor

from image_longitudinal.models.diffusion.adagn import AdaGNDiffusion
from image_longitudinal.models.diffusion.autoencoder import ImageAutoencoder
from image_longitudinal.models.vae.network import VAE

STORED = "codec."  # begins the names of the autoencoder's weights in stored models


class LatentDiffusion(AdaGNDiffusion):
    """Diffusion over the standardised latents of an autoencoder.

    Args:
        vae, channels, objective: see :class:`AdaGNDiffusion`.
        autoencoder: trained; its weights stay fixed.
        image_size: side of the images in pixels, a multiple of the autoencoder's factor.
    """

    mean: Tensor
    std: Tensor
    can_encode_ahead = True

    def __init__(
        self, vae: VAE, autoencoder: ImageAutoencoder, image_size: int, channels: tuple[int, ...], objective: str
    ) -> None:
        side = image_size // autoencoder.factor
        super().__init__(vae, image_size, (autoencoder.channels, side, side), channels, objective)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.register_buffer("mean", torch.zeros(1, autoencoder.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, autoencoder.channels, 1, 1))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Fit mean and standard deviation of every latent channel to images (B, 1, S, S), values 0 to 1."""
        raw = self.autoencoder.encode(images)
        self.mean.copy_(raw.mean((0, 2, 3), keepdim=True))
        self.std.copy_(raw.std((0, 2, 3), keepdim=True).clamp(min=1e-6))

    def context(self, latents: Tensor) -> Tensor:
        """The VAE's image of z, encoded, (B, C, h, w): an input of the denoiser at every step."""
        return self.to_working(self.vae_image(latents), latents)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) of images (B, 1, S, S), values 0 to 1; z is not used."""
        return (self.autoencoder.encode(images) - self.mean) / self.std

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, of standardised latents; the context is not used."""
        return self.autoencoder.decode(working * self.std + self.mean).clamp(0, 1)

    def frozen_state(self) -> dict[str, Tensor]:
        """The autoencoder, and mean and standard deviation of its latents."""
        weights = {f"{STORED}{key}": value for key, value in self.autoencoder.state_dict().items()}
        return {**weights, "centre": self.mean, "spread": self.std}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Load the result of :meth:`frozen_state`."""
        self.autoencoder.load_state_dict({k.removeprefix(STORED): v for k, v in state.items() if k.startswith(STORED)})
        self.mean.copy_(state["centre"])
        self.std.copy_(state["spread"])

"""Latent diffusion of our own: a straight flow (or a velocity) in the space of a small autoencoder, told z by AdaGN.

Like the residual model it sees what the VAE makes of z, here encoded, as further input channels: a short training
otherwise learns little of z.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from models.diffusion.adagn import adagn_unet, rotate_adagn
from models.diffusion.codec import ImageCodec
from models.diffusion.interface import DiffusionModel
from models.vae.network import VAE

SCHEDULES: dict[str, dict[str, Any]] = {
    "flow": {"num_train_timesteps": 1000, "prediction_type": "flow_prediction"},  # Lipman et al. 2023
    "velocity": {  # Salimans & Ho 2022 on a cosine schedule (Nichol & Dhariwal 2021)
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
    },
}


class LatentDiffusion(DiffusionModel):
    """Diffusion over the standardised latents of an autoencoder.

    Args:
        vae: the trained VAE; its latents condition the model. Not trained further.
        codec: the trained autoencoder. Not trained further.
        image_size: side of the images in pixels, a multiple of the autoencoder's factor.
        channels: channel counts of the UNet's levels.
        objective: a key of :data:`SCHEDULES`.
    """

    centre: Tensor
    spread: Tensor
    encodes_ahead = True

    def __init__(self, vae: VAE, codec: ImageCodec, image_size: int, channels: tuple[int, ...], objective: str) -> None:
        super().__init__()
        self.vae, self.codec = vae.eval().requires_grad_(False), codec.eval().requires_grad_(False)
        self.image_size, self.latent_dim = image_size, vae.latent_dim
        self.schedule = dict(SCHEDULES[objective])
        side = image_size // codec.factor
        self.working_shape = (codec.channels, side, side)
        self.register_buffer("centre", torch.zeros(1, codec.channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, codec.channels, 1, 1))
        self.denoiser: nn.Module = adagn_unet(
            inputs=2 * codec.channels, outputs=codec.channels, side=side, channels=channels, latent_dim=vae.latent_dim
        )

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Give every channel of the latents of images (B, 1, S, S) mean 0 and standard deviation 1."""
        raw = self.codec.encode(images)
        self.centre.copy_(raw.mean((0, 2, 3), keepdim=True))
        self.spread.copy_(raw.std((0, 2, 3), keepdim=True).clamp(min=1e-6))

    def context(self, latents: Tensor) -> Tensor:
        """What the denoiser is told at every step: the VAE's image of z, encoded, (B, C, h, w)."""
        image = self.vae.decode(latents)
        if image.shape[-1] != self.image_size:
            image = interpolate(image, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return self.to_working(image, latents)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) of images (B, 1, S, S), values 0 to 1; z plays no part."""
        return (self.codec.encode(images) - self.centre) / self.spread

    def to_images(self, working: Tensor, latents: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, of standardised latents."""
        return self.codec.decode(working * self.spread + self.centre).clamp(0, 1)

    def rotate(self, axes: Tensor) -> None:
        """See :class:`DiffusionModel`: z enters by the VAE's decoder and by one linear layer."""
        rotate_adagn(self.denoiser, axes)

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        """The prediction (B, C, h, w) for noisy standardised latents at integer timesteps (B,)."""
        return denoiser(torch.cat([noisy, context], 1), timesteps, None, class_labels=latents, return_dict=False)[0]

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

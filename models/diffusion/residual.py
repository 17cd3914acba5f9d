"""The small diffusion model: the detail that the VAE's decoder leaves out, drawn given the latent vector.

A network given only z learns little of it in a short training. This one models the *residual* x - decode(z), scaled
by its standard deviation, and sees decode(z) as extra input channels: what z says is in the image from the first step
on, and all capacity goes into texture. z also enters every block by adaptive group normalisation (Dhariwal & Nichol
2021). Pixels are folded 4x4 into channels, so that a 64x64 image is a 16x16 grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from models.diffusion.adagn import adagn_unet, rotate_adagn
from models.diffusion.interface import DiffusionModel
from models.vae.network import VAE

PATCH = 4


class ResidualDiffusion(DiffusionModel):
    """Diffusion over the scaled residual of a frozen VAE.

    Args:
        vae: the trained VAE; its latents condition the model. Not trained further, kept in evaluation mode.
        image_size: side of the images made, in pixels: the VAE's or larger (its output is then enlarged).
        channels: channel counts of the UNet's levels.
        residual_scale: standard deviation of x - decode(z) over training images, in units of grey 0 to 1.
    """

    def __init__(self, vae: VAE, image_size: int, channels: tuple[int, ...], residual_scale: float = 1.0) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.image_size, self.latent_dim = image_size, vae.latent_dim
        self.residual_scale = residual_scale
        self.schedule = {
            "num_train_timesteps": 1000,
            "beta_schedule": "squaredcos_cap_v2",  # cosine (Nichol & Dhariwal 2021)
            "prediction_type": "v_prediction",  # Salimans & Ho 2022: stable targets at every noise level
        }
        self.working_shape = (PATCH**2, image_size // PATCH, image_size // PATCH)
        unet = adagn_unet(
            inputs=2 * PATCH**2,
            outputs=PATCH**2,
            side=image_size // PATCH,
            channels=channels,
            latent_dim=vae.latent_dim,
        )
        self.denoiser = unet

    def context(self, latents: Tensor) -> Tensor:
        """What the denoiser is told at every step: the folded decoder output (B, 16, h, w) centred on 0."""
        return pixel_unshuffle(self.outline(latents) - 0.5, PATCH) * 4

    def outline(self, latents: Tensor) -> Tensor:
        """The VAE's image (B, 1, S, S), values 0 to 1, at this model's size."""
        image = self.vae.decode(latents)
        if image.shape[-1] != self.image_size:
            image = interpolate(image, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return image

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Training target (B, 16, h, w): the scaled residual of images (B, 1, S, S), values 0 to 1."""
        return pixel_unshuffle((images - self.outline(latents)) / self.residual_scale, PATCH)

    def to_images(self, working: Tensor, latents: Tensor) -> Tensor:
        """Inverse of :meth:`to_working`, clamped to 0 to 1."""
        return (self.outline(latents) + pixel_shuffle(working, PATCH) * self.residual_scale).clamp(0, 1)

    def rotate(self, axes: Tensor) -> None:
        """See :class:`DiffusionModel`: z enters by the decoder, which is the VAE's, and by one linear layer."""
        rotate_adagn(self.denoiser, axes)

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        """Predicted velocity (B, 16, h, w) of the noisy working tensor at integer timesteps (B,)."""
        return denoiser(torch.cat([noisy, context], 1), timesteps, None, class_labels=latents, return_dict=False)[0]

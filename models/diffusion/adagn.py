"""Diffusion by a UNet that is conditioned on z by adaptive group normalisation (AdaGN, Dhariwal & Nichol 2021).

A network given only z uses little of it after a short training. This one also gets the VAE's image of z as input
channels, so the information in z is available from the first step on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.vae.network import VAE

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SCHEDULES: dict[str, dict[str, Any]] = {
    "flow": {"num_train_timesteps": 1000, "prediction_type": "flow_prediction"},  # Lipman et al. 2023
    "velocity": {  # Salimans & Ho 2022: stable targets at every noise level
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",  # cosine (Nichol & Dhariwal 2021)
        "prediction_type": "v_prediction",
    },
}


class AdaGNDiffusion(DiffusionModel):
    """Base of the models with an AdaGN UNet; they differ in their working tensors.

    Args:
        vae: the trained VAE, whose latents condition the model; its weights stay fixed.
        image_size: side of the generated images in pixels: the VAE's or larger (its image is then upsampled).
        working_shape: (C, h, w) of the working tensors and of the context.
        channels: channel counts of the UNet's levels, multiples of 16.
        objective: a key of :data:`SCHEDULES`.
    """

    def __init__(
        self, vae: VAE, image_size: int, working_shape: tuple[int, int, int], channels: tuple[int, ...], objective: str
    ) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.image_size, self.latent_dim, self.working_shape = image_size, vae.latent_dim, working_shape
        self.schedule = dict(SCHEDULES[objective])
        self.denoiser = _adagn_unet(working_shape, channels, vae.latent_dim)

    def vae_image(self, latents: Tensor) -> Tensor:
        """The VAE's image (B, 1, S, S), values 0 to 1, at this model's size."""
        image = self.vae.decode(latents)
        if image.shape[-1] != self.image_size:
            image = interpolate(image, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return image

    @torch.no_grad()
    def rotate(self, axes: Tensor) -> None:
        """See :class:`DiffusionModel`: z enters through the VAE's decoder and through one linear layer."""
        weight = self.denoiser.get_parameter("class_embedding.linear_1.weight")
        weight.copy_(weight @ axes.to(weight))

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        """The prediction (B, C, h, w) for noisy working tensors at integer timesteps (B,)."""
        return denoiser(torch.cat([noisy, context], 1), timesteps, None, class_labels=latents, return_dict=False)[0]


def _adagn_unet(
    working_shape: tuple[int, int, int], channels: tuple[int, ...], latent_dim: int
) -> UNet2DConditionModel:
    """A UNet over working tensor and context; time and z scale and shift every block; its last layer starts at 0."""
    from diffusers import UNet2DConditionModel  # here: diffusers takes seconds to import

    unet = UNet2DConditionModel(
        sample_size=working_shape[1],
        in_channels=2 * working_shape[0],
        out_channels=working_shape[0],
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        mid_block_type="UNetMidBlock2D",
        layers_per_block=1,
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=latent_dim,
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=32,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet

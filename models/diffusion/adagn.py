"""Diffusion by a UNet conditioned on z by adaptive group normalisation (AdaGN, Dhariwal & Nichol 2021): two models.

A network given only z uses little of it after a short training. These also get the VAE's image of z as input channels,
so the information in z is available from the first step on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from image_longitudinal.models.diffusion.autoencoder import ImageAutoencoder
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.vae.network import VAE

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

PATCH = 4  # the residual model's blocks of pixels that become channels
GREY_GAIN = 4  # scales grey values around 0.5 to a standard deviation near 1
STORED = "codec."  # begins the names of the autoencoder's weights in stored models
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

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The prediction (B, C, h, w) for noisy working tensors at integer timesteps (B,)."""
        return network(torch.cat([noisy, context], 1), timesteps, None, class_labels=z, return_dict=False)[0]


class ResidualDiffusion(AdaGNDiffusion):
    """Generates the detail that the VAE's decoder lacks: the residual x - decode(z), scaled by its standard deviation.

    So all capacity goes into texture. Blocks of 4x4 pixels become channels: a 64x64 image is a 16x16 grid.

    ``residual_scale`` is that standard deviation over training images, in units of grey 0 to 1.
    """

    def __init__(self, vae: VAE, image_size: int, channels: tuple[int, ...], residual_scale: float = 1.0) -> None:
        side = image_size // PATCH
        super().__init__(vae, image_size, (PATCH**2, side, side), channels, "velocity")
        self.residual_scale = residual_scale

    def context(self, latents: Tensor) -> Tensor:
        """The VAE's image, centred on 0 and folded, (B, 16, h, w): an input of the denoiser at every step."""
        return pixel_unshuffle(self.vae_image(latents) - 0.5, PATCH) * GREY_GAIN

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Training target (B, 16, h, w): the scaled residual of images (B, 1, S, S), values 0 to 1."""
        return pixel_unshuffle((images - self.vae_image(latents)) / self.residual_scale, PATCH)

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Inverse of :meth:`to_working`, clamped to 0 to 1; the context holds the VAE's image."""
        return pixel_shuffle(context / GREY_GAIN + 0.5 + working * self.residual_scale, PATCH).clamp(0, 1)


class LatentDiffusion(AdaGNDiffusion):
    """A straight flow (or velocity prediction) over the standardised latents of an autoencoder.

    The trained autoencoder's weights stay fixed; ``image_size`` is a multiple of its factor.
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


def _adagn_unet(
    working_shape: tuple[int, int, int], channels: tuple[int, ...], latent_dim: int
) -> UNet2DConditionModel:
    """A UNet over working tensor and context; time and z scale and shift every block; its last layer starts at 0."""
    from diffusers import UNet2DConditionModel  # here: diffusers takes seconds to import

    unet = UNet2DConditionModel(
        sample_size=working_shape[1], in_channels=2 * working_shape[0], out_channels=working_shape[0],
        block_out_channels=channels, down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels), mid_block_type="UNetMidBlock2D", layers_per_block=1,
        norm_num_groups=16, class_embed_type="projection", projection_class_embeddings_input_dim=latent_dim,
        resnet_time_scale_shift="scale_shift", attention_head_dim=32,
    )  # fmt: skip
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet

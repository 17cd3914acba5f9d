"""The original's image model: Stable Diffusion 1.5 with its UNet fine-tuned on the latent vector in place of text.

The original zero-pads z (128) to 768 entries and repeats it on all 77 tokens. With identical tokens every attention
weight is spread over equal values, so one token gives the same output; this code passes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.cross_attention import CrossAttentionConstants, collapse_cross_attention
from image_longitudinal.models.diffusion.interface import DiffusionModel, in_parts, ready

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class StableDiffusion(DiffusionModel):
    """Latent diffusion with a pretrained autoencoder.

    Args:
        pretrained: local folder or hub name in diffusers' layout (``unet``, ``vae``, ``scheduler``), as safetensors.
        latent_dim: length D of z, at most the UNet's cross-attention width (768).
        image_size: side of the images in pixels, a multiple of the autoencoder's factor (8).
        unet: folder or hub name of another UNet to start from, such as the one the original's authors published; it
            lies there itself or in ``unet``.

    Raises:
        ModelError: the weights cannot be loaded or do not fit.
    """

    encodes_ahead = True

    def __init__(self, pretrained: str, latent_dim: int, image_size: int, unet: str | None = None) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler  # here: diffusers takes seconds to import

        super().__init__()
        try:
            network = _load_unet(unet or pretrained)
            self.autoencoder = AutoencoderKL.from_pretrained(pretrained, subfolder="vae", use_safetensors=True)
            scheduler = DDPMScheduler.from_pretrained(pretrained, subfolder="scheduler")
        except (OSError, ValueError) as error:
            raise ModelError(
                "cannot load the pretrained diffusion model",
                where=f"{pretrained}{f', {unet}' if unet else ''}",
                expected="a folder or hub name with unet, vae and scheduler as safetensors",
                got=str(error).splitlines()[0],
                do="set diffusion.pretrained to a local copy, or use diffusion.kind=residual",
            ) from error
        self.autoencoder.eval().requires_grad_(False)
        self.constants: CrossAttentionConstants | None = None
        self.light: nn.Module | None = None  # takes the place of the autoencoder's decoder
        self.denoiser = network
        self.context_width = int(network.config.cross_attention_dim)
        if latent_dim > self.context_width:
            raise ModelError(
                "the latent vector is longer than the UNet's tokens", expected=f"≤ {self.context_width}", got=latent_dim
            )
        factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.image_size, self.latent_dim = image_size, latent_dim
        side = image_size // factor
        self.working_shape = (int(network.config.in_channels), side, side)
        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
        self.schedule = {key: scheduler.config[key] for key in keys if key in scheduler.config}

    def context(self, latents: Tensor) -> Tensor:
        """One token (B, 1, 768): z padded with zeros. Once ready for sampling, what the layers make of it."""
        token = pad(latents, (0, self.context_width - self.latent_dim))[:, None]
        return token if self.constants is None else self.constants(token)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Scaled autoencoder means (B, 4, S/8, S/8) of images (B, 1, S, S), values 0 to 1."""
        colour = images.expand(-1, self.autoencoder.config.in_channels, -1, -1) * 2 - 1
        return self.autoencoder.encode(colour).latent_dist.mean * self.autoencoder.config.scaling_factor

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, by the light decoder where one is in use, else by the full one."""
        light = self.light
        if light is None:
            return self.decode_fully(working)
        dtype = next(light.parameters()).dtype
        return in_parts(lambda part: light(part.to(dtype)).float().clamp(0, 1), working, self.image_size)

    def decode_fully(self, working: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1: the autoencoder's colours averaged."""
        scaled = working / self.autoencoder.config.scaling_factor
        dtype = self.autoencoder.dtype

        def decode(part: Tensor) -> Tensor:
            colour = self.autoencoder.decode(part.to(dtype)).sample.float()
            return ((colour.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)

        return in_parts(decode, scaled, self.image_size)

    def borrowed_state(self) -> dict[str, Tensor]:
        """See :class:`DiffusionModel`: the autoencoder, which no training changes."""
        return self.autoencoder.state_dict()

    def for_sampling(self, dtype: torch.dtype, compiled: bool = False) -> None:
        """See :class:`DiffusionModel`: cross-attention becomes constants, worked out in float32."""
        if self.constants is None:
            self.constants = collapse_cross_attention(self.denoiser)
        super().for_sampling(dtype, compiled)
        nn.Module.to(self.autoencoder, dtype)  # see ready
        ready(self.light or self.autoencoder.decoder, dtype, compiled)

    @torch.no_grad()
    def rotate(self, axes: Tensor) -> None:
        """See :class:`DiffusionModel`: z enters by the keys and values of every cross-attention."""
        for name, weight in self.denoiser.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                weight[:, : self.latent_dim] = weight[:, : self.latent_dim] @ axes.to(weight)

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        """Predicted noise (B, 4, h, w) at integer timesteps (B,)."""
        return denoiser(noisy, timesteps, context, return_dict=False)[0]

    def train(self, mode: bool = True) -> StableDiffusion:
        """Only the denoiser is ever trained."""
        self.denoiser.train(mode)
        self.training = mode
        return self


def _load_unet(place: str) -> UNet2DConditionModel:
    """A UNet in the subfolder ``unet`` of a folder or hub repository, or in that itself."""
    from diffusers import UNet2DConditionModel  # here: diffusers takes seconds to import

    try:
        return UNet2DConditionModel.from_pretrained(place, subfolder="unet", use_safetensors=True)
    except (OSError, ValueError) as error:
        try:
            return UNet2DConditionModel.from_pretrained(place, use_safetensors=True)
        except (OSError, ValueError):
            raise error from None

"""The original's image model: Stable Diffusion 1.5 with its UNet fine-tuned on the latent vector in place of text.

The original zero-pads z from 128 to 768 numbers and repeats it on all 77 tokens. Attention over identical tokens
averages equal values, so one token gives the same output; this code passes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel, in_chunks, prepare_network

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


class StableDiffusion(DiffusionModel):
    """Latent diffusion with a pretrained autoencoder.

    Args:
        pretrained: local folder or hub name in diffusers' layout (``unet``, ``vae``, ``scheduler``), as safetensors.
        latent_dim: length D of z, at most the UNet's cross-attention width (768).
        image_size: side of the images in pixels, a multiple of the autoencoder's factor (8).
        unet: folder or hub name of another UNet to start from, such as the one the original's authors published,
            either directly there or in the subfolder ``unet``.

    Raises:
        ModelError: the weights cannot be loaded or do not fit.
    """

    can_encode_ahead = True

    def __init__(self, pretrained: str, latent_dim: int, image_size: int, unet: str | None = None) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler  # here: diffusers takes seconds to import

        super().__init__()
        try:
            network = _load_unet(unet or pretrained)
            self.autoencoder = AutoencoderKL.from_pretrained(pretrained, subfolder="vae", use_safetensors=True)
            scheduler = DDPMScheduler.from_pretrained(pretrained, subfolder="scheduler")
        except (OSError, ValueError) as error:
            raise ModelError(
                "cannot load the pretrained diffusion model", where=f"{pretrained}{f', {unet}' if unet else ''}",
                expected="a folder or hub name with unet, vae and scheduler as safetensors",
                got=str(error).splitlines()[0],
                do="set diffusion.pretrained to a local copy, or use diffusion.kind=residual",
            ) from error  # fmt: skip
        self.autoencoder.eval().requires_grad_(False)
        self.constants: CrossAttentionConstants | None = None
        self.light: nn.Module | None = None  # used instead of the autoencoder's decoder
        self.denoiser = network
        self.context_width = int(network.config.cross_attention_dim)
        if latent_dim > self.context_width:
            expected = f"≤ {self.context_width}"
            raise ModelError("the latent vector is longer than the UNet's tokens", expected=expected, got=latent_dim)
        factor = 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        self.image_size, self.latent_dim = image_size, latent_dim
        side = image_size // factor
        self.working_shape = (int(network.config.in_channels), side, side)
        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
        self.schedule = {key: scheduler.config[key] for key in keys if key in scheduler.config}

    def context(self, latents: Tensor) -> Tensor:
        """One token (B, 1, 768): z padded with zeros; after :meth:`for_sampling` the layers' constants for it."""
        token = pad(latents, (0, self.context_width - self.latent_dim))[:, None]
        return token if self.constants is None else self.constants(token)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Scaled autoencoder means (B, 4, S/8, S/8) of images (B, 1, S, S), values 0 to 1."""
        colour = images.expand(-1, self.autoencoder.config.in_channels, -1, -1) * 2 - 1
        return self.autoencoder.encode(colour).latent_dist.mean * self.autoencoder.config.scaling_factor

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, by the light decoder if there is one, else by the full one."""
        light = self.light
        if light is None:
            return self.decode_full(working)
        dtype = next(light.parameters()).dtype
        return in_chunks(lambda chunk: light(chunk.to(dtype)).float().clamp(0, 1), working, self.image_size)

    def decode_full(self, working: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1: the mean of the autoencoder's colours."""
        scaled = working / self.autoencoder.config.scaling_factor
        dtype = self.autoencoder.dtype

        def decode(chunk: Tensor) -> Tensor:
            colour = self.autoencoder.decode(chunk.to(dtype)).sample.float()
            return ((colour.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)

        return in_chunks(decode, scaled, self.image_size)

    def borrowed_state(self) -> dict[str, Tensor]:
        """See :class:`DiffusionModel`: the autoencoder, which training does not change."""
        return self.autoencoder.state_dict()

    def for_sampling(self, dtype: torch.dtype, compiled: bool = False) -> None:
        """See :class:`DiffusionModel`: cross-attention becomes constants, computed in float32."""
        if self.constants is None:
            self.constants = collapse_cross_attention(self.denoiser)
        super().for_sampling(dtype, compiled)
        nn.Module.to(self.autoencoder, dtype)  # see prepare_network
        prepare_network(self.light or self.autoencoder.decoder, dtype, compiled)

    @torch.no_grad()
    def rotate(self, axes: Tensor) -> None:
        """See :class:`DiffusionModel`: z enters through the keys and values of every cross-attention."""
        for name, weight in self.denoiser.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                weight[:, : self.latent_dim] = weight[:, : self.latent_dim] @ axes.to(weight)

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """Predicted noise (B, 4, h, w) at integer timesteps (B,)."""
        return network(noisy, timesteps, context, return_dict=False)[0]

    def train(self, mode: bool = True) -> StableDiffusion:
        """Switch the denoiser alone: the autoencoder is never trained."""
        self.denoiser.train(mode)
        self.training = mode
        return self


def _load_unet(source: str) -> UNet2DConditionModel:
    """A UNet in the subfolder ``unet`` of a folder or hub repository, or directly in it."""
    from diffusers import UNet2DConditionModel  # here: diffusers takes seconds to import

    try:
        return UNet2DConditionModel.from_pretrained(source, subfolder="unet", use_safetensors=True)
    except (OSError, ValueError) as error:
        try:
            return UNet2DConditionModel.from_pretrained(source, use_safetensors=True)
        except (OSError, ValueError):
            raise error from None


@dataclass(frozen=True)
class ConstantAttention:
    """Attention processor whose "tokens" are the constants of all layers; returns those of this layer."""

    start: int
    stop: int

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        """(B, pixels, C) and constants (B, 1, all C) → (B, 1, C), which broadcasts over the pixels when added."""
        return encoder_hidden_states[..., self.start : self.stop]


class CrossAttentionConstants(nn.Module):
    """Tokens (B, 1, width) → the outputs of every cross-attention layer, side by side: (B, 1, sum of C)."""

    def __init__(self, layers: list[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.values = nn.ModuleList(value for value, _ in layers)
        self.outputs = nn.ModuleList(output for _, output in layers)

    def forward(self, token: Tensor) -> Tensor:
        """See the class."""
        pairs = zip(self.values, self.outputs, strict=True)
        return torch.cat([output(value(token)) for value, output in pairs], dim=-1)


def collapse_cross_attention(unet: UNet2DConditionModel) -> CrossAttentionConstants:
    """Change ``unet`` in place to take constants instead of its token; returns the module that computes them.

    Attention over identical tokens gives every query the same value whatever its weights, to_out(to_v(token)), which
    depends on neither pixel nor timestep: it is computed once per image. Call the UNet with
    ``encoder_hidden_states=constants(token)``. Its keys and queries are dropped: it can no longer be trained or saved.

    Raises:
        ModelError: a cross-attention layer does more than plain attention (a norm, a residual, a group).
    """
    from diffusers.models.attention_processor import Attention  # here: diffusers takes seconds to import

    layers: list[tuple[nn.Module, nn.Module]] = []
    start = 0
    for name, block in unet.named_modules():
        attention = getattr(block, "attn2", None)
        if not isinstance(attention, Attention):
            continue
        plain = attention.spatial_norm is None and attention.group_norm is None and not attention.residual_connection
        if not plain or attention.rescale_output_factor != 1 or attention.norm_cross is not None:
            raise ModelError("this UNet's cross-attention is not plain attention", where=f"{name}.attn2")
        output = attention.to_out[0]
        stop = start + output.out_features
        layers.append((attention.to_v, output))
        attention.set_processor(ConstantAttention(start, stop))
        attention.to_q = attention.to_k = attention.to_v = nn.Identity()
        attention.to_out = nn.ModuleList()
        block.norm2 = nn.Identity()  # normalises queries, which are dropped
        start = stop
    if not layers:
        raise ModelError("this UNet has no cross-attention to collapse")
    return CrossAttentionConstants(layers)

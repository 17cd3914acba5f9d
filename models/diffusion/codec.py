"""The autoencoder of latent diffusion: pretrained where one is at hand, else a small one of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.diffusion.interface import in_parts
from image_longitudinal.models.training.loop import (
    History,
    LoopSettings,
    TrainingProgress,
    batch_indices,
    step_generator,
    train,
)
from image_longitudinal.models.training.processes import share
from image_longitudinal.models.training.tensors import ImageRows, to_unit
from image_longitudinal.models.vae.augment import augment, centre
from image_longitudinal.models.vae.loss import reconstruction_loss, structural_distance

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

LATENT_CHANNELS = 4
SIZE_PENALTY = 1e-3  # on squared latents: keeps their scale finite; they are standardised afterwards


class ImageCodec(nn.Module):
    """Grey images (B, 1, S, S), values 0 to 1 ↔ latents (B, C, S/f, S/f), without randomness.

    Args:
        network: of diffusers, an ``AutoencoderTiny`` or ``AutoencoderKL``.
    """

    def __init__(self, network: AutoencoderTiny | AutoencoderKL) -> None:
        super().__init__()
        self.network = network
        config = network.config
        self._tiny = "encoder_block_out_channels" in config  # its latents are what they are; the other's a distribution
        levels = config.encoder_block_out_channels if self._tiny else config.block_out_channels
        self.factor = 2 ** (len(levels) - 1)
        self.channels = int(config.latent_channels)

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images."""

        def encode(part: Tensor) -> Tensor:
            encoded = self.network.encode(part.expand(-1, self.network.config.in_channels, -1, -1) * 2 - 1)
            return encoded.latents if self._tiny else encoded.latent_dist.mean

        return in_parts(encode, images, images.shape[-1])

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, not clamped."""

        def decode(part: Tensor) -> Tensor:
            return (self.network.decode(part).sample.mean(1, keepdim=True) + 1) / 2

        return in_parts(decode, latents, latents.shape[-1] * self.factor)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and latents."""
        latents = self.encode(images)
        return self.decode(latents), latents


def build_codec(config: DiffusionConfig, seed: int) -> ImageCodec:
    """The configured autoencoder: pretrained weights, or initial ones that depend on the seed alone.

    Raises:
        ModelError: the pretrained one cannot be loaded.
    """
    if config.autoencoder is not None:
        return ImageCodec(_pretrained(config.autoencoder))
    from diffusers import AutoencoderTiny  # here: diffusers takes seconds to import

    levels = config.autoencoder_levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "autoencoder-weights") >> 1)
        network = AutoencoderTiny(
            in_channels=1,
            out_channels=1,
            encoder_block_out_channels=(config.autoencoder_width,) * levels,
            decoder_block_out_channels=(config.autoencoder_width,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
            latent_channels=LATENT_CHANNELS,
        )
    return ImageCodec(network)


def train_codec(
    images: ImageRows,
    validation: ImageRows,
    config: DiffusionConfig,
    seed: int,
    checkpoint: Path,
    device: str,
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[ImageCodec, History, float]:
    """Train our own autoencoder; returns it, its history and its error on ``validation`` (mean squared, grey 0 to 1).

    Its loss is the VAE's reconstruction loss, pixels and structure, without a bottleneck of information: that is
    the diffusion model's matter. A pretrained one is only measured.

    Raises:
        ModelError: see :func:`models.training.loop.train`.
    """
    codec = build_codec(config, seed)
    history: History = []
    if config.autoencoder is None:

        def loss(network: nn.Module, step: int, where: torch.device) -> dict[str, Tensor]:
            batch = to_unit(images[batch_indices(len(images), config.batch_size, seed, "autoencoder", step)], where)
            batch = augment(batch, step_generator(seed, "autoencoder", step))[share()]
            output, latents = network(batch)
            error = reconstruction_loss(output, batch, structural_distance)
            return {"loss": error + SIZE_PENALTY * latents.square().mean(), "mse": mse_loss(output, batch)}

        settings = LoopSettings(
            steps=config.autoencoder_steps, learning_rate=config.autoencoder_learning_rate, seed=seed,
            mixed_precision=config.mixed_precision, cosine_decay=True, device=device,
        )  # fmt: skip
        trained, history = train("diffusion", codec, loss, settings, checkpoint, report)
        assert isinstance(trained, ImageCodec)
        codec = trained
    codec.eval().requires_grad_(False)
    return codec, history, _error(codec, validation)


@torch.no_grad()
def _error(codec: ImageCodec, images: ImageRows) -> float:
    where, errors = next(codec.parameters()).device, []
    for start in range(0, len(images), 64):
        view = centre(to_unit(images[slice(start, start + 64)], where))
        errors.append((codec(view)[0] - view).square().mean((1, 2, 3)))
    return float(torch.cat(errors).mean()) if errors else float("nan")


def _pretrained(place: str) -> AutoencoderTiny | AutoencoderKL:
    from diffusers import AutoencoderKL, AutoencoderTiny  # here: diffusers takes seconds to import

    problem: Exception | None = None
    for kind in (AutoencoderTiny, AutoencoderKL):
        try:
            if kind.load_config(place).get("_class_name", kind.__name__) == kind.__name__:
                return kind.from_pretrained(place, use_safetensors=True)
        except (OSError, ValueError) as error:
            problem = error
    raise ModelError(
        "cannot load the pretrained autoencoder",
        where=place,
        expected="a folder or hub name of an AutoencoderTiny or AutoencoderKL as safetensors",
        got=str(problem).splitlines()[0] if problem else "another class",
        do="set diffusion.autoencoder to a local copy, or leave it out to train our own",
    )

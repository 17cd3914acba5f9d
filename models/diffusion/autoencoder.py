"""The autoencoder of latent diffusion: a pretrained one if configured, else a small one that is trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.diffusion_model import in_chunks
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.processes import process_rows
from image_longitudinal.models.training.step_random import seeded_weights
from image_longitudinal.models.vae.augmentation import augmented_batch, centre_views
from image_longitudinal.models.vae.loss import reconstruction_loss, structural_distance

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

LATENT_CHANNELS = 4
SIZE_PENALTY = 1e-3  # on squared latents: keeps their scale finite; they are standardised afterwards
MEASURED_BATCH = 64


class ImageAutoencoder(nn.Module):
    """Deterministic map between grey images (B, 1, S, S), values 0 to 1, and latents (B, C, S/f, S/f)."""

    def __init__(self, network: AutoencoderTiny | AutoencoderKL) -> None:
        super().__init__()
        self.network = network
        config = network.config
        self._tiny = "encoder_block_out_channels" in config  # encodes to latents; the other to a distribution
        levels = config.encoder_block_out_channels if self._tiny else config.block_out_channels
        self.factor = 2 ** (len(levels) - 1)
        self.channels = int(config.latent_channels)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, S/f, S/f) of images."""

        def encode(chunk: Tensor) -> Tensor:
            encoded = self.network.encode(chunk.expand(-1, self.network.config.in_channels, -1, -1) * 2 - 1)
            return encoded.latents if self._tiny else encoded.latent_dist.mean

        return in_chunks(encode, images, images.shape[-1])

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 1, S, S) of latents, not clamped."""

        def decode(chunk: Tensor) -> Tensor:
            return (self.network.decode(chunk).sample.mean(1, keepdim=True) + 1) / 2

        return in_chunks(decode, latents, latents.shape[-1] * self.factor)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and latents."""
        latents = self.encode(images)
        return self.decode(latents), latents


def build_autoencoder(config: DiffusionConfig, seed: int) -> ImageAutoencoder:
    """The configured autoencoder: pretrained weights, or initial ones that depend on the seed alone.

    Raises:
        ModelError: the pretrained one cannot be loaded.
    """
    if config.autoencoder is not None:
        return ImageAutoencoder(_pretrained(config.autoencoder))
    from diffusers import AutoencoderTiny  # here: diffusers takes seconds to import

    levels = config.autoencoder_levels
    with seeded_weights(seed, "autoencoder-weights"):
        network = AutoencoderTiny(
            in_channels=1, out_channels=1, latent_channels=LATENT_CHANNELS,
            encoder_block_out_channels=(config.autoencoder_width,) * levels, num_encoder_blocks=(1,) * levels,
            decoder_block_out_channels=(config.autoencoder_width,) * levels, num_decoder_blocks=(1,) * levels,
        )  # fmt: skip
    return ImageAutoencoder(network)


def train_autoencoder(
    images: ImageRows,
    validation: ImageRows,
    config: DiffusionConfig,
    seed: int,
    checkpoint: Path,
    device: str,
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[ImageAutoencoder, History, float | None]:
    """Train an autoencoder; returns it, its history and its mean squared error on ``validation`` (grey 0 to 1).

    Its loss is the VAE's reconstruction loss (pixels and structure), without a KL term: the diffusion model learns the
    distribution. A pretrained one is only measured.

    Raises:
        ModelError: see :func:`models.training.loop.train`.
    """
    autoencoder = build_autoencoder(config, seed)
    history: History = []
    if config.autoencoder is None:

        def loss(network: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
            batch = augmented_batch(images, config.batch_size, seed, "autoencoder", step, device)[0][process_rows()]
            output, latents = network(batch)
            error = reconstruction_loss(output, batch, structural_distance)
            return {"loss": error + SIZE_PENALTY * latents.square().mean(), "mse": mse_loss(output, batch)}

        settings = LoopSettings(
            steps=config.autoencoder_steps, learning_rate=config.autoencoder_learning_rate,
            mixed_precision=config.mixed_precision, cosine_decay=True, device=device,
        )  # fmt: skip
        autoencoder, history = train("diffusion", autoencoder, loss, settings, checkpoint, report)
    autoencoder.eval().requires_grad_(False)
    return autoencoder, history, _error(autoencoder, validation)


@torch.no_grad()
def _error(autoencoder: ImageAutoencoder, images: ImageRows) -> float | None:
    views = centre_views(images, next(autoencoder.parameters()).device, MEASURED_BATCH)
    errors = [(autoencoder(view)[0] - view).square().mean((1, 2, 3)) for view in views]
    return float(torch.cat(errors).mean()) if errors else None


def _pretrained(source: str) -> AutoencoderTiny | AutoencoderKL:
    from diffusers import AutoencoderKL, AutoencoderTiny  # here: diffusers takes seconds to import

    problem: Exception | None = None
    for kind in (AutoencoderTiny, AutoencoderKL):
        try:
            if kind.load_config(source).get("_class_name", kind.__name__) == kind.__name__:
                return kind.from_pretrained(source, use_safetensors=True)
        except (OSError, ValueError) as error:
            problem = error
    raise ModelError(
        "cannot load the pretrained autoencoder", where=source,
        expected="a folder or hub name of an AutoencoderTiny or AutoencoderKL as safetensors",
        got=str(problem).splitlines()[0] if problem else "another class",
        do="set diffusion.autoencoder to a local copy, or remove it to train a small one",
    )  # fmt: skip

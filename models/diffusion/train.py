"""Training of a diffusion model on posterior samples of a frozen VAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.diffusion.codec import ImageCodec, build_codec, train_codec
from image_longitudinal.models.diffusion.encoded import encode_ahead
from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.diffusion.latent import LatentDiffusion
from image_longitudinal.models.diffusion.loss import EncoderLoss, NoiseLevels, diffusion_loss
from image_longitudinal.models.diffusion.residual import ResidualDiffusion
from image_longitudinal.models.diffusion.sampler import sample
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.training.loop import (
    History,
    LoopSettings,
    TrainingProgress,
    batch_indices,
    begin_with,
    step_generator,
    train,
)
from image_longitudinal.models.training.processes import check_divisible, first_process_first, share
from image_longitudinal.models.training.tensors import ImageRows, default_device, to_unit
from image_longitudinal.models.vae.augment import augment, centre
from image_longitudinal.models.vae.importance import importance
from image_longitudinal.models.vae.network import VAE

SCALE_IMAGES = 512  # images that the residual's scale is measured on
VALIDATION_IMAGES = 256
RECONSTRUCTED_IMAGES, RECONSTRUCTION_STEPS = 16, 10  # held-out scans made anew, and solver steps for each


@dataclass(frozen=True)
class DiffusionFigures:
    """What training left, measured on images of other patients.

    ``validation_loss``: the training loss with fixed noise. ``pixel_mse``, ``working_mse``: images made from what the
    VAE's encoder reads in a scan, against the scan (grey 0 to 1), and the same before decoding. ``codec_mse``:
    reconstruction by the autoencoder of a latent model.
    """

    history: History
    validation_loss: float
    pixel_mse: float | None
    working_mse: float | None
    codec_history: History | None = None
    codec_mse: float | None = None


def train_diffusion(
    vae: VAE,
    images: ImageRows,
    validation: ImageRows,
    config: DiffusionConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
    initial: dict[str, Tensor] | None = None,
) -> tuple[DiffusionModel, DiffusionFigures]:
    """Train the configured diffusion model on uint8 images (n, S, S), each conditioned on a sample of its posterior.

    The original conditioned on posterior *means*, which shrink towards 0 where an entry says little, and then drew from
    N(0, I). Samples have the distribution that generation draws from.

    Args:
        vae: trained and standardised; stays as it is.
        images: training images at ``config.image_size``; may be mapped from disk.
        validation: images of other patients.
        config: architecture, objective and length.
        seed: of initial weights, order, augmentation and noise.
        checkpoint: file to resume from and save to; an autoencoder and what is encoded ahead lie beside it.
        device: where the frozen parts go; accelerate places the trained one.
        report: told of progress.
        initial: weights to begin with, of a denoiser of this architecture; random (or pretrained) ones without them.

    Raises:
        ModelError: see :func:`models.training.loop.train`, :func:`models.training.loop.begin_with` and the models' own.
    """
    check_divisible("diffusion", config.batch_size)
    where = default_device(device)
    vae = vae.to(where).eval()
    codec, codec_history, codec_mse = None, None, None
    if config.kind == "latent":
        codec, codec_history, codec_mse = train_codec(
            images, validation, config, seed, checkpoint.with_name(f"{checkpoint.name}.codec"), device, report
        )
        codec.to(where)
    model = build_diffusion(vae, config, seed, codec)
    if initial is not None:
        begin_with("diffusion", model.denoiser, initial)
    model.to(where)
    if isinstance(model, ResidualDiffusion):
        model.residual_scale = measure_residual_scale(vae, images, config.image_size, seed)
    elif isinstance(model, LatentDiffusion):
        model.standardise(centre(to_unit(_some(images, SCALE_IMAGES), where)))
    levels = NoiseLevels.of(model.schedule)
    encoded = None
    if model.encodes_ahead:
        place = checkpoint.with_name(f"{checkpoint.name}.encoded")
        with first_process_first():
            encoded = encode_ahead(model, vae, images, config.encoded_variants, seed, place)
    objective = partial(
        diffusion_loss,
        model,
        levels=levels,
        min_snr_gamma=config.min_snr_gamma,
        noise_offset=config.noise_offset,
        encoder_loss=_encoder_loss(vae, config.encoder_weight, seed) if config.encoder_weight else None,
    )

    def loss(denoiser: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        draws, rows = step_generator(seed, "diffusion", step), len(images if encoded is None else encoded)
        chosen = batch_indices(rows, config.batch_size, seed, "diffusion", step)
        with torch.no_grad():
            if encoded is None:
                batch = augment(to_unit(images[chosen], device), draws)
                latents = posterior_sample(vae, batch, draws)
                working = model.to_working(batch, latents)
            else:
                working, latents = encoded.batch(chosen, vae, draws, device)
        return objective(denoiser=denoiser, working=working, latents=latents, generator=draws, part=share())

    @torch.no_grad()
    def validation_loss(denoiser: nn.Module) -> float:
        losses = []
        for index, rows in enumerate(np.array_split(_some(validation, VALIDATION_IMAGES), 8)):
            if len(rows):
                batch, draws = centre(to_unit(rows, where)), step_generator(seed, "diffusion-validation", index)
                latents = posterior_sample(vae, batch, draws)
                working = model.to_working(batch, latents)
                losses.append(objective(denoiser=denoiser, working=working, latents=latents, generator=draws)["loss"])
        return float(torch.stack(losses).mean()) if losses else float("nan")

    settings = LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        seed=seed,
        ema_decay=config.ema_decay,
        mixed_precision=config.mixed_precision,
        gradient_accumulation=config.gradient_accumulation,
        cosine_decay=config.learning_rate_decay == "cosine",
        device=device,
        validate_every=config.validate_every,
        patience=config.patience,
    )
    watched = validation_loss if len(validation) else None
    model.denoiser, history = train("diffusion", model.denoiser, loss, settings, checkpoint, report, watched)
    pixel_mse, working_mse = reconstruction_errors(model, vae, _some(validation, RECONSTRUCTED_IMAGES), where)
    figures = DiffusionFigures(
        history, validation_loss(model.denoiser), pixel_mse, working_mse, codec_history, codec_mse
    )
    return model, figures


@torch.no_grad()
def reconstruction_errors(
    model: DiffusionModel, vae: VAE, images: NDArray[np.uint8], device: torch.device
) -> tuple[float | None, float | None]:
    """Mean squared errors, of pixels and of working tensors, of scans made anew from what the encoder reads in them.

    Args:
        model, vae: trained.
        images: uint8 (n, S, S).
        device: of both.

    Returns:
        None for no images.
    """
    if not len(images):
        return None, None
    view = centre(to_unit(images, device))
    mean, _ = vae.posterior(view)
    latents = vae.standardised(mean)
    made = sample(model, latents, np.arange(len(images)), scheduler="ddim", steps=RECONSTRUCTION_STEPS)
    again = to_unit(made, device)
    apart = model.to_working(again, latents) - model.to_working(view, latents)
    return float((again - view).square().mean()), float(apart.square().mean())


def build_diffusion(vae: VAE, config: DiffusionConfig, seed: int, codec: ImageCodec | None = None) -> DiffusionModel:
    """The configured model around a VAE, with initial weights that depend on the seed alone (or pretrained ones).

    Args:
        vae: conditions the model.
        config: which, and how large.
        seed: of the weights.
        codec: the autoencoder of a latent model; without one an untrained one of the right form, to load weights into.
    """
    if config.kind == "stable-diffusion":
        return StableDiffusion(config.pretrained, vae.latent_dim, config.image_size, config.unet)
    if config.kind == "latent" and codec is None:
        codec = build_codec(config, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "diffusion-weights") >> 1)
        if codec is not None:
            return LatentDiffusion(vae, codec, config.image_size, config.channels, config.objective)
        return ResidualDiffusion(vae, config.image_size, config.channels)


def _encoder_loss(vae: VAE, weight: float, seed: int) -> EncoderLoss:
    """How far the encoder can read each entry from the VAE's own image is how much the entry counts."""
    read = torch.tensor(importance(vae, seed).reading_error, device=vae.shift.device)
    return EncoderLoss(vae, (1 - read).clamp(min=0), weight)


def _some(images: ImageRows, count: int) -> NDArray[np.uint8]:
    """At most ``count`` images, spread evenly."""
    return images[np.linspace(0, len(images) - 1, min(len(images), count)).astype(int)]


def posterior_sample(vae: VAE, images: Tensor, generator: torch.Generator) -> Tensor:
    """Standardised latents (B, D) drawn from the posterior of images (B, 1, S, S) of any size."""
    return vae.encode(images, torch.randn(len(images), vae.latent_dim, generator=generator).to(images.device))


@torch.no_grad()
def measure_residual_scale(vae: VAE, images: ImageRows, image_size: int, seed: int) -> float:
    """Standard deviation of x - decode(z) over training images, in units of grey 0 to 1."""
    view = centre(to_unit(_some(images, SCALE_IMAGES), next(vae.parameters()).device))
    outline = vae.decode(posterior_sample(vae, view, step_generator(seed, "residual-scale", 0)))
    outline = interpolate(outline, (image_size, image_size), mode="bilinear", antialias=True)
    return float((view - outline).std())

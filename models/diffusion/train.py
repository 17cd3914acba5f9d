"""Training of a diffusion model on posterior samples of a frozen VAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import interpolate

from core.config import DiffusionConfig
from core.random import stream_key
from models.diffusion.interface import DiffusionModel
from models.diffusion.loss import diffusion_loss
from models.diffusion.residual import ResidualDiffusion
from models.diffusion.stable_diffusion import StableDiffusion
from models.tensors import ImageRows, default_device, to_unit
from models.training import History, LoopSettings, TrainingProgress, batch_indices, step_generator, train
from models.vae.augment import augment, centre
from models.vae.network import VAE

SCALE_IMAGES = 512  # images that the residual's scale is measured on
VALIDATION_IMAGES = 256


@dataclass(frozen=True)
class DiffusionFigures:
    """What training left; ``validation_loss`` is the training loss on other patients with fixed noise."""

    history: History
    validation_loss: float


def train_diffusion(
    vae: VAE,
    images: ImageRows,
    validation: ImageRows,
    config: DiffusionConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
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
        checkpoint: file to resume from and save to.
        device: where the frozen parts go; accelerate places the trained one.
        report: told of progress.

    Raises:
        ModelError: see :func:`models.training.train` and the models' own.
    """
    where = default_device(device)
    vae = vae.to(where).eval()
    model = build_diffusion(vae, config, seed)
    if isinstance(model, ResidualDiffusion):
        model.residual_scale = measure_residual_scale(vae, images, config.image_size, seed)
    model.to(where)
    scheduler = DDPMScheduler(**model.schedule)

    def batch_loss(denoiser: nn.Module, batch: Tensor, generator: torch.Generator, augmented: bool = True) -> Tensor:
        batch = augment(batch, generator) if augmented else centre(batch)
        with torch.no_grad():
            latents = posterior_sample(vae, batch, generator)
            working = model.to_working(batch, latents)
        return diffusion_loss(
            model,
            denoiser,
            scheduler,
            working,
            latents,
            generator,
            min_snr_gamma=config.min_snr_gamma,
            noise_offset=config.noise_offset,
        )

    def loss(denoiser: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        chosen = images[batch_indices(len(images), config.batch_size, seed, "diffusion", step)]
        return {"loss": batch_loss(denoiser, to_unit(chosen, device), step_generator(seed, "diffusion", step))}

    settings = LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        seed=seed,
        ema_decay=config.ema_decay,
        mixed_precision=config.mixed_precision,
        gradient_accumulation=config.gradient_accumulation,
        cosine_decay=config.learning_rate_decay == "cosine",
        device=device,
    )
    model.denoiser, history = train("diffusion", model.denoiser, loss, settings, checkpoint, report)
    with torch.no_grad():
        losses = [
            batch_loss(
                model.denoiser, to_unit(batch, where), step_generator(seed, "diffusion-validation", index), False
            )
            for index, batch in enumerate(np.array_split(validation[slice(VALIDATION_IMAGES)], 8))
            if len(batch)
        ]
    return model, DiffusionFigures(history, float(torch.stack(losses).mean()) if losses else float("nan"))


def build_diffusion(vae: VAE, config: DiffusionConfig, seed: int) -> DiffusionModel:
    """The configured model around a VAE, with initial weights that depend on the seed alone (or pretrained ones)."""
    if config.kind == "stable-diffusion":
        return StableDiffusion(config.pretrained, vae.latent_dim, config.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "diffusion-weights") >> 1)
        return ResidualDiffusion(vae, config.image_size, config.channels)


def posterior_sample(vae: VAE, images: Tensor, generator: torch.Generator) -> Tensor:
    """Standardised latents (B, D) drawn from the posterior of images (B, 1, S, S) of any size."""
    if images.shape[-1] != vae.image_size:
        images = interpolate(images, (vae.image_size, vae.image_size), mode="bilinear", antialias=True)
    noise = torch.randn(len(images), vae.latent_dim, generator=generator).to(images.device)
    return vae.encode(images, noise)


@torch.no_grad()
def measure_residual_scale(vae: VAE, images: ImageRows, image_size: int, seed: int) -> float:
    """Standard deviation of x - decode(z) over training images, in units of grey 0 to 1."""
    chosen = images[np.linspace(0, len(images) - 1, min(len(images), SCALE_IMAGES)).astype(int)]
    view = centre(to_unit(chosen, next(vae.parameters()).device))
    outline = vae.decode(posterior_sample(vae, view, step_generator(seed, "residual-scale", 0)))
    outline = interpolate(outline, (image_size, image_size), mode="bilinear", antialias=True)
    return float((view - outline).std())

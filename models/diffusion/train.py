"""Training of a diffusion model on posterior samples of a frozen VAE."""

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
from image_longitudinal.models.diffusion.autoencoder import ImageAutoencoder, build_autoencoder, train_autoencoder
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.encoded_images import encode_images
from image_longitudinal.models.diffusion.latent_diffusion import LatentDiffusion
from image_longitudinal.models.diffusion.loss import EncoderLoss, diffusion_loss
from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.diffusion.sampler import sample
from image_longitudinal.models.diffusion.schedules import NoiseSchedule
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced, to_unit
from image_longitudinal.models.training.checkpoints import History, load_initial_weights
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.processes import check_divisible, main_process_first, process_rows
from image_longitudinal.models.training.step_random import batch_indices, seeded_weights, step_generator
from image_longitudinal.models.vae.augmentation import augmented_batch, centre_view
from image_longitudinal.models.vae.latent_importance import latent_importance
from image_longitudinal.models.vae.network import VAE

SCALE_IMAGES = 512  # images that the scale of working tensors is measured on
VALIDATION_IMAGES = 256
RECONSTRUCTED_IMAGES, RECONSTRUCTION_STEPS = 16, 10  # held-out scans reconstructed, and solver steps for each


@dataclass(frozen=True)
class DiffusionFigures:
    """Result of a training, measured on images of other patients.

    ``validation_loss``: the training loss with fixed noise. ``pixel_mse``, ``working_mse``: errors of reconstructed
    scans, see :func:`reconstruction_errors`. ``autoencoder_mse``: reconstruction by the autoencoder of a latent model.
    """

    history: History
    validation_loss: float
    pixel_mse: float | None
    working_mse: float | None
    autoencoder_history: History | None = None
    autoencoder_mse: float | None = None


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

    The original conditioned on posterior *means*, which shrink towards 0 in uninformative dimensions, and then sampled
    z from N(0, I). Posterior samples have the distribution that generation uses.

    Args:
        vae: trained and standardised; not changed.
        images: training images at ``config.image_size``; may be memory-mapped.
        validation: images of other patients.
        config: architecture, objective and length.
        seed: of initial weights, order, augmentation and noise.
        checkpoint: file to resume from and save to; the autoencoder's checkpoint and encoded images go beside it.
        device: where the frozen parts go; accelerate places the trained one.
        report: receives the progress.
        initial: weights to start from, of a denoiser of this architecture; random (or pretrained) ones if not given.

    Raises:
        ModelError: see :func:`models.training.loop.train`,
            :func:`models.training.checkpoints.load_initial_weights` and the models' own.
    """
    check_divisible("diffusion", config.batch_size)
    where = default_device(device)
    vae = vae.to(where).eval()
    autoencoder, autoencoder_history, autoencoder_mse = None, None, None
    if config.kind == "latent":
        autoencoder, autoencoder_history, autoencoder_mse = train_autoencoder(
            images, validation, config, seed, checkpoint.with_name(f"{checkpoint.name}.autoencoder"), device, report
        )
        autoencoder.to(where)
    model = build_diffusion(vae, config, seed, autoencoder)
    if initial is not None:
        load_initial_weights("diffusion", model.denoiser, initial)
    model.to(where)
    if isinstance(model, ResidualDiffusion):
        model.residual_scale = measure_residual_scale(vae, images, config.image_size, seed)
    elif isinstance(model, LatentDiffusion):
        model.standardise(centre_view(to_unit(evenly_spaced(images, SCALE_IMAGES), where)))
    encoded = None
    if model.can_encode_ahead:
        with main_process_first():
            path = checkpoint.with_name(f"{checkpoint.name}.encoded")
            encoded = encode_images(model, vae, images, config.encoded_variants, seed, path)
    objective = partial(
        diffusion_loss,
        model,
        schedule=NoiseSchedule.of(model.schedule),
        min_snr_gamma=config.min_snr_gamma,
        noise_offset=config.noise_offset,
        encoder_loss=_encoder_loss(vae, config.encoder_weight, seed) if config.encoder_weight else None,
    )

    def condition(view: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        latents = sample_latents(vae, view, generator)
        return model.to_working(view, latents), latents

    def loss(denoiser: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        with torch.no_grad():
            if encoded is None:
                batch, generator = augmented_batch(images, config.batch_size, seed, "diffusion", step, device)
                working, latents = condition(batch, generator)
            else:
                generator = step_generator(seed, "diffusion", step)
                rows = batch_indices(len(encoded), config.batch_size, seed, "diffusion", step)
                working, latents = encoded.batch(rows, vae, generator, device)
        return objective(denoiser=denoiser, working=working, latents=latents, generator=generator, rows=process_rows())

    @torch.no_grad()
    def validation_loss(denoiser: nn.Module) -> float:
        losses = []
        for index, part in enumerate(np.array_split(evenly_spaced(validation, VALIDATION_IMAGES), 8)):
            if len(part):
                generator = step_generator(seed, "diffusion-validation", index)
                working, latents = condition(centre_view(to_unit(part, where)), generator)
                figures = objective(denoiser=denoiser, working=working, latents=latents, generator=generator)
                losses.append(figures["loss"])
        return float(torch.stack(losses).mean()) if losses else float("nan")

    settings = LoopSettings.of(config, device, cosine_decay=config.learning_rate_decay == "cosine")
    validate = validation_loss if len(validation) else None
    model.denoiser, history = train("diffusion", model.denoiser, loss, settings, checkpoint, report, validate)
    held_out = evenly_spaced(validation, RECONSTRUCTED_IMAGES)
    pixel_mse, working_mse = reconstruction_errors(model, vae, held_out, where)
    figures = DiffusionFigures(
        history, validation_loss(model.denoiser), pixel_mse, working_mse, autoencoder_history, autoencoder_mse
    )
    return model, figures


@torch.no_grad()
def reconstruction_errors(
    model: DiffusionModel, vae: VAE, images: NDArray[np.uint8], device: torch.device
) -> tuple[float | None, float | None]:
    """Mean squared errors of scans that are encoded by the VAE and generated again from the posterior mean.

    Args:
        model, vae: trained.
        images: uint8 (n, S, S).
        device: of both.

    Returns:
        Error of pixels (grey 0 to 1) and of working tensors; None for no images.
    """
    if not len(images):
        return None, None
    view = centre_view(to_unit(images, device))
    mean, _ = vae.posterior(view)
    latents = vae.standardised(mean)
    sampled = sample(model, latents, np.arange(len(images)), scheduler="ddim", steps=RECONSTRUCTION_STEPS)
    generated = to_unit(sampled, device)
    difference = model.to_working(generated, latents) - model.to_working(view, latents)
    return float((generated - view).square().mean()), float(difference.square().mean())


def build_diffusion(
    vae: VAE, config: DiffusionConfig, seed: int, autoencoder: ImageAutoencoder | None = None
) -> DiffusionModel:
    """The configured model around a VAE, with initial weights that depend on the seed alone (or pretrained ones).

    Args:
        vae: conditions the model.
        config: kind and size.
        seed: of the weights.
        autoencoder: of a latent model; if not given, an untrained one of the right shape, to load weights into.
    """
    if config.kind == "stable-diffusion":
        return StableDiffusion(config.pretrained, vae.latent_dim, config.image_size, config.unet)
    if config.kind == "latent" and autoencoder is None:
        autoencoder = build_autoencoder(config, seed)
    with seeded_weights(seed, "diffusion-weights"):
        if autoencoder is not None:
            return LatentDiffusion(vae, autoencoder, config.image_size, config.channels, config.objective)
        return ResidualDiffusion(vae, config.image_size, config.channels)


def _encoder_loss(vae: VAE, weight: float, seed: int) -> EncoderLoss:
    """Each dimension counts as far as the encoder can read it from the VAE's own image."""
    error = torch.tensor(latent_importance(vae, seed).reading_error, device=vae.shift.device)
    return EncoderLoss(vae, (1 - error).clamp(min=0), weight)


def sample_latents(vae: VAE, images: Tensor, generator: torch.Generator) -> Tensor:
    """Standardised latents (B, D) sampled from the posterior of images (B, 1, S, S) of any size, values 0 to 1."""
    return vae.encode(images, torch.randn(len(images), vae.latent_dim, generator=generator).to(images.device))


@torch.no_grad()
def measure_residual_scale(vae: VAE, images: ImageRows, image_size: int, seed: int) -> float:
    """Standard deviation of x - decode(z) over training images, in units of grey 0 to 1."""
    view = centre_view(to_unit(evenly_spaced(images, SCALE_IMAGES), next(vae.parameters()).device))
    decoded = vae.decode(sample_latents(vae, view, step_generator(seed, "residual-scale", 0)))
    decoded = interpolate(decoded, (image_size, image_size), mode="bilinear", antialias=True)
    return float((view - decoded).std())

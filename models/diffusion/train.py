"""Training of a diffusion model on posterior samples of a frozen VAE."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.files import replacing
from image_longitudinal.models.diffusion.adagn import LatentDiffusion, ResidualDiffusion
from image_longitudinal.models.diffusion.autoencoder import ImageAutoencoder, build_autoencoder, train_autoencoder
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.loss import EncoderLoss, diffusion_loss
from image_longitudinal.models.diffusion.schedules import NoiseSchedule
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced, to_unit
from image_longitudinal.models.registry.metadata import DiffusionTraining
from image_longitudinal.models.training.checkpoints import load_initial_weights
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.processes import check_divisible, main_process_first, process_rows
from image_longitudinal.models.training.step_random import batch_indices, seeded_weights, step_generator
from image_longitudinal.models.vae.augmentation import augment, augmented_batch, centre_view
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import latent_importance

SCALE_IMAGES = 512  # images that the scale of working tensors is measured on
VALIDATION_IMAGES = 256
ENCODING_BATCH = 64
RECONSTRUCTED_IMAGES, RECONSTRUCTION_STEPS = 16, 10  # held-out scans reconstructed, and solver steps for each


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
) -> tuple[DiffusionModel, DiffusionTraining]:
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
        ModelError: see :func:`models.training.loop.train` and the models' own; also if ``initial`` does not fit.
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
    encoder_loss = None
    if config.encoder_weight:  # each dimension counts as far as the encoder can read it from the VAE's own image
        error = torch.tensor(latent_importance(vae, seed).reading_error, device=where)
        encoder_loss = EncoderLoss(vae, (1 - error).clamp(min=0), config.encoder_weight)
    objective = partial(
        diffusion_loss, model, schedule=NoiseSchedule.of(model.schedule), min_snr_gamma=config.min_snr_gamma,
        noise_offset=config.noise_offset, encoder_loss=encoder_loss,
    )  # fmt: skip

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
        return float(torch.stack(losses).mean())

    settings = LoopSettings.of(config, device, cosine_decay=config.learning_rate_decay == "cosine")
    validate = validation_loss if len(validation) else None
    model.denoiser, history = train("diffusion", model.denoiser, loss, settings, checkpoint, report, validate)
    held_out = evenly_spaced(validation, RECONSTRUCTED_IMAGES)
    pixel_mse, working_mse = reconstruction_errors(model, vae, held_out, where)
    return model, DiffusionTraining(
        history=history, validation_loss=validate(model.denoiser) if validate else None, pixel_mse=pixel_mse,
        working_mse=working_mse, autoencoder_history=autoencoder_history, autoencoder_mse=autoencoder_mse,
    )  # fmt: skip


@torch.no_grad()
def reconstruction_errors(
    model: DiffusionModel, vae: LatentModel, images: NDArray[np.uint8], device: torch.device
) -> tuple[float | None, float | None]:
    """Mean squared errors of scans (n, S, S) uint8, encoded by the VAE and generated again from the posterior mean.

    Returns the error of pixels (grey 0 to 1) and of working tensors; None for no images.
    """
    if not len(images):
        return None, None
    view = vae.view(to_unit(images, device))
    latents = vae.encode(view)
    seeds = torch.arange(len(images), device=device)
    sampled = sample_on_device(model, latents, seeds, scheduler="ddim", steps=RECONSTRUCTION_STEPS)
    generated = sampled[:, None].float() / 255
    difference = model.to_working(generated, latents) - model.to_working(view, latents)
    return float((generated - view).square().mean()), float(difference.square().mean())


def build_diffusion(
    vae: VAE, config: DiffusionConfig, seed: int, autoencoder: ImageAutoencoder | None = None
) -> DiffusionModel:
    """The configured model around a VAE, with initial weights that depend on the seed alone (or pretrained ones).

    A latent model without a given autoencoder gets an untrained one of the right shape, to load weights into.
    """
    if config.kind == "stable-diffusion":
        return StableDiffusion(config.pretrained, vae.latent_dim, config.image_size, config.unet)
    if config.kind == "latent" and autoencoder is None:
        autoencoder = build_autoencoder(config, seed)
    with seeded_weights(seed, "diffusion-weights"):
        if autoencoder is not None:
            return LatentDiffusion(vae, autoencoder, config.image_size, config.channels, config.objective)
        return ResidualDiffusion(vae, config.image_size, config.channels)


def sample_latents(vae: LatentModel, images: Tensor, generator: torch.Generator) -> Tensor:
    """Standardised latents (B, D) sampled from the posterior of images (B, 1, S, S) of any size, values 0 to 1."""
    return vae.encode(images, torch.randn(len(images), vae.latent_dim, generator=generator).to(images.device))


@torch.no_grad()
def measure_residual_scale(vae: VAE, images: ImageRows, image_size: int, seed: int) -> float:
    """Standard deviation of x - decode(z) over training images, in units of grey 0 to 1."""
    view = centre_view(to_unit(evenly_spaced(images, SCALE_IMAGES), next(vae.parameters()).device))
    decoded = vae.decode(sample_latents(vae, view, step_generator(seed, "residual-scale", 0)))
    decoded = interpolate(decoded, (image_size, image_size), mode="bilinear", antialias=True)
    return float((view - decoded).std())


@dataclass(frozen=True)
class EncodedImages:
    """Working tensors and the posterior of z, encoded once: the steps of training run no autoencoder and no VAE.

    ``working`` float16 (n, C, h, w), ``posterior`` float32 (n, 2, D): mean and log-variance in raw coordinates. Both
    are memory-mapped.
    """

    working: NDArray[np.float16]
    posterior: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.working)

    def batch(
        self, rows: NDArray[np.int64], vae: VAE, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Working tensors (B, C, h, w) float32, and samples of z (B, D) from the posteriors, standardised."""
        mean, log_variance = torch.from_numpy(self.posterior[rows]).unbind(1)
        raw = mean + torch.randn(mean.shape, generator=generator) * (0.5 * log_variance).exp()
        return torch.from_numpy(self.working[rows]).float().to(device), vae.standardised(raw.to(device))


@torch.no_grad()
def encode_images(
    model: DiffusionModel, vae: VAE, images: ImageRows, variants: int, seed: int, path: Path
) -> EncodedImages:
    """Encode ``variants`` augmented views of every image (n, S, S) uint8, or open the files if they exist.

    The model's working tensors must not depend on z (``can_encode_ahead``). The files are ``<path>.working.npy`` and
    ``<path>.posterior.npy``; the seed is that of the augmentation.
    """
    paths = [path.with_name(f"{path.name}.{name}.npy") for name in ("working", "posterior")]
    if not all(file.exists() for file in paths):
        device, n = next(vae.parameters()).device, len(images) * variants
        with ExitStack() as stack:
            new = [stack.enter_context(replacing(file)) for file in paths]
            working = np.lib.format.open_memmap(new[0], "w+", np.float16, (n, *model.working_shape))
            posterior = np.lib.format.open_memmap(new[1], "w+", np.float32, (n, 2, vae.latent_dim))
            for start in range(0, n, ENCODING_BATCH):
                rows = np.arange(start, min(start + ENCODING_BATCH, n))
                batch = augment(to_unit(images[rows % len(images)], device), step_generator(seed, "encoded", start))
                working[rows] = model.to_working(batch, batch.new_zeros(len(batch), vae.latent_dim)).cpu().numpy()
                posterior[rows] = torch.stack(vae.posterior(batch), 1).cpu().numpy()
            working.flush()
            posterior.flush()
    return EncodedImages(*(np.load(file, mmap_mode="r", allow_pickle=False) for file in paths))

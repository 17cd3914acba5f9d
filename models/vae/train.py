"""Training of the VAE, and the figures that describe each latent dimension afterwards."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced
from image_longitudinal.models.registry.metadata import LatentImportance, VAETraining
from image_longitudinal.models.training.checkpoints import load_initial_weights
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.processes import check_divisible, process_rows
from image_longitudinal.models.training.step_random import seeded_weights, step_generator
from image_longitudinal.models.vae.augmentation import augmented_batch, centre_views
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.loss import (
    Perception,
    kl_per_dimension,
    kl_weight,
    kl_with_free_bits,
    make_perception,
    reconstruction_loss,
)
from image_longitudinal.models.vae.network import VAE

ACTIVE_NATS = 0.1  # KL above which a dimension counts as active: below, it carries under a tenth of its variance
EVALUATION_BATCH = 256
DECODED_IMAGES = 1024  # for the change by each dimension: with fewer dimensions, more latents
STANDARDISATION_IMAGES = 4096  # enough for a covariance of 128 dimensions; more makes no visible difference


def train_vae(
    images: ImageRows,
    validation: ImageRows,
    config: VAEConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
    initial: dict[str, Tensor] | None = None,
) -> tuple[VAE, VAETraining]:
    """Train a VAE on uint8 images (n, S, S) and standardise its latent space.

    Args:
        images: training images; may be memory-mapped, one batch is read at a time.
        validation: images of other patients, for the reconstruction error.
        config: architecture, loss weights and length.
        seed: of initial weights, order, augmentation and noise.
        checkpoint, device, report: see :func:`models.training.loop.train`; ``cpu`` avoids an accelerator.
        initial: weights to start from, of a VAE of this architecture; random ones if not given.

    Raises:
        ModelError: see :func:`models.training.loop.train`; also if ``initial`` is of another architecture.
    """
    check_divisible("vae", config.batch_size)
    vae = build_vae(config, seed)
    if initial is not None:
        load_initial_weights("vae", vae, initial)
    perception = make_perception(Path(config.vgg_weights) if config.vgg_weights else None, default_device(device))

    def loss(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        batch, generator = augmented_batch(images, config.batch_size, seed, "vae", step, device)
        noise = torch.randn(len(batch), config.latent_dim, generator=generator).to(device)
        batch, noise = batch[process_rows()], noise[process_rows()]
        output, mean, log_variance = model(batch, noise)
        reconstruction = reconstruction_loss(output, batch, perception)
        kl = kl_per_dimension(mean, log_variance)
        beta = kl_weight(step, config.kl_warmup_steps, config.kl_weight)
        total = reconstruction + beta * kl_with_free_bits(kl, config.free_bits)
        figures = {"reconstruction": reconstruction, "mse": mse_loss(output, batch), "kl": kl.sum()}
        if config.cycle_weight and step >= config.kl_warmup_steps:
            prior = torch.randn(config.batch_size, config.latent_dim, generator=generator).to(device)
            figures["cycle"] = cycle_loss(vae, prior[process_rows()], kl.detach())
            total = total + config.cycle_weight * figures["cycle"]
        return {"loss": total, **figures, "active units": (kl > ACTIVE_NATS).sum().float()}

    settings = LoopSettings.of(config, device, cosine_decay=config.cycle_weight > 0)  # the original's rate is constant

    distance = partial(reconstruction_loss, perception=perception)
    error = partial(reconstruction_error, images=validation, distance=distance) if len(validation) else None
    trained, history = train("vae", vae, loss, settings, checkpoint, report, error)
    kl = standardise(trained, images)
    return trained, VAETraining(
        history=history, kl=sorted(kl.tolist(), reverse=True), active_units=int((kl > ACTIVE_NATS).sum()),
        validation_mse=reconstruction_error(trained, validation) if len(validation) else None,
        perception="vgg16" if config.vgg_weights else "ms-ssim",
    )  # fmt: skip


def build_vae(config: VAEConfig, seed: int) -> VAE:
    """A VAE with the configured architecture and initial weights that depend on the seed alone."""
    with seeded_weights(seed, "vae-weights"):
        vae = VAE(config.image_size, config.latent_dim, config.width, group_norm=config.dp is not None)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time of a step on a CPU
    return vae


def cycle_loss(vae: VAE, prior: Tensor, kl: Tensor) -> Tensor:
    """Squared error of encode(decode(z)) over the active dimensions, z (B, D) from the prior: a scalar.

    The data set samples z from the prior, which the reconstruction loss does not cover; this term does.
    """
    mean, _ = vae.encoder(vae.decoder(prior))
    return ((mean - prior).square() * (kl > ACTIVE_NATS)).sum(1).mean()


@torch.no_grad()
def standardise(vae: VAE, images: ImageRows) -> Tensor:
    """Fit the affine map between raw and standardised latents; returns the KL per raw dimension, (D,), nats.

    Over real images the raw latents have some mean m and covariance C = Cov(mean) + mean of the posterior variances.
    Standardised ones have mean 0 and covariance I, so samples of N(0, I) have the distribution of training. Of all such
    maps this is the one whose dimensions are the eigenvectors of the whitened covariance of posterior means, the most
    informative first: a rotation does not change N(0, I), and gathers into few dimensions the information that training
    distributed over many.
    """
    device = next(vae.parameters()).device
    chosen = evenly_spaced(images, STANDARDISATION_IMAGES)
    posteriors = [vae.encoder(view) for view in centre_views(chosen, device, EVALUATION_BATCH)]
    mean, log_variance = (torch.cat(parts).double() for parts in zip(*posteriors, strict=True))
    between = torch.cov(mean.T).reshape(mean.shape[1], -1)
    factor = torch.linalg.cholesky(between + torch.diag(log_variance.exp().mean(0)))
    whitened = torch.linalg.solve(factor, torch.linalg.solve(factor, between).T)
    _, axes = torch.linalg.eigh((whitened + whitened.T) / 2)
    axes = axes.flip(1)
    # An eigenvector's sign is arbitrary: make its largest component positive, whatever library computed it.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    vae.shift.copy_(mean.mean(0))
    vae.transform.copy_(factor @ axes)
    return kl_per_dimension(mean, log_variance).float().cpu()


@torch.no_grad()
def reconstruction_error(vae: VAE, images: ImageRows, distance: Perception = mse_loss) -> float:
    """Mean distance of decode(encode(x)) from the evaluation views x of uint8 images (n, S, S); NaN for none.

    ``distance`` of two batches (B, 1, S, S) is the mean squared error of grey 0 to 1 unless another is given.
    """
    errors, counts = [], []
    for view in centre_views(images, next(vae.parameters()).device, EVALUATION_BATCH):
        errors.append(float(distance(vae.decode(vae.encode(view)), view)) * len(view))
        counts.append(len(view))
    return sum(errors) / sum(counts) if counts else float("nan")


@torch.no_grad()
def latent_importance(vae: LatentModel, seed: int) -> LatentImportance:
    """The figures of the original's two rankings of a VAE's dimensions, for latents sampled from N(0, I)."""
    device, dim = vae.device, vae.latent_dim
    generator = step_generator(seed, "importance", 0)
    n = max(16, DECODED_IMAGES // dim)
    latents, resampled = (torch.randn(n, dim, generator=generator).to(device) for _ in range(2))
    images = vae.decode(latents)
    change = []
    for index in range(dim):
        changed = latents.clone()
        changed[:, index] = resampled[:, index]
        change.append(float((vae.decode(changed) - images).square().mean()))
    reading_error = (vae.encode(images) - latents).square().mean(0)
    return LatentImportance(change=change, reading_error=reading_error.tolist())

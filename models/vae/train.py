"""Training of the VAE, and the figures that say what became of each latent entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.training.loop import (
    History,
    LoopSettings,
    TrainingProgress,
    batch_indices,
    begin_with,
    step_generator,
    train,
)
from image_longitudinal.models.training.processes import check_divisible, share
from image_longitudinal.models.training.tensors import ImageRows, default_device, to_unit
from image_longitudinal.models.vae.augment import augment, centre
from image_longitudinal.models.vae.loss import (
    Perception,
    charged_kl,
    kl_per_entry,
    kl_weight,
    make_perception,
    reconstruction_loss,
)
from image_longitudinal.models.vae.network import VAE

ACTIVE_NATS = 0.1  # KL above which an entry counts as active: below, it carries under a tenth of its variance
EVALUATION_BATCH = 256
STANDARDISATION_IMAGES = 4096  # enough for a covariance of 128 entries; more changes nothing that can be seen


@dataclass(frozen=True)
class VAEFigures:
    """What training left: ``kl`` in nats per raw entry, descending; errors are mean squared grey levels (0 to 1)."""

    history: History
    kl: list[float]
    active_units: int
    validation_mse: float
    perception: str


def train_vae(
    images: ImageRows,
    validation: ImageRows,
    config: VAEConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
    initial: dict[str, Tensor] | None = None,
) -> tuple[VAE, VAEFigures]:
    """Train a VAE on uint8 images (n, S, S) and standardise its latent space.

    Args:
        images: training images; may be mapped from disk, a batch is read at a time.
        validation: images of other patients, for the reconstruction error.
        config: architecture, loss weights and length.
        seed: of initial weights, order, augmentation and noise.
        checkpoint: file to resume from and save to.
        device: ``cpu`` keeps the training off an accelerator that is there.
        report: told of progress.
        initial: weights to begin with, of a VAE of this architecture; random ones without them.

    Raises:
        ModelError: see :func:`models.training.loop.train` and :func:`models.training.loop.begin_with`.
    """
    check_divisible("vae", config.batch_size)
    vae = build_vae(config, seed)
    if initial is not None:
        begin_with("vae", vae, initial)
    perception = make_perception(Path(config.vgg_weights) if config.vgg_weights else None, default_device(device))

    def loss(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        draws = step_generator(seed, "vae", step)
        batch = to_unit(images[batch_indices(len(images), config.batch_size, seed, "vae", step)], device)
        batch, noise = augment(batch, draws), torch.randn(len(batch), config.latent_dim, generator=draws).to(device)
        batch, noise = batch[share()], noise[share()]
        output, mean, log_variance = model(batch, noise)
        reconstruction = reconstruction_loss(output, batch, perception)
        kl = kl_per_entry(mean, log_variance)
        total = reconstruction + kl_weight(step, config.kl_warmup_steps, config.kl_weight) * charged_kl(
            kl, config.free_bits
        )
        figures = {"reconstruction": reconstruction, "mse": mse_loss(output, batch), "kl": kl.sum()}
        if config.cycle_weight and step >= config.kl_warmup_steps:
            prior = torch.randn(config.batch_size, config.latent_dim, generator=draws).to(device)
            cycle = cycle_loss(vae, prior[share()], kl.detach())
            total = total + config.cycle_weight * cycle
            figures["cycle"] = cycle
        return {"loss": total, **figures, "active units": (kl > ACTIVE_NATS).sum().float()}

    settings = LoopSettings(
        steps=config.steps,
        learning_rate=config.learning_rate,
        seed=seed,
        mixed_precision=config.mixed_precision,
        gradient_accumulation=config.gradient_accumulation,
        cosine_decay=config.cycle_weight > 0,  # the original's rate is constant
        device=device,
        validate_every=config.validate_every,
        patience=config.patience,
    )

    def error(network: nn.Module) -> float:
        assert isinstance(network, VAE)
        return reconstruction_error(network, validation, partial(reconstruction_loss, perception=perception))

    trained, history = train("vae", vae, loss, settings, checkpoint, report, error if len(validation) else None)
    assert isinstance(trained, VAE)
    kl = standardise(trained, images)
    figures = VAEFigures(
        history=history,
        kl=sorted(kl.tolist(), reverse=True),
        active_units=int((kl > ACTIVE_NATS).sum()),
        validation_mse=reconstruction_error(trained, validation),
        perception="vgg16" if config.vgg_weights else "ms-ssim",
    )
    return trained, figures


def build_vae(config: VAEConfig, seed: int) -> VAE:
    """A VAE with the configured architecture and initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "vae-weights") >> 1)
        vae = VAE(config.image_size, config.latent_dim, config.width)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time of a step on a CPU
    return vae


def cycle_loss(vae: VAE, prior: Tensor, kl: Tensor) -> Tensor:
    """Squared error of encode(decode(z)) over the active entries, z (B, D) from the prior: a scalar.

    The data set draws z from the prior, where the reconstruction loss never looks; this term does.
    """
    mean, _ = vae.encoder(vae.decoder(prior))
    return ((mean - prior).square() * (kl > ACTIVE_NATS)).sum(1).mean()


@torch.no_grad()
def standardise(vae: VAE, images: ImageRows) -> Tensor:
    """Fit the affine map between raw and standardised latents; returns the KL per raw entry, (D,), nats.

    Over real images the raw latents have some mean m and covariance C = Cov(mean) + mean of the posterior variances.
    Standardised ones have mean 0 and covariance I: what is drawn from N(0, I) is then what training saw. Among all such
    maps it takes the one whose entries are the principal axes of what the image says (eigenvectors of the whitened
    covariance of posterior means, most informative first): a rotation leaves N(0, I) as it is, and gathers what
    training spread over many entries into few.
    """
    device = next(vae.parameters()).device
    chosen = images[np.linspace(0, len(images) - 1, min(len(images), STANDARDISATION_IMAGES)).astype(int)]
    posteriors = [vae.encoder(centre(to_unit(batch, device))) for batch in _batches(chosen)]
    mean, log_variance = (torch.cat(parts).double() for parts in zip(*posteriors, strict=True))
    between = torch.cov(mean.T).reshape(mean.shape[1], -1)
    factor = torch.linalg.cholesky(between + torch.diag(log_variance.exp().mean(0)))
    whitened = torch.linalg.solve(factor, torch.linalg.solve(factor, between).T)
    _, axes = torch.linalg.eigh((whitened + whitened.T) / 2)
    axes = axes.flip(1)
    # An eigenvector's sign is arbitrary: let its largest component be positive, whatever library computed it.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    vae.shift.copy_(mean.mean(0))
    vae.transform.copy_(factor @ axes)
    return kl_per_entry(mean, log_variance).float().cpu()


@torch.no_grad()
def reconstruction_error(vae: VAE, images: ImageRows, distance: Perception = mse_loss) -> float:
    """Distance (mean squared error unless another is given) of decode(encode(x)) from the evaluation views x.

    Of uint8 images (n, S, S); NaN for none.
    """
    device = next(vae.parameters()).device
    errors, counts = [], []
    for batch in _batches(images):
        view = centre(to_unit(batch, device))
        errors.append(float(distance(vae.decode(vae.encode(view)), view)) * len(batch))
        counts.append(len(batch))
    return sum(errors) / sum(counts) if counts else float("nan")


def _batches(images: ImageRows) -> list[NDArray[np.uint8]]:
    return [images[start : start + EVALUATION_BATCH] for start in range(0, len(images), EVALUATION_BATCH)]

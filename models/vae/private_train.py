"""Differentially private training of the VAE: what is known of a patient's scans by its weights is bounded.

Nothing else looks at the training scans: figures along the way are of phantoms, and the latent space stays that of the
prior, z ~ N(0, I), where :func:`models.vae.train.standardise` would fit it to the scans.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, as_grey_levels, to_unit
from image_longitudinal.models.registry.metadata import PrivacyFigures, VAETraining
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.privacy_accounting import planned_privacy
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.augmentation import augment, centre_view
from image_longitudinal.models.vae.loss import (
    Perception,
    kl_per_dimension,
    kl_weight,
    kl_with_free_bits,
    make_perception,
    reconstruction_loss,
)
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.private_gradient import (
    Parameters,
    clipped_sum,
    sampled_scans,
    secret_generator,
    with_noise,
)
from image_longitudinal.models.vae.train import ACTIVE_NATS, build_vae, reconstruction_error

EMA_DECAY = 0.99  # averaging noisy weights costs no privacy and takes noise away (De et al. 2022, arXiv 2204.13650)
PUBLIC_IMAGES = 8  # phantoms that show the progress
DECODED_IMAGES = 1024  # of which the KL is measured
BATCH = 64


def train_private_vae(
    images: ImageRows,
    patients: NDArray[np.int64],
    validation: ImageRows,
    config: VAEConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
    generators: Callable[[], torch.Generator] = secret_generator,
) -> tuple[VAE, VAETraining]:
    """Train a VAE by DP-SGD on uint8 images (n, S, S), so that ``config.dp`` holds for each patient.

    Samples, augmentation and noise are secret: the same seed gives the same initial weights and nothing else.

    Args:
        images: training images.
        patients: number of the patient of each, (n,).
        validation: images of other patients, for the reconstruction error at the end.
        config: with ``dp``; ``batch_size`` is the number of patients that a step has on average, and free bits are of
            each image alone.
        seed: of the initial weights.
        checkpoint, device, report: see :func:`models.training.loop.train`.
        generators: a new generator (CPU) for every step; only a test may give others than secret ones.

    Raises:
        MissingExtraError: opacus is not installed.
        ModelError: there are too few patients, several processes, or see :func:`models.training.loop.train`.
    """
    assert config.dp is not None
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ModelError("private training runs in one process", where="vae.dp", do="set compute.render_processes=1")
    privacy = planned_privacy(config.dp, len(np.unique(patients)), config.batch_size, config.steps)
    vae = build_vae(config, seed)
    perception = make_perception(Path(config.vgg_weights) if config.vgg_weights else None, default_device(device))
    public = _public_views(config.image_size)

    def private_step(model: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        """Set the gradients of a step; its figures are those of phantoms."""
        generator = generators()
        rows = sampled_scans(patients, privacy.sampling_rate, generator)
        batch = augment(to_unit(images[rows], device), generator)
        noise = torch.randn(len(rows), config.latent_dim, generator=generator).to(device)
        loss = partial(image_loss, model, config=config, step=step, perception=perception)
        parameters = dict(model.named_parameters())
        total = clipped_sum(loss, parameters, batch, noise, privacy.max_grad_norm)
        deviation = privacy.noise_multiplier * privacy.max_grad_norm
        for name, value in with_noise(total, deviation, config.batch_size, generator).items():
            parameters[name].grad = value
        with torch.no_grad():
            view = public.to(device)
            shown = model(view, torch.zeros(len(view), config.latent_dim, device=device))[0]
        return {"loss": reconstruction_loss(shown, view, perception), "mse": mse_loss(shown, view)}

    settings = LoopSettings.of(config, device, ema_decay=EMA_DECAY, ema_warmup=True, max_grad_norm=math.inf)
    trained, history = train("vae", vae, private_step, settings, checkpoint, report)
    return trained, _figures(trained, history, validation, privacy, config, seed)


def image_loss(
    model: nn.Module,
    parameters: Parameters,
    image: Tensor,
    noise: Tensor,
    *,
    config: VAEConfig,
    step: int,
    perception: Perception,
) -> Tensor:
    """The VAE's loss of one image (1, S, S), values 0 to 1, with posterior noise (D,), at these weights: a scalar."""
    target = image[None]
    output, mean, log_variance = functional_call(model, dict(parameters), (target, noise[None]))
    kl = kl_with_free_bits(kl_per_dimension(mean, log_variance), config.free_bits)
    beta = kl_weight(step, config.kl_warmup_steps, config.kl_weight)
    return reconstruction_loss(output, target, perception) + beta * kl


def _public_views(size: int) -> Tensor:
    """Phantoms (n, 1, S, S) as the VAE sees images: they are made from no patient."""
    ids = np.arange(PUBLIC_IMAGES)
    latents = normals(stream_key(0, "public phantoms"), ids, len(phantom.LATENT_NAMES))
    return centre_view(to_unit(phantom.render(latents, ids, size), "cpu"))


@torch.no_grad()
def _figures(
    vae: VAE,
    history: list[dict[str, float]],
    validation: ImageRows,
    privacy: PrivacyFigures,
    config: VAEConfig,
    seed: int,
) -> VAETraining:
    """The figures of a training; the KL is that of images which the VAE itself makes of z ~ N(0, I)."""
    prior = torch.randn(DECODED_IMAGES, config.latent_dim, generator=step_generator(seed, "vae-generated", 0))
    posteriors = []
    for z in prior.split(BATCH):
        levels = as_grey_levels(vae.decode(z.to(vae.device))).cpu().numpy()
        posteriors.append(vae.posterior(to_unit(levels, vae.device)))
    kl = kl_per_dimension(*(torch.cat(parts) for parts in zip(*posteriors, strict=True)))
    return VAETraining(
        history=history, kl=sorted(kl.tolist(), reverse=True), active_units=int((kl > ACTIVE_NATS).sum()),
        validation_mse=reconstruction_error(vae, validation) if len(validation) else None,
        perception="vgg16" if config.vgg_weights else "ms-ssim", privacy=privacy,
    )  # fmt: skip
